"""The base of methods in rounds: H local steps on every rank, then one outer step along the replicas' mean change.

The outer parameters, which are equal on all ranks, are evaluated, not the replicas. Only whole rounds take outer steps.
If the training ends within a round, the result is the mean of the replicas, as in local SGD, and a trial's note says
so: an outer step would move by its whole momentum, whatever the number of steps since the last one.

One rank sends 2(p-1)/p 4n/H bytes per step, and 2(p-1)/p 4s/H for s running statistics, which are averaged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.weight_average import Evaluated, center
from atoll.methods.method import Batch, Context, H, Method


class OuterBase(Method[H]):
    """Step alone with the inner optimizer, and together every H steps; the hyperparameters have the field `H`."""

    @classmethod
    def without_effect(cls, hyperparameters: H, shape: TrainingShape) -> Mapping[str, str]:
        """All of them where the training ends before the first outer step."""
        period: int = hyperparameters.H  # type: ignore[attr-defined]
        if shape.ends_by(period - 1):
            why = f"the {shape.num_steps} steps are less than a round of H ({period}), and the ranks average at the end"
            return idle(tuple(field.name for field in fields(hyperparameters)), why)  # type: ignore[arg-type]
        return {}

    def __init__(self, hyperparameters: H, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._H: int = hyperparameters.H  # type: ignore[attr-defined]
        self._context = context
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked)
        self._optimizer = context.optimizers(self._flat)
        self._start = self._flat.parameters.clone()
        self._velocity = torch.zeros_like(self._start)
        self._num_local_steps = 0

    @abstractmethod
    def _step_outside(self, mean: Tensor) -> None:
        """Move the outer parameters `_start` (n,) in place, given the replicas' mean (n,); `_velocity` (n,) is kept."""

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        self._optimizer.step()
        self._num_local_steps += 1
        if self._num_local_steps >= self._H:  # which may have fallen since
            self._meet()
        return loss

    def _meet(self) -> None:
        self._context.communicator.mean(self._flat.state)
        self._step_outside(self._flat.parameters)
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
            name = type(self).__name__.lower()
            rest = self._num_local_steps
            self.notes = (f"{name}: the last round has {rest} of H ({self._H}) steps; it ends with the replicas' mean",)
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
