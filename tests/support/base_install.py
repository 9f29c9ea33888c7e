"""Runs commands as on a base install: python base_install.py COMMAND ... has none of the optional packages.

`--each` reads commands from the standard input, a JSON list of their arguments, and prints a JSON list of [code,
stdout, stderr] of each.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

HIDDEN = {
    "torch", "mpi4py", "mpich", "propulate", "cmaes", "sortedcontainers", "sklearn", "transformers", "soundfile", "PIL",
    "psycopg", "pyarrow", "scipy", "scikit_posthocs", "baycomp", "gunicorn", "pgserver", "playwright", "pytest",
    "psutil",
}  # fmt: skip


class Hiding:
    """A finder that does not find them."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        # A finder's other methods, such as that for the metadata of packages, are its own.
        return None if name.partition(".")[0] in HIDDEN else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def outcome(arguments: list[str]) -> tuple[object, str, str]:
    """What a command returns and prints."""
    from atoll.platform import cli

    sys.argv = ["atoll", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    if sys.argv[1:] == ["--each"]:
        print(json.dumps([outcome(arguments) for arguments in json.load(sys.stdin)]))
    else:
        from atoll.platform import cli

        cli.main()
