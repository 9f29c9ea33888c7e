"""The base class of pruning rules of the user's own; `search/own_rule.py` tells them the reports of all workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class TrialReport:
    """What a pruning rule is told of a trial's report.

    Attributes:
        number: the trial's number.
        value: the objective's, to be minimized: a maximized one has its sign changed. Infinite if it is NaN. For
            validation_error it is the metric.
        fidelity: epochs, steps or seconds so far, whichever `pruning.fidelity` says.
        epoch, step: those that were completed.
        seconds: training time so far.
        train_loss: mean of the losses that the method has reported since the previous report.

    Example:
        >>> from atoll import TrialReport
        >>> TrialReport(number=3, value=0.25, fidelity=2.0, epoch=2, step=80, seconds=1.5, train_loss=0.2).value
        0.25
    """

    number: int
    value: float
    fidelity: float
    epoch: int
    step: int
    seconds: float
    train_loss: float | None


class PruningRule(ABC):
    """Decides which trials stop early: subclass it, and name the class in a study, `pruning: {rule: file.py:Class}`.

    Each worker has an instance of its own. It is told of every report with a finite value of every trial of the
    search, in the order in which they arrive, and, after a resume, of the reports of trials that have ended. A decision
    must depend on these reports and on the options only.

    A trial is never pruned at its last report, nor before `pruning.grace`, and with `while_falling: false` not while
    its training loss still decreases. The decision of one rank, the worker's root, holds for all ranks of the worker.
    An exception, or a decision that is not true or false, ends the search at once, as failed.

    A subclass's `__init__` takes the options of the study file as keyword arguments; their annotations are checked.

    Example:
        >>> from atoll import PruningRule, TrialReport
        >>> class Behind(PruningRule):
        ...     def __init__(self, *, margin: float = 0.0):
        ...         self.margin, self.best = margin, {}
        ...     def told(self, report):
        ...         best = self.best.get(report.fidelity, report.value)
        ...         self.best[report.fidelity] = min(best, report.value)
        ...     def prunes(self, report):
        ...         return report.value > self.best.get(report.fidelity, report.value) + self.margin
        >>> rule = Behind(margin=0.1)
        >>> rule.told(TrialReport(0, 0.5, 1.0, 1, 10, 0.1, 0.4))
        >>> rule.prunes(TrialReport(1, 0.7, 1.0, 1, 10, 0.1, 0.4))
        True
    """

    @abstractmethod
    def prunes(self, report: TrialReport) -> bool:
        """Whether the trial with this report is to stop now. The rule is told of the report afterwards."""

    def told(self, report: TrialReport) -> None:  # noqa: B027
        """A trial has reported. A trial that is trained again reports again, from its start or its checkpoint."""
