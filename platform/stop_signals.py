"""The signals that ask a search to stop, from the first moment of a process: imports may take most of a minute."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from atoll.platform.exit_codes import EXIT_STOPPED

# Slurm, PBS and LSF send the one that the job script names, often USR1 or USR2; a user's terminal INT, QUIT or HUP.
STOP_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT,
)  # fmt: skip

SEARCHING = ("search", "quickstart", "benchmark", "join")  # the commands that handle stop signals


def handle(handler: Callable[[int, object], None]) -> dict[int, Any]:
    """Call `handler` on stop signals, in the main thread; returns the former handlers.

    What was ignored when the process started stays ignored: `nohup` ignores HUP, a script's `&` INT and QUIT.
    """
    before: dict[int, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    mine = {number: former for number, former in before.items() if former is not signal.SIG_IGN}
    for number in mine:
        signal.signal(number, handler)
    return mine


def put_back(former: dict[int, Any]) -> None:
    """Restore the handlers that `handle` has returned."""
    for number, handler in former.items():
        if handler is not None:  # otherwise it was not Python's
            signal.signal(number, handler)


def end_on_signals(arguments: list[str]) -> dict[int, Any]:
    """Until a search handles stop signals, they end its process: nothing is running, so the command can be repeated.

    Returns the former handlers.

    Args:
        arguments: the command line, without the program; other commands than those that search keep their handlers.
    """
    return handle(_end) if arguments[:1] and arguments[0] in SEARCHING else {}


def _end(number: int, _frame: object) -> None:
    print(f"stopped by {signal.Signals(number).name} while no trial was running", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_STOPPED)
