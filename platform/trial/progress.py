"""A trial's report."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.storage.events import ProgressReported


@dataclass(frozen=True)
class Progress:
    """A trial's report; equal on all ranks, except for `seconds`.

    Attributes:
        step, epoch: the number of completed steps and epochs.
        seconds: this rank's training time, without evaluation.
        train_loss: the mean over the batches since the last report, on all ranks.
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
