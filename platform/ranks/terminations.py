"""SIGTERM to ranks: a request to stop from outside, or a process manager that ends the ranks after the death of one.

MPICH's mpiexec kills the ranks that are left when one has died. Open MPI's terminates them first, as it does on a
signal to itself, and kills them a quarter of a second later. What tells the two apart is the rank that died by itself:
it has not been asked to end. So each rank notes SIGTERM in a file of its own, and the launcher counts.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from atoll.storage.folder import StudyFolder

INTERVAL = 1.0  # seconds between two looks at the notes while the ranks live
# What ends ranks takes less: if only some were asked, and all live on, somebody has sent the signal to these.
PATIENCE = 5.0

_file = -1  # of this process, which is a rank


def note_terminations(notes: Path) -> bool:
    """Note each SIGTERM of this process in a file from now on; returns whether that is possible: not on a full disk.

    Python's own handler writes the signal's number, at once: a handler in Python would wait until a step in C is over.
    """
    global _file
    try:
        notes.parent.mkdir(parents=True, exist_ok=True)
        _file = os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError:
        return False
    signal.set_wakeup_fd(_file, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=note_no_more)
    return True


def note_again() -> None:
    """Note SIGTERM from its handler in Python: user code, such as asyncio's, may have taken Python's own away."""
    if _file >= 0:
        os.write(_file, bytes([signal.SIGTERM]))


def note_no_more() -> None:
    """This process ends by itself, or is forked by a rank: what it gets from now on tells nothing."""
    global _file
    if _file >= 0:
        signal.set_wakeup_fd(-1)
        os.close(_file)
        _file = -1


class Terminations:
    """The launcher's view of one start of the ranks.

    Args:
        folder: the study's files.
        launch: this start's launch.
        num_ranks: the number of its ranks.
    """

    def __init__(self, folder: StudyFolder, launch: int, num_ranks: int) -> None:
        self._folder = folder
        self._launch = launch
        self._num_ranks = num_ranks
        self._looked = time.monotonic()
        self._since: float | None = None

    def clear(self) -> None:
        """Remove the notes."""
        for path in self._folder.all_signals(self._launch):
            path.unlink(missing_ok=True)

    def asked(self) -> set[tuple[str, int]]:
        """Host and number of each rank's process that was asked to end."""
        found = set()
        for path in self._folder.all_signals(self._launch):
            if signal.SIGTERM in path.read_bytes():
                hostname, _, process = path.stem.partition(".")[2].rpartition(".")
                found.add((hostname, int(process)))
        return found

    def is_request(self) -> bool:
        """Whether every rank was asked to end, so that none died before: somebody wants the search to stop."""
        return self.are_all(self.asked())

    def are_all(self, asked: Collection[tuple[str, int]]) -> bool:
        """Whether these are all ranks."""
        return len(asked) >= self._num_ranks

    def is_request_to_living(self) -> bool:
        """The same while the ranks live; one that lives on for long after it was asked to end was asked by somebody."""
        now = time.monotonic()
        if now - self._looked < INTERVAL:
            return False
        self._looked = now
        asked = self.asked()
        if asked and self._since is None:
            self._since = now
        return bool(asked) and (self.are_all(asked) or now - (self._since or now) > PATIENCE)
