"""A search's objectives: the metric of its workload or function, or other values that a trial reports."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from atoll.platform.study import predicted
from atoll.platform.study.judged import LOSSES, TRAINED
from atoll.platform.study.predicted import PREDICTED, Projection

if TYPE_CHECKING:
    from atoll.methods.method import Method
    from atoll.platform.workloads.workload import Workload

Direction = Literal["minimize", "maximize"]
# Reported by every trial, in addition to its workload's metrics. Smaller is better for all of them.
KNOWN = {
    "validation_error": "1 - metric if the metric is a share to be maximized, otherwise the metric",
    "validation_loss": "loss on the validation data",
    "train_loss": "mean of the losses that the method reported while training, by default in the last epoch; each "
    "method has its own: evaluated_train_loss is the same for all",
    "seconds": "training time, without evaluation",
    "seconds_to_target": "training time to the workload's target; infinite if it is missed",
    "steps_to_target": "steps to the workload's target; infinite if it is missed",
    "passes": "samples that the busiest rank passed forward and backward through its network, or its part of it",
    "passes_to_target": "passes up to the workload's target; infinite if it is missed",
    "seconds_compute": "the part of the training time in which a rank computes, mean over ranks",
    "seconds_waiting": "the part in which it waits for communication, mean over ranks",
    "seconds_data": "the part in which it waits for data, mean over ranks",
    "bytes_sent": "bytes sent by all ranks",
    "peak_memory": "largest resident memory of a rank's process during the trial, in bytes; the maximum over the "
    "worker's ranks, GPU memory not included",
}
# Reported only if the study has a setting: its name, and the better direction, None if neither is better as such.
WITH_SETTING: dict[str, tuple[str, Direction | None]] = {
    TRAINED: ("evaluate_train", "minimize"),
    "checkpoint_bytes": ("checkpoint", "minimize"),
    "trainable_share": ("observe", "minimize"),
    "compression": ("observe", "maximize"),
    "ecr": ("observe", "maximize"),
    "scaled_traffic": ("observe", "minimize"),
    "stability": ("observe", None),
    "mixing": ("observe", None),
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
    direction: Direction | None = Field(
        default=None, description="minimize or maximize; needed if it does not follow from the name"
    )
    projection: Projection | None = Field(
        default=None, description="of a time that is predicted: the cluster, nodes, scaling and speed"
    )

    def as_row(self) -> dict[str, str | None]:
        """Name and direction, for the study's row."""
        return {"name": self.name, "direction": self.direction}


def named(entry: object) -> object:
    """An entry of `objectives` with its name: from a name, {NAME: direction}, or {NAME: {cluster, nodes}}."""
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, Mapping) and len(entry) == 1 and not {"name", "direction"} & entry.keys():
        ((name, value),) = entry.items()
        return {"name": name, "projection" if isinstance(value, Mapping) else "direction": value}
    return entry


def resolve(
    objectives: Sequence[Objective] | None,
    workload: Workload,
    method: type[Method[Any]] | None = None,
    settings: Collection[str] = (),
    num_ranks: int = 2,
    ranks_per_node: int | None = None,
) -> tuple[Objective, ...]:
    """The objectives with their directions. Default: the workload's metric.

    Args:
        objectives: those of the study.
        workload: the trained workload.
        method: the training method. Default: one without metrics of its own.
        settings: those of `WITH_SETTING` that the study has.
        num_ranks: of a worker; the default suits all methods.
        ranks_per_node: of a worker's virtual nodes; None if nodes are hosts.

    Raises:
        ValueError: for an objective that no trial reports, a missing direction, a missing target of the workload, or an
            invalid `metric_directions` of the method or the workload.
    """
    known = _known(workload, method, settings)
    if not objectives:
        return (Objective(name=workload.metric, direction=workload.direction),)
    resolved = tuple(
        _resolved(objective, workload, method, known)
        if objective.name not in PREDICTED and objective.projection is None
        else _predicted(objective, workload, method, (num_ranks, ranks_per_node))
        for objective in objectives
    )
    names = [objective.name for objective in resolved]
    if len(set(names)) < len(names):
        raise ValueError(f"objectives must differ; got {', '.join(names)}")
    return resolved


