"""A trial's report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atoll.storage.events import ProgressReported


@dataclass(frozen=True)
class Progress:
    """A trial's report; equal on all ranks, except for `seconds`.

    Attributes:
        step, epoch: the number of completed steps and epochs.
        seconds: this rank's training time, without evaluation.
        train_loss: the mean of the losses that the method has yielded since the last report, on all ranks. Most
            methods yield each batch's loss before its step, with dropout; `mac` yields those of the network after the
            epoch, in evaluation mode.
        validation_loss, metric: of the evaluated model; if replicas differ, each is evaluated on its share of the data.
            None if the report comes without an evaluation.
        learning_rate: the learning rate of the last step.
        wire_bytes: bytes sent so far by all ranks of the worker.
        metrics: further metrics by name: the workload's, the method's and the observers'.
        last: whether this is the report of the trained model.
        by_steps: whether reports may come within epochs.
        is_repeated: whether the training that was interrupted has made this report, before its checkpoint.
    """

    step: int
    epoch: int
    seconds: float
    train_loss: float
    validation_loss: float | None
    metric: float | None
    learning_rate: float
    wire_bytes: float
    metrics: dict[str, float]
    last: bool
    by_steps: bool = False
    is_repeated: bool = False

    @property
    def position(self) -> int:
        """The report's place in the curve: the epoch, or the step if reports may come within epochs."""
        return self.step if self.by_steps else self.epoch

    @classmethod
    def from_event(cls, event: ProgressReported, *, last: bool) -> Progress:
        """The report of a journal's line, which does not tell whether it was the last one."""
        return cls(
            step=event.step,
            epoch=event.epoch,
            seconds=event.seconds,
            train_loss=math.nan if event.train_loss is None else event.train_loss,
            validation_loss=event.validation_loss,
            metric=event.metric,
            learning_rate=math.nan if event.learning_rate is None else event.learning_rate,
            wire_bytes=event.wire_bytes or 0.0,
            metrics={name: value for name, value in event.metrics.items() if value is not None},
            last=last,
        )

    def as_event(self, number: int, attempt: int) -> ProgressReported:
        """The journal's line."""
        return ProgressReported(
            number=number,
            attempt=attempt,
            step=self.step,
            epoch=self.epoch,
            seconds=self.seconds,
            train_loss=self.train_loss,
            validation_loss=self.validation_loss,
            metric=self.metric,
            learning_rate=self.learning_rate,
            wire_bytes=self.wire_bytes,
            metrics=self.metrics,
        )
