"""Signals that ask a search to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.platform import stop_signals


@contextmanager
def _on_stop_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Call `handler` on stop signals; only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = stop_signals.handle(handler)
    try:
        yield
    finally:
        stop_signals.put_back(former)


@contextmanager
def noting_signals() -> Iterator[threading.Event]:
    """Between searches: a stop signal sets the event instead of ending this process."""
    asked = threading.Event()
    with _on_stop_signals(lambda _number, _frame: asked.set()):
        yield asked


@contextmanager
def stop_on_signals(request: Path) -> Iterator[threading.Event]:
    """The first signal requests a clean stop by making a file; a second interrupt sets the event, for an immediate end.

    So does the first one if the request cannot be written, as on a full disk: an exception here would end anything.
    """
    hurry = threading.Event()

    def asked(number: int, _frame: object) -> None:
        if number == signal.SIGINT and request.exists():
            hurry.set()
        try:
            request.touch()
        except OSError:
            hurry.set()

    with _on_stop_signals(asked):
        yield hurry