def _predicted(
    objective: Objective,
    workload: Workload,
    method: type[Method[Any]] | None,
    ranks: tuple[int, int | None],
) -> Objective:
    """An objective that is a prediction; its name says so from now on."""
    name, projection = objective.name, objective.projection
    if name not in PREDICTED:
        raise ValueError(f"only {', '.join(PREDICTED)} are predicted for a cluster; got {name}")
    if projection is None:
        raise ValueError(
            f"{name} needs a cluster and a number of nodes, such as {{{name}: {{cluster: a100_hdr200, nodes: 16}}}}"
        )
    _check_target(name, workload)
    if objective.direction == "maximize":
        raise ValueError(f"the direction of {name} must be minimize; got maximize")
    if method is not None:
        predicted.check(name, projection, method, *ranks)
    return Objective(name=projection.label(name), direction="minimize", projection=projection)


def _check_target(name: str, workload: Workload) -> None:
    if name.endswith("_to_target") and workload.target is None:
        raise ValueError(f"{name} needs a target, but the workload has none: set target")


def _known(
    workload: Workload, method: type[Method[Any]] | None, settings: Collection[str]
) -> dict[str, Direction | None]:
    """All values that each trial reports, with the better direction; None if it must be given."""
    of_workload = dict.fromkeys(workload.further_metrics) | _declared(workload, workload, "workload")
    of_method = {} if method is None else _declared(method, workload, "method")
    if both := sorted(of_workload.keys() & of_method.keys()):
        raise ValueError(f"method and workload must not both report {', '.join(both)}: rename one")
    with_setting = {name: better for name, (setting, better) in WITH_SETTING.items() if setting in settings}
    return {
        workload.metric: workload.direction,
        **with_setting,
        **of_workload,
        **of_method,
        **dict.fromkeys(KNOWN, "minimize"),
    }


def _declared(
    owner: Workload | type[Method[Any]], workload: Workload, kind: Literal["method", "workload"]
) -> dict[str, Direction | None]:
    """The metrics that a class declares."""
    declared: Any = owner.metric_directions
    if not isinstance(declared, Mapping):
        raise ValueError(
            f"metric_directions of the {kind} must be a dict of names and directions; got {type(declared).__name__}"
        )
    taken = {*KNOWN, TRAINED, workload.metric, "loss"}
    for name, direction in declared.items():
        if not isinstance(name, str) or "/" in name or name in taken:
            raise ValueError(
                f"metric_directions of the {kind} must name metrics of its own, without a slash and other than "
                f"{', '.join(sorted(taken))}; got {name!r}"
            )
        if direction not in ("minimize", "maximize", None):
            raise ValueError(
                f"metric_directions of the {kind} must be minimize, maximize or None; got {direction!r} for {name}"
            )
    return dict(declared)


def _resolved(
    objective: Objective,
    workload: Workload,
    method: type[Method[Any]] | None,
    reported: Mapping[str, Direction | None],
) -> Objective:
    name = objective.name
    if name not in reported:
        raise ValueError(_unknown(name, reported, [type(workload), *([] if method is None else [method])]))
    _check_target(name, workload)
    if name in (*LOSSES, TRAINED) and "loss" in _names(workload):
        raise ValueError(f"{name} cannot be an objective while the loss itself is searched; use {workload.metric}")
    known = reported[name]
    if known is None and objective.direction is None:
        raise ValueError(f"the objective {name} needs a direction, minimize or maximize: {{{name}: minimize}}")
    if known is not None and objective.direction not in (None, known):
        raise ValueError(f"the direction of {name} must be {known}; got {objective.direction}")
    return Objective(name=name, direction=objective.direction or known)


def _unknown(name: str, reported: Iterable[str], classes: Sequence[type]) -> str:
    """Why a name cannot be an objective."""
    if name in WITH_SETTING:
        setting = WITH_SETTING[name][0]
        return f"the objective {name} is reported only with `{setting}`, or by a method that declares it: set {setting}"
    rule = f"an objective must be one of {', '.join([*reported, *PREDICTED])}; got {name!r}"
    if own := [one.__name__ for one in classes if not one.__module__.startswith("atoll.")]:
        rule += (
            f". If {' or '.join(own)} reports it, declare that in the class: "
            f'metric_directions = {{"{name}": "minimize"}}, "maximize" or None'
        )
    return rule


