"""The optional packages that commands need."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.platform.launch.errors import LaunchError

ANALYSIS = {"scipy": "scipy", "scikit_posthocs": "scikit-posthocs", "baycomp": "baycomp"}

REQUIRED = {
    "mpi4py": "mpi4py",
    "torch": "torch",
    "propulate": "propulate",
    "cmaes": "cmaes",
    "sortedcontainers": "sortedcontainers",
}


def require_search_extra() -> None:
    """Raise LaunchError unless the `search` extra is installed."""
    if missing := _missing(REQUIRED):
        raise LaunchError(
            f"a search needs {missing}; install with `python -m pip install -c constraints.txt -e "
            '".[search]"` (Python 3.11 or 3.12)'
        )


def require_analysis_extra() -> None:
    """Raise LaunchError unless the `analysis` extra is installed."""
    if missing := _missing(ANALYSIS):
        raise LaunchError(
            f"comparing methods needs {missing}; install with `python -m pip install -c constraints.txt -e "
            '".[analysis]"`'
        )


def _missing(modules: Mapping[str, str]) -> str:
    import importlib.util

    return ", ".join(package for module, package in modules.items() if importlib.util.find_spec(module) is None)
