"""The command line: runs a command, and turns a known error into a message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from rich.console import Console

from atoll.platform import stop_signals
from atoll.platform.commands import (  # noqa: F401  (they register)
    batch,
    changing,
    compare,
    importing,
    information,
    reading,
    results,
    search,
)
from atoll.platform.commands.shared import app
from atoll.platform.exit_codes import FAILURE, USAGE


def main() -> NoReturn:
    """Run a command; a known error becomes a message and an exit code."""
    former = stop_signals.end_on_signals(sys.argv[1:])
    _open_standard_streams()
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        told = f"error: {_words(error)}"
        Console(stderr=True, soft_wrap=True, highlight=False).print(told, style="red", markup=False)
        raise SystemExit(code) from None
    finally:
        stop_signals.put_back(former)
    raise SystemExit(0)


def _open_standard_streams() -> None:
    """Give a process that was started without standard streams, as by `>&-`, some that lead nowhere.

    Otherwise the next file to be opened, such as the store or the lock, would be its standard output.
    """
    for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            file = os.open(os.devnull, mode)
            if file != number:
                os.dup2(file, number, inheritable=True)
                os.close(file)
            os.set_inheritable(number, True)
            stream = os.fdopen(number, "r" if mode == os.O_RDONLY else "w", closefd=False)
            setattr(sys, name, stream)


def _words(error: Exception) -> str:
    from atoll.platform.launch import extras

    advice = extras.advice(error) if isinstance(error, ModuleNotFoundError) else None
    return advice or str(error)


def _exit_code(error: Exception) -> int | None:
    from sqlalchemy.exc import DBAPIError

    from atoll.platform.batch.systems import SystemUnavailable
    from atoll.platform.launch import extras
    from atoll.platform.launch.errors import LaunchError
    from atoll.storage.lock import Locked
    from atoll.storage.store import StoreError
    from atoll.storage.yamlfile import FileError

    if isinstance(error, ModuleNotFoundError):
        return None if extras.advice(error) is None else FAILURE
    if isinstance(error, FileError):
        return USAGE
    if isinstance(error, StoreError | LaunchError | Locked | DBAPIError | OSError | SystemUnavailable):
        return FAILURE
    return USAGE if isinstance(error, ValueError) else None


if __name__ == "__main__":
    main()
