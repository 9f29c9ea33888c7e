"""What a search optimises: the workload's metric, or several things that a trial reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from atoll.platform.workloads.workload import Workload

Direction = Literal["minimize", "maximize"]
# What every trial reports, besides its workload's metric and further metrics. All are better when smaller.
KNOWN = {
    "validation_error": "1 - metric where the metric is a share to be maximised, else the metric",
    "validation_loss": "loss on the validation data",
    "train_loss": "mean loss of the last epoch",
    "seconds": "of training, without evaluation",
    "seconds_to_target": "of training until the workload's target; infinite where it is missed",
    "steps_to_target": "until the workload's target; infinite where it is missed",
    "bytes_sent": "by all ranks",
}


class Objective(BaseModel):
    """One objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the workload's metric, or what else a trial reports")
    direction: Direction | None = Field(default=None, description="unless it follows from the name")


def resolve(objectives: Sequence[Objective] | None, workload: Workload) -> tuple[Objective, ...]:
    """The objectives with their directions; the workload's metric unless some are given.

    Raises:
        ValueError: for one that no trial reports, a direction that is missing, or a target that the workload lacks.
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
        raise ValueError(f"no trial reports the objective {objective.name!r}; valid are {', '.join(reported)}")
    if objective.name.endswith("_to_target") and workload.target is None:
        raise ValueError(f"{objective.name} needs a target, and the workload has none")
    if objective.name in ("validation_loss", "train_loss") and "loss" in _names(workload):
        raise ValueError(f"{objective.name} is no objective where the loss itself is searched; take {workload.metric}")
    known: Direction | None = "minimize" if objective.name in KNOWN else None
    if objective.name == workload.metric:
        known = workload.direction
    if known is None and objective.direction is None:
        raise ValueError(f"the objective {objective.name} needs a direction: minimize or maximize")
    if known is not None and objective.direction not in (None, known):
        raise ValueError(f"the objective {objective.name} is to {known}; got {objective.direction}")
    return Objective(name=objective.name, direction=objective.direction or known)


def _names(workload: Workload) -> list[str]:
    return [field.name for field in fields(workload.Hyperparameters)]


class TargetClock:
    """Notes when a trial first reaches its workload's target."""

    def __init__(self, workload: Workload) -> None:
        self._target, self._maximises = workload.target, workload.direction == "maximize"
        self.seconds, self.steps = math.inf, math.inf

    def see(self, metric: float, seconds: float, step: int) -> None:
        """Look at a report."""
        if self._target is None or math.isfinite(self.steps):
            return
        if metric >= self._target if self._maximises else metric <= self._target:
            self.seconds, self.steps = seconds, float(step)


def values(objectives: Sequence[Objective], workload: Workload, outcome: Any, clock: TargetClock) -> list[float]:
    """The objectives of a trial that was trained to its end."""
    found = measured(workload, outcome.objective, outcome.metrics, outcome.seconds, outcome.wire_bytes)
    found |= {"seconds_to_target": clock.seconds, "steps_to_target": clock.steps}
    return [found[objective.name] for objective in objectives]


def measured(
    workload: Workload, metric: float, metrics: Mapping[str, float], seconds: float, wire_bytes: float
) -> dict[str, float]:
    """All objectives of a complete trial but those of the time to its target."""
    return {
        **metrics,
        workload.metric: metric,
        "validation_error": 1 - metric if workload.direction == "maximize" else metric,
        "seconds": seconds,
        "bytes_sent": wire_bytes,
    }


def losses(objectives: Sequence[Objective], found: Sequence[float | None]) -> tuple[float, ...]:
    """Objectives as what is to be minimised; one that was not reached is infinite."""
    signs = [-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives]
    return tuple(math.inf if value is None else sign * value for sign, value in zip(signs, found, strict=True))


def curve_losses(objective: Objective, workload: Workload, curve: Mapping[int, float]) -> dict[int, float]:
    """A pruned trial's metric by epoch, as what is to be minimised; pruning takes only the metric, or its error."""
    is_error = objective.name == "validation_error" and workload.direction == "maximize"
    return {
        epoch: losses([objective], [1 - metric if is_error else metric])[0] for epoch, metric in sorted(curve.items())
    }
