"""Stops trials early: asynchronous successive halving (ASHA; Li et al. 2020) and median stopping (Golovin et al. 2017).

At each rung, a trial is compared with all trials that have reached it so far on any worker. The roots exchange their
values over MPI, without a database. This is the stopping variant of ASHA: a trial among the best 1/factor of its rung
continues, any other stops. No trial waits for a rung to fill, and no stopped trial is continued; `promotion.py` has the
variant that pauses and continues.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from atoll.platform.search.heard import Kind, Notes
from atoll.platform.study.pruning import Pruning

if TYPE_CHECKING:
    from atoll.communication.mailbox import Mailbox
    from atoll.platform.study.judged import Judged
    from atoll.platform.trial.progress import Progress
    from atoll.storage.events import ProgressReported

RUNG = 31


class Pruner:
    """The values that the search's trials have reached, as one worker's root knows them, and its decisions.

    Args:
        settings: the study's settings.
        rule, while_falling: the settings' values, or the method's.
        judged: the value that is compared.
        roots: the mailbox of all roots.
        heard: notes the other workers' reports, and when this worker's are judged.
    """

    def __init__(
        self,
        settings: Pruning,
        rule: str,
        while_falling: bool,
        judged: Judged,
        roots: Mailbox,
        heard: Notes | None = None,
    ) -> None:
        self._settings = settings
        self._rule = rule
        self._while_falling = while_falling
        self._judged = judged
        self._roots = roots
        self._heard = Notes() if heard is None else heard
        self._rungs: dict[float, list[float]] = {}  # values of all trials at a rung, sorted
        self._curves: dict[int, list[tuple[float, float]]] = {}  # fidelity and value of every report, for the median
        self._reached: dict[int, float] = {}
        self._number = -1
        self._is_behind = False
        self._least_loss = math.inf

    def replay(self, number: int, report: ProgressReported) -> None:
        """Learn from an ended trial's report before a resume."""
        if (value := self._judged.loss(report)) is not None:
            self._learn(number, self._fidelity(report), value)

    def is_compared(self, report: ProgressReported) -> bool:
        """Whether a report has the value that is compared."""
        return self._judged.value(report) is not None

    def start(self, number: int, *, continues: bool = False) -> None:
        """A trial starts on this worker; one that continues a result is not judged again where it was."""
        self._number, self._is_behind, self._least_loss = number, False, math.inf
        if not continues:
            self._reached.pop(number, None)

    def take_in_repeated(self, progress: Progress) -> None:
        """Take in a report from before a checkpoint: it was not pruned then, but may be behind later."""
        self.receive()
        self._heard.add(Kind.REPEATED)
        now = self._fidelity(progress)
        if now > self._reached.get(self._number, 0.0):
            self._decide(progress)

    def prunes(self, progress: Progress) -> bool:
        """Whether the reporting trial is to stop now; sends its value to the other roots."""
        self.receive()
        self._heard.add(Kind.JUDGED)
        return self._decide(progress)

    def _decide(self, progress: Progress) -> bool:
        if (value := self._judged.loss(progress)) is None:  # not evaluated
            return False
        fidelity = self._fidelity(progress)
        for rung in self._passed(self._reached.get(self._number, 0.0), fidelity):
            self._is_behind = self._judge(rung, value)
        report = self._number, fidelity, value
        self._learn(*report)
        self._roots.send_to(self._roots.others(), report, RUNG)
        falls = progress.train_loss < self._least_loss
        self._least_loss = min(self._least_loss, progress.train_loss)
        return self._is_behind and not progress.last and (self._while_falling or not falls)

    def _fidelity(self, report: Progress | ProgressReported) -> float:
        return {"epochs": report.epoch, "steps": report.step, "seconds": report.seconds}[self._settings.fidelity]

    def _passed(self, before: float, now: float) -> Iterator[float]:
        """The rungs above fidelity `before` and up to `now`, in order."""
        if self._rule != "median" or self._settings.rungs is not None:
            yield from self._settings.passed(before, now)
        elif now >= self._settings.grace:
            yield now

    def _judge(self, rung: float, value: float) -> bool:
        """Whether a value is behind at a rung."""
        if self._rule == "median":
            others = [there for n in self._curves if n != self._number and (there := self._at(n, rung)) is not None]
            return len(others) >= self._settings.startup and value > statistics.median(others)
        # Of the n trials that have reached the rung, including this one, the best n/factor continue, at least one.
        values = self._rungs.get(rung, [])
        return bisect.bisect_left(values, value) >= max(1, (len(values) + 1) // self._settings.factor)

    def _at(self, number: int, fidelity: float) -> float | None:
        """A trial's last value up to a fidelity; None if it has not reached it."""
        curve = self._curves[number]
        if curve[-1][0] < fidelity:
            return None
        place = bisect.bisect_right(curve, (fidelity, math.inf))
        return curve[place - 1][1] if place else None

    def receive(self) -> None:
        """Take in the values of other workers' trials."""
        while (message := self._roots.take(RUNG)) is not None:
            self._heard.add(Kind.REPORTED, message[1][0])
            self._learn(*message[1])

    def _learn(self, number: int, fidelity: float, value: float) -> None:
        before = self._reached.get(number, 0.0)
        if fidelity < before:  # the trial was restarted
            before = 0.0
        self._reached[number] = fidelity
        if self._rule == "median":
            curve = self._curves.setdefault(number, [])
            while curve and curve[-1][0] >= fidelity:
                curve.pop()
            curve.append((fidelity, value))
            return
        for rung in self._passed(before, fidelity):
            bisect.insort(self._rungs.setdefault(rung, []), value)
