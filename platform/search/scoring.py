"""From a trial's outcome to the losses that the search minimizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from atoll.platform.study import objectives
from atoll.platform.study.objectives import Objective, TargetClock
from atoll.platform.trial.outcome import Outcome
from atoll.platform.workloads.workload import Workload


class Scoring:
    """The objectives of a study's trials.

    Args:
        resolved: the objectives, with their directions.
        workload: the workload.
    """

    def __init__(self, resolved: Sequence[Objective], workload: Workload) -> None:
        self._objectives = resolved
        self._workload = workload

    def clock(self) -> TargetClock:
        """A clock for one trial."""
        return TargetClock(self._workload)

    def judge(self, outcome: Outcome, clock: TargetClock) -> tuple[Outcome, list[float]]:
        """The objectives of a complete trial; the trial fails if one is NaN."""
        if outcome.state != "complete":
            return outcome, []
        values = objectives.values(self._objectives, self._workload, outcome, clock)
        for objective, value in zip(self._objectives, values, strict=True):
            if math.isnan(value):
                return replace(outcome, state="failed", objective=None, reason=f"{objective.name} is NaN"), []
        assert outcome.objective is not None
        # The workload's metric is kept even if it is not an objective.
        metrics = {self._workload.metric: outcome.objective} | outcome.metrics
        metrics = {name: value for name, value in metrics.items() if name != self._objectives[0].name}
        return replace(outcome, objective=values[0], metrics=metrics), values

    def losses(
        self, state: str, values: Sequence[float | None], curve: Mapping[int, float | None] | None
    ) -> tuple[tuple[float, ...] | None, dict[int, float]]:
        """A trial's losses, and a pruned trial's loss by epoch.

        A complete trial has its objectives, a pruned trial the last value of its curve, any other trial None.
        """
        if state == "complete":
            return objectives.losses(self._objectives, values), {}
        if state == "pruned" and curve:
            losses = objectives.curve_losses(self._objectives[0], self._workload, curve)
            return (losses[max(losses)],), losses
        return None, {}
