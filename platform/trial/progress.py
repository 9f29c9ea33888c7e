"""A trial's report after an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.storage.events import ProgressReported


@dataclass(frozen=True)
class Progress:
    """A trial's report after an epoch; equal on all ranks, except for `seconds`.

    Attributes:
        step, epoch: the number of completed steps and epochs.
        seconds: this rank's training time, without evaluation.
        train_loss: the mean over the epoch's batches on all ranks.
        validation_loss, metric: of the evaluated model; if replicas differ, each is evaluated on its share of the data.
        learning_rate: the learning rate of the last step.
        wire_bytes: bytes sent so far by all ranks of the worker.
        metrics: further metrics by name: the workload's, the method's and the observers'.
        last: whether this is the report of the trained model.
    """

    step: int
    epoch: int
    seconds: float
    train_loss: float
    validation_loss: float
    metric: float
    learning_rate: float
    wire_bytes: float
    metrics: dict[str, float]
    last: bool

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
