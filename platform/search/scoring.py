"""From a trial's outcome to the losses that the search minimizes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from atoll.platform.search.predictions import CannotPredict, made_in_background, predicted_values
from atoll.platform.study import objectives
from atoll.platform.study.objectives import MEASURED, NotReported, Objective, Returned, Subject, TargetClock
from atoll.platform.trial.outcome import Outcome

Wait = Callable[[Callable[[], bool]], None]


def _block(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


class Scoring:
    """The objectives of a study's trials.

    Args:
        resolved: the objectives, with their directions.
        subject: what trials measure.
    """

    def __init__(self, resolved: Sequence[Objective], subject: Subject) -> None:
        self._objectives = resolved
        self._subject = subject
        self._predicts = any(objective.projection is not None for objective in resolved)

    def clock(self) -> TargetClock:
        """A clock for one trial."""
        return TargetClock(self._subject)

    def judge(
        self,
        outcome: Outcome,
        clock: TargetClock,
        hyperparameters: Mapping[str, Any] = MappingProxyType({}),
        wait: Wait = _block,
    ) -> tuple[Outcome, list[float]]:
        """The objectives of a complete trial; the trial fails if one is missing or NaN.

        Args:
            outcome: of the trial.
            clock: that has seen its reports.
            hyperparameters: of the trial; predictions need its batch size.
            wait: called with a condition while predictions are made; serves others until it is true.
        """
        if outcome.state != "complete":
            return outcome, []
        if isinstance(self._subject, Returned):
            outcome = self._of_call(outcome)
            if outcome.state != "complete":
                return outcome, []
        try:
            outcome, predictions = self._predict(outcome, clock, hyperparameters, wait)
            values = objectives.values(self._objectives, self._subject, outcome, clock, predictions)
        except (NotReported, CannotPredict) as error:
            return replace(outcome, state="failed", objective=None, reason=f"ValueError: {error}"), []
        for objective, value in zip(self._objectives, values, strict=True):
            if math.isnan(value):
                return replace(outcome, state="failed", objective=None, reason=f"{objective.name} is NaN"), []
        assert outcome.objective is not None
        # The workload's metric is kept even if it is not an objective.
        metrics = {self._subject.metric: outcome.objective} | outcome.metrics
        metrics = {name: value for name, value in metrics.items() if name != self._objectives[0].name}
        return replace(outcome, objective=values[0], metrics=metrics), values

    def _predict(
        self, outcome: Outcome, clock: TargetClock, hyperparameters: Mapping[str, Any], wait: Wait
    ) -> tuple[Outcome, Mapping[str, float]]:
        """The predicted objectives by name, and the outcome with their cost."""
        if not self._predicts:
            return outcome, {}
        make = partial(predicted_values, self._objectives, outcome.traces, clock, hyperparameters)
        predictions, spent = made_in_background(make, wait)
        return replace(outcome, metrics=outcome.metrics | {"projection_cpu_seconds": spent}), predictions

    def _of_call(self, outcome: Outcome) -> Outcome:
        """The outcome with the objective among what a function has returned; it fails if one is missing or infinite."""
        returned = dict(outcome.metrics)
        if outcome.objective is not None:
            returned[self._subject.metric] = outcome.objective
        needed = [objective.name for objective in self._objectives if objective.name not in MEASURED]
        found = f"the function returned {', '.join(returned)}" if outcome.metrics else "the function returned a number"
        if missing := [name for name in needed if name not in returned]:
            reason = f"ValueError: {found}; the study's objectives are {', '.join(needed)}, so {missing[0]} is missing"
            return replace(outcome, state="failed", objective=None, reason=reason)
        if taken := sorted(returned.keys() & set(MEASURED)):
            reason = f"ValueError: {', '.join(taken)} is measured by atoll: return yours under another name"
            return replace(outcome, state="failed", objective=None, metrics={}, reason=reason)
        for name in needed:
            if not math.isfinite(returned[name]):
                return replace(outcome, state="failed", objective=None, reason=f"{name} is {returned[name]}")
        return replace(outcome, objective=returned[self._subject.metric])

    def losses(
        self, state: str, values: Sequence[float | None], curve: Mapping[int, float | None] | None
    ) -> tuple[tuple[float, ...] | None, dict[int, float]]:
        """A trial's losses, and a pruned trial's loss by epoch.

        A complete trial has its objectives, a pruned trial the last value of its curve, any other trial None.
        """
        if state == "complete":
            return objectives.losses(self._objectives, values), {}
        if state == "pruned" and curve:
            losses = objectives.curve_losses(self._objectives[0], self._subject, curve)
            return (losses[max(losses)],), losses
        return None, {}
