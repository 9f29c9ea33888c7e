"""DiLoCo: local steps, then an outer Nesterov step along the mean change (Douillard et al. 2023).

Every H steps, with x the parameters after the last outer step and x_i those of rank i now:

    d <- x - mean(x_i),  m <- momentum m + d,  x <- x - lr (d + momentum m),  x_i <- x

with the outer rate lr and the outer momentum. Outer rate 1 and momentum 0 is local SGD. One rank sends 2(p-1)/p 4n/H
bytes per step, and 2(p-1)/p 4s/H for s running statistics, which are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require
from atoll.methods.method import Batch, Context, Method


@dataclass(frozen=True, kw_only=True)
class DilocoHyperparameters:
    """Hyperparameters of DiLoCo.

    Attributes:
        H: local steps between two outer steps.
        outer_learning_rate: learning rate of the outer step.
        outer_momentum: momentum of the outer step, in Nesterov's form.
    """

    H: int = 32
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.9

    def __post_init__(self) -> None:
        require(self.H >= 1, f"H must be at least 1; got {self.H}")
        require(self.outer_learning_rate > 0, f"outer_learning_rate must be above 0; got {self.outer_learning_rate}")
        require(0 <= self.outer_momentum < 1, f"outer_momentum must be in [0, 1); got {self.outer_momentum}")


def outer_step(start: Tensor, mean: Tensor, velocity: Tensor, rate: float, momentum: float) -> None:
    """Move `start` (n,) in place along the change to `mean` (n,), with Nesterov's momentum; `velocity` (n,) is m."""
    change = start - mean
    velocity.mul_(momentum).add_(change)
    start.sub_(change.add_(velocity, alpha=momentum), alpha=rate)


class Diloco(Method[DilocoHyperparameters]):
    """Step alone with the inner optimizer; take an outer step together every H steps."""

    Hyperparameters = DilocoHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("H", "outer_learning_rate", "outer_momentum")

    @classmethod
    def without_effect(cls, hyperparameters: DilocoHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """H where the only outer step is that at the end."""
        if shape.ends_by(hyperparameters.H):
            return idle(
                ("H",), f"the only outer step is at the end, after {shape.num_steps} of {hyperparameters.H} steps"
            )
        return {}

    def __init__(self, hyperparameters: DilocoHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)
        self._start = self._flat.parameters.clone()
        self._velocity = torch.zeros_like(self._start)
        self._num_local_steps = 0

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        self._optimizer.step()
        self._num_local_steps += 1
        if self._num_local_steps == self._hyperparameters.H:
            self._meet()
        return loss

    def _meet(self) -> None:
        h = self._hyperparameters
        self._context.communicator.mean(self._flat.state)
        outer_step(self._start, self._flat.parameters, self._velocity, h.outer_learning_rate, h.outer_momentum)
        self._flat.parameters.copy_(self._start)
        self._num_local_steps = 0

    def evaluation_model(self) -> nn.Module:
        """Return this rank's replica."""
        return self._context.model

    def finalize(self) -> nn.Module:
        """Take an outer step along the change since the last one, and return the model."""
        if self._num_local_steps:
            self._meet()
        return self._context.model

    def state_dict(self) -> dict[str, Any]:
        """Return replica, both optimizers' state and counter."""
        return {
            "model": self._flat.state_dict(),
            "optimizer": saved(self._optimizer),
            "start": self._start.clone(),
            "velocity": self._velocity.clone(),
            "num_local_steps": self._num_local_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
        self._start.copy_(state["start"])
        self._velocity.copy_(state["velocity"])
        self._num_local_steps = state["num_local_steps"]
