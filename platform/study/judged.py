"""The value of reports by which trials are judged in mid-training: that of the objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from atoll.platform.workloads.workload import Workload

ERROR = "validation_error"  # ranks trials as the metric does
TRAINED = "evaluated_train_loss"  # with the setting evaluate_train
LOSSES = ("validation_loss", "train_loss")  # fields of every report; without an evaluation it has the second one only


class Report(Protocol):
    """A trial's report, or its line in a journal."""

    @property
    def metric(self) -> float | None:
        """The workload's metric, or a function's value; None without an evaluation."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The further metrics by name."""


@dataclass(frozen=True)
class Judged:
    """The value that pruning compares.

    Attributes:
        sign: 1 if a smaller value is better, -1 if a larger one is.
        name: of the value in reports; None for the metric.
    """

    sign: float = 1.0
    name: str | None = None

    @classmethod
    def of(cls, objective: str, direction: str, metric: str, metric_direction: str) -> Judged:
        """The value of an objective; that of validation_error is the metric.

        Args:
            objective, direction: the objective's name, and minimize or maximize.
            metric, metric_direction: those of the workload's metric, or of a function's value.
        """
        if objective in (metric, ERROR):
            return cls(sign_of(metric_direction))
        return cls(sign_of(direction), objective)

    def value(self, report: Report) -> float | None:
        """A report's value; None if it has none."""
        if self.name is None:
            return report.metric
        if self.name in LOSSES:
            found: float | None = getattr(report, self.name)
            return found
        return report.metrics.get(self.name)

    def loss(self, report: Report) -> float | None:
        """A report's value, to be minimized; infinite if it is NaN, None if the report has none."""
        value = self.value(report)
        if value is None:
            return None
        return math.inf if math.isnan(value) else self.sign * value


def sign_of(direction: str) -> float:
    """The factor that makes a value one to minimize."""
    return -1.0 if direction == "maximize" else 1.0


def judgeable(workload: Workload, *, trained: bool = False) -> list[str]:
    """The objectives that every evaluated report has, so that pruning can compare them.

    Args:
        workload: the trained workload.
        trained: whether the network is evaluated on training data, too.
    """
    further = dict.fromkeys([*workload.further_metrics, *workload.metric_directions])
    return [workload.metric, ERROR, *LOSSES, *([TRAINED] if trained else []), *further]
