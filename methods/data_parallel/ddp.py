"""Data-parallel SGD: gradients averaged over all ranks at every step (Coquelin 2024, section 2.5, eq. 3.1).

p ranks with batch b equal one rank with batch p b, for any optimizer. One rank sends 2(p-1)/p w n bytes per step, with
n parameters and w bytes per element of the communication dtype.

The classic form averages all gradients after backward. The overlapped form (Li et al. 2020; Horovod's setup in Coquelin
2024) cuts them into flat buckets, from the last layer to the first, and starts a bucket's average as soon as backward
has filled it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.methods.common.buckets import GradientBuckets
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.flat import WIRE_DTYPES
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require, require_choice
from atoll.methods.method import Batch, Context, Method


@dataclass(frozen=True, kw_only=True)
class DdpHyperparameters:
    """Hyperparameters of data-parallel training.

    Attributes:
        wire: communication dtype of the gradients.
        overlap: whether buckets are sent while backward still runs.
        bucket_mib: smallest size of a bucket of gradients, in MiB; a larger model has several.
    """

    wire: str = "float32"
    overlap: bool = True
    bucket_mib: float = 4.0

    def __post_init__(self) -> None:
        require_choice("wire", self.wire, tuple(WIRE_DTYPES))
        require(self.bucket_mib > 0, f"bucket_mib must be above 0; got {self.bucket_mib}")


class Ddp(Method[DdpHyperparameters]):
    """Average the gradients, then step."""

    Hyperparameters = DdpHyperparameters

    @classmethod
    def without_effect(cls, hyperparameters: DdpHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """All of them, on one rank."""
        return idle(("wire", "overlap", "bucket_mib"), "one rank sends nothing") if shape.num_ranks == 1 else {}

    def __init__(self, hyperparameters: DdpHyperparameters, context: Context) -> None:
        self._context = context
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)
        self._buckets = GradientBuckets(
            self._flat,
            context.communicator,
            wire=WIRE_DTYPES[hyperparameters.wire],
            overlap=hyperparameters.overlap,
            bucket_mib=hyperparameters.bucket_mib,
        )

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch (Coquelin 2024, eq. 3.1)."""
        loss = self._context.gradient(batch, self._buckets)
        self._optimizer.step()
        return loss

    def evaluation_model(self) -> nn.Module:
        """Average the running statistics, and return the model."""
        self._flat.average_statistics(self._context.untracked)
        return self._context.model

    def finalize(self) -> nn.Module:
        """Return the trained model."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimizer."""
        return {"model": self._flat.state_dict(), "optimizer": saved(self._optimizer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
