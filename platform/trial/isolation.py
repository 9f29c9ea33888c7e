"""One trial does not reach the next: what user code changes in a rank's process is put back, and told.

Ranks that are threads of one process (`--in-process`) put back only what each thread has for itself: the rest may be in
use by another rank's trial. State of user code, such as its modules' globals and its own classes, stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from atoll.platform.trial.process_state import ITEMS, Item, StandardFiles, changed_attributes, torchs_attributes
from atoll.storage.events import CHANGED


def owns_process() -> bool:
    """Whether this rank is a process; a rank that is a thread shares its process with other ranks' trials."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def isolated(notes: list[str]) -> Iterator[None]:
    """Put back, at the end, what the body has changed in this process.

    Args:
        notes: receives a sentence for each change that was found.
    """
    is_alone = owns_process()
    items = [item for item in ITEMS if is_alone or item.of_thread]
    before = [item.read() for item in items]
    files = StandardFiles() if is_alone else None
    if is_alone:
        torchs_attributes()  # reads them, the first time
    ends = _EndsOfChildren() if is_alone else None
    try:
        try:
            yield
        finally:
            if ends is not None:
                ends.put_back()
    finally:
        if files is not None:
            notes += [f"{CHANGED} {name}; put back" for name in files.restore()]
        for item, state in zip(items, before, strict=True):
            _put_back(item, state, notes)
        if is_alone and (changed := changed_attributes()):
            notes.append(f"{CHANGED} {', '.join(changed)}; put back")


class _EndsOfChildren:
    """What happens when a process that a trial has started ends.

    torch's handler of SIGCHLD, which it sets once, raises if a process that loads data fails: this must not come after
    the trial, when the rank is at its own work, nor while its state is being put back.
    """

    _of_trials: ClassVar[list[Any]] = []  # the handler that the last trial has left, if any

    def __init__(self) -> None:
        self._before = signal.getsignal(signal.SIGCHLD)
        if self._before is not None and self._of_trials:  # None: it is not Python's
            signal.signal(signal.SIGCHLD, self._of_trials[0])

    def put_back(self) -> None:
        """Leave the handler to the next trial."""
        if self._before is None:
            return
        self._of_trials[:] = [signal.getsignal(signal.SIGCHLD)]
        while signal.getsignal(signal.SIGCHLD) is not self._before:
            with contextlib.suppress(Exception):  # of the handler
                signal.signal(signal.SIGCHLD, self._before)


def _put_back(item: Item, before: Any, notes: list[str]) -> None:
    try:
        if not item.is_told:
            item.write(before)
            return
        now = item.read()
        if now == before:
            return
        values = f" from {before} to {now}" if item.shows else _names(before, now)
        item.write(before)
    except Exception as error:  # such as a folder that is gone: the next trial is told by its own failure, if any
        notes.append(f"{CHANGED} {item.name}, which cannot be put back: {type(error).__name__}: {error}")
    else:
        notes.append(f"{CHANGED} {item.name}{values}; put back")


def _names(before: Any, now: Any) -> str:
    """The keys that differ, without their values: the environment may hold secrets."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return ""
    keys = sorted(os.fsdecode(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return f" ({', '.join(keys)})"
