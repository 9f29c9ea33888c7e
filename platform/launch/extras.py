"""The optional packages that commands need."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.platform.launch.errors import LaunchError

ANALYSIS = {"scipy": "scipy", "scikit_posthocs": "scikit-posthocs", "baycomp": "baycomp"}

REQUIRED = {
    "mpi4py": "mpi4py",
    "torch": "torch",
    "cmaes": "cmaes",
    "sortedcontainers": "sortedcontainers",
    "safetensors": "safetensors",
}


# The module of each service that `on_trial` knows, by its extra.
LIVE = {"tensorboard": {"tensorboard": "tensorboard"}, "mlflow": {"mlflow": "mlflow"}}

# The extra that has each module, whose absence a base install is told.
_EXTRAS = {
    **dict.fromkeys((*REQUIRED, "propulate", "sklearn"), "search"),
    **dict.fromkeys(ANALYSIS, "analysis"),
    "transformers": "models",
    "soundfile": "speech",
    "PIL": "earth",
    "psycopg": "postgres",
    "pyarrow": "parquet",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
}


def advice(error: ModuleNotFoundError) -> str | None:
    """What to install, if the missing module is one of an extra; None for any other."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    return None if extra is None else f"this needs {module}, which is not installed; {_install(extra)}"


def require_search_extra() -> None:
    """Raise LaunchError unless the `search` extra is installed."""
    if missing := _missing(REQUIRED):
        raise LaunchError(f"a search needs {missing}; {_install('search')}")


def require_analysis_extra() -> None:
    """Raise LaunchError unless the `analysis` extra is installed."""
    if missing := _missing(ANALYSIS):
        raise LaunchError(f"comparing methods needs {missing}; {_install('analysis')}")


def require_live_extra(service: str) -> None:
    """Raise LaunchError unless the extra of a service of `on_trial` is installed."""
    if missing := _missing(LIVE[service]):
        raise LaunchError(
            f"on_trial: {service} needs {missing}, which is not installed; {_install(service)}, or use another of "
            "tensorboard:DIR, mlflow:URI or a command"
        )


def _install(extra: str) -> str:
    return f'install with `python -m pip install -c constraints.txt -e ".[{extra}]"`'


def _missing(modules: Mapping[str, str]) -> str:
    return ", ".join(package for module, package in modules.items() if not is_installed(module))


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    import importlib.util

    return importlib.util.find_spec(module) is not None
