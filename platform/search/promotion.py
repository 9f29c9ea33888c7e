"""Promotion: trials pause at rungs, and the best continue (ASHA; Li et al. 2020, algorithm 2).

A trial always pauses at a rung, with a checkpoint, unless the rung is its end. A free worker continues the best trial
that may be promoted (among the best 1/factor of its rung, and not yet promoted), that of the highest rung first;
otherwise it starts a new one. The owner of the tickets has the rungs, so each promotion is given out once.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from atoll.platform.search.tickets import Ticket
from atoll.storage.events import Event, ProgressReported

if TYPE_CHECKING:
    from atoll.platform.search.resume import Past
    from atoll.platform.study.judged import Judged
    from atoll.platform.study.plan import Plan
    from atoll.platform.study.study import Study
    from atoll.platform.trial.progress import Progress
    from atoll.storage.folder import StudyFolder

Value = tuple[float, int]  # to minimize, and the trial's number


@dataclass(frozen=True)
class Ended:
    """The end of a trial's attempt, as the owner of the tickets hears of it.

    Attributes:
        number: the trial's.
        values: the rungs that it has reached in this attempt, with its values there, to minimize.
        ticket: continues it; None unless it is paused.
        step: the number of completed steps, if it is paused.
    """

    number: int
    values: Sequence[tuple[float, float]] = ()
    ticket: Ticket | None = None
    step: int = 0


class Fidelities(Protocol):
    """The rungs at which trials pause."""

    @property
    def fidelity(self) -> str:
        """Their unit: epochs, steps or seconds."""

    def passed(self, before: float, now: float) -> Iterable[float]:
        """Those above fidelity `before` and up to `now`, in order."""


class Paused(Protocol):
    """The trials that have paused, and the decision which goes on."""

    def take_in(self, ended: Ended) -> None:
        """A trial has paused, or has ended."""

    def promote(self, num_training: int, *, has_new: bool) -> Ticket | None:
        """The ticket of the trial that goes on now, which then waits no more; None if none does.

        Args:
            num_training: how many trials are training.
            has_new: whether a new trial may start instead.
        """


class Rungs:
    """All trials at each rung, and those that wait there.

    Args:
        factor: the ratio of compared to continued trials.
    """

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._values: dict[float, list[Value]] = {}  # sorted, and so are those that wait
        self._waiting: dict[float, list[Value]] = {}
        self._tickets: dict[int, Ticket] = {}

    def take_in(self, ended: Ended) -> None:
        """A trial has paused at the last of the rungs that it has reached, or has ended beyond them."""
        for rung, value in ended.values:
            bisect.insort(self._values.setdefault(rung, []), (value, ended.number))
        if ended.ticket is not None and ended.values:
            rung, value = ended.values[-1]
            bisect.insort(self._waiting.setdefault(rung, []), (value, ended.number))
            self._tickets[ended.number] = ended.ticket

    def promotable(self) -> Ticket | None:
        """The ticket of the best trial that may be promoted from the highest rung; None if there is none."""
        place = self._place()
        return None if place is None else self._tickets[place[1][1]]

    def promote(self, num_training: int = 0, *, has_new: bool = False) -> Ticket | None:
        """The same, which then waits no more, whatever else there is to do."""
        if (place := self._place()) is None:
            return None
        rung, waiting = place
        self._waiting[rung].remove(waiting)
        return self._tickets.pop(waiting[1])

    def _place(self) -> tuple[float, Value] | None:
        for rung in sorted(self._waiting, reverse=True):
            waiting, values = self._waiting[rung], self._values[rung]
            # If the first of those that wait is not among the best, none is.
            if waiting and bisect.bisect_left(values, waiting[0]) < len(values) // self._factor:
                return rung, waiting[0]
        return None


@dataclass
class Pauses:
    """Where the trials of one worker pause.

    Attributes:
        settings: the rungs.
        judged: the value that is compared.
        reached: the fidelity that the trial has reached, at its last evaluation.
        values: the rungs that it has reached in this attempt, with its values.
        step: the number of completed steps at its last report.
    """

    settings: Fidelities
    judged: Judged
    reached: float = 0.0
    step: int = 0
    values: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan) -> Pauses | None:
        """Those of a study; None if its trials do not pause."""
        if plan.study.population_based is not None:
            from atoll.platform.search.population_based import EvenRungs

            return cls(EvenRungs(plan.pbt_interval), plan.judged)
        if plan.study.pruning is None or not plan.study.pruning.promotion:
            return None
        return cls(plan.study.pruning, plan.judged)

    def start(self, reached: float) -> None:
        """A trial starts, or continues after it has paused at this fidelity."""
        self.reached, self.values = reached, []

    def pauses(self, progress: Progress) -> bool:
        """Whether the reporting trial is to pause now."""
        return self.sees(progress) and not progress.last

    def sees(self, report: Progress | ProgressReported) -> bool:
        """Take in a report; whether the trial has reached a rung."""
        self.step = report.step
        if (value := self.judged.loss(report)) is None:  # not evaluated
            return False
        unit = {"epochs": "epoch", "steps": "step", "seconds": "seconds"}[self.settings.fidelity]
        now = float(getattr(report, unit))
        passed = [(rung, value) for rung in self.settings.passed(self.reached, now)]
        self.values += passed
        self.reached = max(self.reached, now)
        return bool(passed)


def restored(
    study: Study, judged: Judged, folder: StudyFolder, events: Iterable[Event], past: Past
) -> tuple[Rungs, dict[int, float]]:
    """The rungs of a study's past, and the fidelity that each trial's result has reached.

    A trial whose checkpoint is gone waits no more.

    Args:
        study: the study, which promotes.
        judged: the value that is compared.
        folder: its files.
        events, past: its journals, and what follows from them.
    """
    assert study.pruning is not None
    results = past.results()
    curves = {number: Pauses(study.pruning, judged) for number in results}
    keys = {trial.key for trial in results.values()}
    for event in events:
        # A lost attempt will report again what it had reported.
        if isinstance(event, ProgressReported) and event.key in keys:
            curves[event.number].sees(event)
    rungs, reached = Rungs(study.pruning.factor), {number: curve.reached for number, curve in curves.items()}
    for number, trial in results.items():
        waits = trial.state == "pruned" and past.counts(trial) and folder.trial(number).manifest.exists()
        ticket = trial.next_ticket(study.topology.islands, reached[number]) if waits else None
        rungs.take_in(Ended(number, curves[number].values, ticket))
    return rungs, reached
