"""Local SGD (Stich 2019; post-local: Lin et al. 2020): H local steps, then the mean of the parameters.

H=1 equals data-parallel SGD for SGD with and without momentum, not for AdamW. One rank sends 2(p-1)/p 4(n+s)/H bytes
per step: the s running statistics are averaged with the n parameters. The post-local form averages gradients in each
step of its `warmup`; the local steps of Lin et al. 2020 begin where the learning rate first falls, halfway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require
from atoll.methods.method import Batch, Context, Method


@dataclass(frozen=True, kw_only=True)
class LocalSgdHyperparameters:
    """Hyperparameters of local SGD.

    Attributes:
        H: local steps between two means.
        warmup: share of all training steps, the first ones, with averaged gradients.
    """

    H: int = 8
    warmup: float = 0.0

    def __post_init__(self) -> None:
        require(self.H >= 1, f"H must be at least 1; got {self.H}")
        require(0 <= self.warmup <= 1, f"warmup must be a share of the steps, in [0, 1]; got {self.warmup}")


class LocalSgd(Method[LocalSgdHyperparameters]):
    """Step alone, average every H steps."""

    Hyperparameters = LocalSgdHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("H",)

    @classmethod
    def without_effect(cls, hyperparameters: LocalSgdHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """All of them on one rank; H where ranks never train alone, or never meet before the end."""
        h = hyperparameters
        if shape.num_ranks == 1:
            return idle(("H", "warmup"), "there is one rank, which averages with no other")
        warmup = round(h.warmup * (shape.num_steps or 0))
        if h.warmup == 1 or shape.ends_by(warmup):
            return idle(("H",), f"a warmup of {h.warmup:g} is the whole training")
        if shape.ends_by(warmup + h.H):
            return idle(("H",), f"the ranks average at the end only: {warmup} + {h.H} steps, of {shape.num_steps}")
        return {}

    def __init__(self, hyperparameters: LocalSgdHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)
        self._num_warmup_steps = round(hyperparameters.warmup * context.num_epochs * context.steps_per_epoch)
        self._num_steps = 0
        self._num_local_steps = 0

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        warming_up = self._num_steps < self._num_warmup_steps
        if warming_up:
            self._context.communicator.mean(self._flat.gradients)
        self._optimizer.step()
        self._num_steps += 1
        self._num_local_steps += not warming_up
        if self._num_local_steps >= self._hyperparameters.H:  # which may have fallen since
            self._meet()
        return loss

    def _meet(self) -> None:
        self._context.communicator.mean(self._flat.state)
        self._num_local_steps = 0

    def evaluation_model(self) -> nn.Module:
        """Return this rank's replica."""
        return self._context.model

    def finalize(self) -> nn.Module:
        """Average replicas that differ, and return the model."""
        if self._num_local_steps or self._flat.statistics.numel():
            self._meet()
        return self._context.model

    def state_dict(self) -> dict[str, Any]:
        """Return model, optimizer and counters."""
        return {
            "model": self._flat.state_dict(),
            "optimizer": saved(self._optimizer),
            "num_steps": self._num_steps,
            "num_local_steps": self._num_local_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
        self._num_steps = state["num_steps"]
        self._num_local_steps = state["num_local_steps"]