def of_function(objectives: Sequence[Objective], target: float | None) -> tuple[tuple[Objective, ...], Returned]:
    """The objectives of a function, and the value that it reports: the first of those that it returns.

    Raises:
        ValueError: for a missing direction, or if all objectives are measured by atoll.
    """
    resolved = []
    for objective in objectives:
        if objective.projection is not None or objective.name in PREDICTED:
            raise ValueError(f"{objective.name} is predicted from the steps of a training, and a function records none")
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
    """Records when a trial first reaches its target, and how far it has come.

    Attributes:
        seconds, steps, passes: to the target; infinite before it is reached. `passes` is NaN if not reported.
        num_steps, num_epochs: completed so far.
    """

    def __init__(self, subject: Subject) -> None:
        self._target, self._maximizes = subject.target, subject.direction == "maximize"
        self.seconds, self.steps, self.passes = math.inf, math.inf, math.inf
        self.num_steps, self.num_epochs = 0, 0

    def advance(self, step: int, epoch: int) -> None:
        """Take the length of the training so far into account."""
        self.num_steps, self.num_epochs = step, epoch

    def see(self, metric: float, seconds: float, step: int, passes: float = math.nan) -> None:
        """Take a report into account."""
        if self._target is None or math.isfinite(self.steps):
            return
        if metric >= self._target if self._maximizes else metric <= self._target:
            self.seconds, self.steps, self.passes = seconds, float(step), passes


class NotReported(ValueError):
    """A trial has ended without the value of an objective."""


def values(
    objectives: Sequence[Objective],
    subject: Subject,
    outcome: Any,
    clock: TargetClock,
    predictions: Mapping[str, float] = MappingProxyType({}),
) -> list[float]:
    """The objectives of a complete trial; those that are predicted are given.

    Raises:
        NotReported: if the trial has no value for one.
    """
    reported = measured(
        subject, outcome.objective, outcome.metrics, outcome.seconds, outcome.wire_bytes or 0.0, outcome.peak_memory
    )
    if isinstance(subject, Returned):  # all else is what it returns
        reported = {**outcome.metrics, subject.metric: outcome.objective, "seconds": outcome.seconds}
    reported |= {"seconds_to_target": clock.seconds, "steps_to_target": clock.steps, **predictions}
    if not math.isnan(clock.passes):
        reported["passes_to_target"] = clock.passes
    for objective in objectives:
        if objective.name not in reported:
            raise NotReported(
                f"the trial has ended without the objective {objective.name}; it reported {', '.join(reported)}"
            )
    return [reported[objective.name] for objective in objectives]


def measured(
    subject: Subject, metric: float, metrics: Mapping[str, float], seconds: float, wire_bytes: float, memory: float
) -> dict[str, float]:
    """All objectives of a complete trial, except those to its target."""
    return {
        **metrics,
        subject.metric: metric,
        "validation_error": 1 - metric if subject.direction == "maximize" else metric,
        "seconds": seconds,
        "bytes_sent": wire_bytes,
        "peak_memory": memory,
    }


def losses(objectives: Sequence[Objective], values: Sequence[float | None]) -> tuple[float, ...]:
    """The losses to be minimized, one per objective; a missing value becomes infinite."""
    signs = [-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives]
    return tuple(math.inf if value is None else sign * value for sign, value in zip(signs, values, strict=True))


def curve_losses(objective: Objective, subject: Subject, curve: Mapping[int, float | None]) -> dict[int, float]:
    """A pruned trial's loss by epoch, infinite for a value that is NaN (None in a journal).

    Args:
        objective, subject: the objective, and what trials measure.
        curve: the objective's values, but those of the metric for validation_error; see `judged.py`.
    """
    is_error = objective.name == "validation_error" and subject.direction == "maximize"

    def value(metric: float | None) -> float | None:
        if metric is None or math.isnan(metric):
            return None
        return 1 - metric if is_error else metric

    return {epoch: losses([objective], [value(metric)])[0] for epoch, metric in sorted(curve.items())}
