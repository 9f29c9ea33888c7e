"""Stops a search whose first trials all fail alike: a fault of the user's code or data, which further trials repeat."""

from __future__ import annotations

import math
import time

from atoll.analysis.failures import first_line, kind_of, user_frame
from atoll.platform.launch import running
from atoll.platform.study.study import Study
from atoll.storage.events import Event, TrialEnded
from atoll.storage.folder import StudyFolder
from atoll.storage.launches import JournalTail

FEWEST = 3
_TRAINED = ("complete", "pruned")


class FirstTrials:
    """Follows the journals of a search until one of its trials has trained, or its first ones have failed alike.

    As many trials as there are workers decide, and three at least. Lost trials do not count. Failures from before a
    resume do not count either, as the user may have mended their cause; a trial that trained before it does.

    Args:
        folder: the study's files, before the ranks start.
        study: the study; with its keep_going, nothing is stopped.

    Attributes:
        reason: why the search was asked to stop; None if it was not.
        is_unheard: whether the request could not be written, as on a full disk; each look tries again.
    """

    INTERVAL = 0.2

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self._folder = folder
        self._num_wanted = max(FEWEST, study.topology.shape().num_workers)
        self._tail = JournalTail(folder.journals)
        self._failures: list[TrialEnded] = []
        self._looked = -math.inf
        self._is_decided = study.keep_going or self._has_trained_before()
        self.reason: str | None = None
        self.is_unheard = False

    def _has_trained_before(self) -> bool:
        """Pass over the lines from before this start, up to a trial that has trained."""
        while events := self._new_events():
            if any(isinstance(event, TrialEnded) and event.state in _TRAINED for event in events):
                return True
        return False

    def _new_events(self) -> list[Event]:
        chunks = self._tail.read()
        self._tail.advance(chunks)
        return [event for chunk in chunks.values() for event in chunk.events]

    def look(self) -> None:
        """Read the new lines, and request a stop if the first trials have failed alike. Cheap: to be called often."""
        if (self._is_decided and not self.is_unheard) or time.monotonic() - self._looked < self.INTERVAL:
            return
        self._looked = time.monotonic()
        if self._is_decided:
            self._ask()
            return
        ended = [event for event in self._new_events() if isinstance(event, TrialEnded)]
        self._failures += [event for event in ended if event.state == "failed"]
        kinds = {kind_of(failure.reason) for failure in self._failures}
        if len(kinds) > 1 or any(event.state in _TRAINED for event in ended):
            self._is_decided = True
        elif len(self._failures) >= self._num_wanted:
            self._is_decided = True
            self.reason = _reason(self._num_wanted, min(self._failures, key=lambda failure: failure.time))
            self._ask()

    def _ask(self) -> None:
        try:
            running.request_stop(self._folder)
        except OSError:  # an exception here would end the launcher, and leave the search without an end
            self.is_unheard = True
        else:
            self.is_unheard = False


def _reason(count: int, first: TrialEnded) -> str:
    frame = user_frame(first.traceback)
    place = f", at {frame}" if frame else ""
    return (
        f"the first {count} trials failed alike: {first_line(first.reason)}{place}; correct the cause and repeat the "
        "command with --resume, or add --keep-going to search regardless"
    )
