"""DiLoCo: local steps, then an outer Nesterov step along the mean change (Douillard et al. 2023).

Every H steps, with x the parameters after the last outer step and x_i those of rank i now:

    d <- x - mean(x_i),  m <- momentum m + d,  x <- x - lr (d + momentum m),  x_i <- x

with the outer rate lr and the outer momentum. Outer rate 1 and momentum 0 is local SGD. The inner optimizer is AdamW by
default, as in Douillard et al. 2023. The outer parameters x are evaluated, not the replicas.

Only whole rounds of H steps take outer steps. If the training ends within a round, the result is the mean of the
replicas, as in local SGD; a trial's note says so. An outer step would move x by its whole momentum, whatever the number
of steps since the last one.

One rank sends 2(p-1)/p 4n/H bytes per step, and 2(p-1)/p 4s/H for s running statistics, which are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require
from atoll.methods.common.weight_average import Evaluated, center
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
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3}
    mutable: ClassVar[tuple[str, ...]] = ("H", "outer_learning_rate", "outer_momentum")

    @classmethod
    def without_effect(cls, hyperparameters: DilocoHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """All of them where the training ends before the first outer step."""
        H = hyperparameters.H
        if shape.ends_by(H - 1):
            why = f"the {shape.num_steps} steps are less than a round of H ({H}), and the ranks average at the end"
            return idle(("H", "outer_learning_rate", "outer_momentum"), why)
        return {}

    def __init__(self, hyperparameters: DilocoHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked)
        self._optimizer = context.optimizers(self._flat)
        self._start = self._flat.parameters.clone()
        self._velocity = torch.zeros_like(self._start)
        self._num_local_steps = 0

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        self._optimizer.step()
        self._num_local_steps += 1
        if self._num_local_steps >= self._hyperparameters.H:  # which may have fallen since
            self._meet()
        return loss

    def _meet(self) -> None:
        h = self._hyperparameters
        self._context.communicator.mean(self._flat.state)
        outer_step(self._start, self._flat.parameters, self._velocity, h.outer_learning_rate, h.outer_momentum)
        self._flat.parameters.copy_(self._start)
        self._num_local_steps = 0

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the place of the outer parameters, which are equal on all ranks."""
        return center(model, self._start, 0, num_ranks)

    def evaluation_model(self) -> nn.Module:
        """Return the outer parameters, with the running statistics' mean over ranks; collective."""
        return self._evaluation_copy.load(self._start)

    def finalize(self) -> nn.Module:
        """Return the model: the outer parameters, or the replicas' mean if the last round is incomplete."""
        if self._num_local_steps:
            rest, H = self._num_local_steps, self._hyperparameters.H
            self.notes = (f"diloco: the last round has {rest} of H ({H}) steps; it ends with the replicas' mean",)
            self._context.communicator.mean(self._flat.state)
            self._start.copy_(self._flat.parameters)
            self._num_local_steps = 0
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
