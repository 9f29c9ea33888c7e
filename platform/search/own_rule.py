"""A pruning rule of the user's own, told the reports of all workers' trials over MPI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from atoll.platform.search.heard import Kind, Notes
from atoll.platform.search.own_code import OwnCode, OwnCodeError
from atoll.platform.search.pruning import RUNG, Pruner
from atoll.platform.study.own_pruning import PruningRule, TrialReport
from atoll.platform.study.pruning import Pruning

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll.communication.mailbox import Mailbox
    from atoll.platform.study.judged import Judged
    from atoll.platform.trial.progress import Progress
    from atoll.storage.events import ProgressReported


class OwnRule(Pruner):
    """Asks the user's rule.

    Args:
        settings: the study's settings, with the rule's name and options.
        while_falling, judged, roots: see `Pruner`.
        fail: called with an error of the rule; no trial is pruned from then on.
        heard: see `Pruner`.

    Raises:
        UnknownName, OwnCodeError: if the rule cannot be made.
    """

    def __init__(
        self,
        settings: Pruning,
        while_falling: bool,
        judged: Judged,
        roots: Mailbox,
        fail: Callable[[OwnCodeError], None],
        heard: Notes | None = None,
    ) -> None:
        assert settings.rule is not None
        super().__init__(settings, settings.rule, while_falling, judged, roots, heard)
        self._code = OwnCode("pruning_rule", settings.rule)
        self._own: PruningRule | None = self._code.make(PruningRule, settings.options)
        self._fail = fail

    def replay(self, number: int, report: ProgressReported) -> None:
        """Tell the rule an ended trial's report before a resume."""
        if (value := self._judged.loss(report)) is not None:
            self._tell(self._as_told(number, report, value))

    def _as_told(self, number: int, report: Progress | ProgressReported, value: float) -> TrialReport:
        fidelity = self._fidelity(report)
        return TrialReport(number, value, fidelity, report.epoch, report.step, report.seconds, report.train_loss)

    def _decide(self, progress: Progress) -> bool:
        if (value := self._judged.loss(progress)) is None:  # not evaluated
            return False
        report, fidelity = self._as_told(self._number, progress, value), self._fidelity(progress)
        self._is_behind = fidelity >= self._settings.grace and self._decided(report)
        if math.isfinite(value):  # journals have no others, and a resumed rule must know as much
            self._tell(report)
            self._roots.send_to(self._roots.others(), report, RUNG)
        falls = progress.train_loss < self._least_loss
        self._least_loss = min(self._least_loss, progress.train_loss)
        return self._is_behind and not progress.last and (self._while_falling or not falls)

    def receive(self) -> None:
        """Tell the rule the reports of other workers' trials."""
        while (message := self._roots.take(RUNG)) is not None:
            self._heard.add(Kind.REPORTED, message[1].number)
            self._tell(message[1])

    def _decided(self, report: TrialReport) -> bool:
        if self._own is None:
            return False
        try:
            decision = self._code.call(self._own.prunes, report)
            if not isinstance(decision, bool | np.bool_):
                self._code.refuse(f"prunes must return true or false; got {decision!r:.100}")
        except OwnCodeError as error:
            self._end(error)
            return False
        return bool(decision)

    def _tell(self, report: TrialReport) -> None:
        self._reached[report.number] = report.fidelity
        if self._own is None:
            return
        try:
            self._code.call(self._own.told, report)
        except OwnCodeError as error:
            self._end(error)

    def _end(self, error: OwnCodeError) -> None:
        self._own = None
        self._fail(error)
