"""A search's objectives: the metric of its workload or function, or other values that a trial reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from atoll.platform.workloads.workload import Workload

Direction = Literal["minimize", "maximize"]
# Reported by every trial, in addition to its workload's metrics. Smaller is better for all of them.
KNOWN = {
    "validation_error": "1 - metric if the metric is a share to be maximized, otherwise the metric",
    "validation_loss": "loss on the validation data",
    "train_loss": "mean training loss since the report before the last, by default of the last epoch",
    "seconds": "training time, without evaluation",
    "seconds_to_target": "training time to the workload's target; infinite if it is missed",
    "steps_to_target": "steps to the workload's target; infinite if it is missed",
    "bytes_sent": "bytes sent by all ranks",
}
# Those that atoll measures of a function, too.
MEASURED = ("seconds", "seconds_to_target", "steps_to_target")


# The name of what a function of the user's returns, if it returns a number.
VALUE = "value"


class Subject(Protocol):
    """What the trials of a study measure: a workload, or a function of the user's."""

    @property
    def metric(self) -> str:
        """The name of the value that every report has."""

    @property
    def direction(self) -> Direction:
        """Whether a smaller or a larger value is better."""

    @property
    def target(self) -> float | None:
        """The value that counts as solved; None for no target."""


@dataclass(frozen=True)
class Returned:
    """The value that a function of the user's reports and returns."""

    metric: str
    direction: Direction
    target: float | None = None


class Objective(BaseModel):
    """One objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the workload's metric, or another value that a trial reports")
    direction: Direction | None = Field(default=None, description="needed if it does not follow from the name")


def resolve(objectives: Sequence[Objective] | None, workload: Workload) -> tuple[Objective, ...]:
    """The objectives with their directions. Default: the workload's metric.

    Raises:
        ValueError: for an objective that no trial reports, a missing direction, or a missing target of the workload.
    """
    if not objectives:
        return (Objective(name=workload.metric, direction=workload.direction),)
    names = [objective.name for objective in objectives]
    if len(set(names)) < len(names):
        raise ValueError(f"objectives must differ; got {', '.join(names)}")
    return tuple(_resolved(objective, workload) for objective in objectives)


def _resolved(objective: Objective, workload: Workload) -> Objective:
    reported = [workload.metric, *workload.further_metrics, *KNOWN]
    if objective.name not in reported:
        raise ValueError(f"an objective must be one of {', '.join(reported)}; got {objective.name!r}")
    if objective.name.endswith("_to_target") and workload.target is None:
        raise ValueError(f"{objective.name} needs a target, but the workload has none: set target")
    if objective.name in ("validation_loss", "train_loss") and "loss" in _names(workload):
        raise ValueError(
            f"{objective.name} cannot be an objective while the loss itself is searched; use {workload.metric}"
        )
    known: Direction | None = "minimize" if objective.name in KNOWN else None
    if objective.name == workload.metric:
        known = workload.direction
    if known is None and objective.direction is None:
        raise ValueError(f"the objective {objective.name} needs a direction, minimize or maximize")
    if known is not None and objective.direction not in (None, known):
        raise ValueError(f"the direction of {objective.name} must be {known}; got {objective.direction}")
    return Objective(name=objective.name, direction=objective.direction or known)


def of_function(objectives: Sequence[Objective], target: float | None) -> tuple[tuple[Objective, ...], Returned]:
    """The objectives of a function, and the value that it reports: the first of those that it returns.

    Raises:
        ValueError: for a missing direction, or if all objectives are measured by atoll.
    """
    resolved = []
    for objective in objectives:
        known: Direction | None = "minimize" if objective.name in MEASURED else None
        if known is None and objective.direction is None:
            raise ValueError(f"the objective {objective.name} needs a direction, minimize or maximize")
        if known is not None and objective.direction not in (None, known):
            raise ValueError(f"the direction of {objective.name} must be {known}; got {objective.direction}")
        if objective.name.endswith("_to_target") and target is None:
            raise ValueError(f"{objective.name} needs a target: set target, a value that the function reports")
        resolved.append(Objective(name=objective.name, direction=objective.direction or known))
    names = [objective.name for objective in resolved]
    if len(set(names)) < len(names):
        raise ValueError(f"objectives must differ; got {', '.join(names)}")
    returned = next((objective for objective in resolved if objective.name not in MEASURED), None)
    if returned is None or returned.direction is None:
        raise ValueError(f"an objective must be a value that the function returns; got only {', '.join(names)}")
    return tuple(resolved), Returned(returned.name, returned.direction, target)


def _names(workload: Workload) -> list[str]:
    return [field.name for field in fields(workload.Hyperparameters)]


class TargetClock:
    """Records when a trial first reaches its target."""

    def __init__(self, subject: Subject) -> None:
        self._target, self._maximizes = subject.target, subject.direction == "maximize"
        self.seconds, self.steps = math.inf, math.inf

    def see(self, metric: float, seconds: float, step: int) -> None:
        """Take a report into account."""
        if self._target is None or math.isfinite(self.steps):
            return
        if metric >= self._target if self._maximizes else metric <= self._target:
            self.seconds, self.steps = seconds, float(step)


def values(objectives: Sequence[Objective], subject: Subject, outcome: Any, clock: TargetClock) -> list[float]:
    """The objectives of a complete trial."""
    reported = measured(subject, outcome.objective, outcome.metrics, outcome.seconds, outcome.wire_bytes or 0.0)
    if isinstance(subject, Returned):  # all else is what it returns
        reported = {**outcome.metrics, subject.metric: outcome.objective, "seconds": outcome.seconds}
    reported |= {"seconds_to_target": clock.seconds, "steps_to_target": clock.steps}
    return [reported[objective.name] for objective in objectives]


def measured(
    subject: Subject, metric: float, metrics: Mapping[str, float], seconds: float, wire_bytes: float
) -> dict[str, float]:
    """All objectives of a complete trial, except those to its target."""
    return {
        **metrics,
        subject.metric: metric,
        "validation_error": 1 - metric if subject.direction == "maximize" else metric,
        "seconds": seconds,
        "bytes_sent": wire_bytes,
    }


def losses(objectives: Sequence[Objective], values: Sequence[float | None]) -> tuple[float, ...]:
    """The losses to be minimized, one per objective; a missing value becomes infinite."""
    signs = [-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives]
    return tuple(math.inf if value is None else sign * value for sign, value in zip(signs, values, strict=True))


def curve_losses(objective: Objective, subject: Subject, curve: Mapping[int, float | None]) -> dict[int, float]:
    """A pruned trial's loss by epoch, infinite for a metric that is NaN (None in a journal).

    Pruning supports the metric and validation_error only.
    """
    is_error = objective.name == "validation_error" and subject.direction == "maximize"

    def value(metric: float | None) -> float | None:
        if metric is None or math.isnan(metric):
            return None
        return 1 - metric if is_error else metric

    return {epoch: losses([objective], [value(metric)])[0] for epoch, metric in sorted(curve.items())}
