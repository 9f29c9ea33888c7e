"""MDOWNPOUR: DOWNPOUR with Nesterov's momentum at the center (Zhang 2016, algorithms 4 and 5).

A rank receives y = c + delta v and sends g(y); the owner of the center takes v <- delta v - lr g, c <- c + v and
answers with c + delta v. delta is the optimizer's `momentum`. There is no tau: every step exchanges. On one rank it is
MSGD. With `server: dedicated` the owner only serves, and takes the rate of the others' step on average.

Bytes per step: 8n for each rank but the owner, half of them sent by it and half by the owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.weight_average import Evaluated, center
from atoll.methods.method import Batch, Context
from atoll.methods.parameter_server.center import OWNER, Center
from atoll.methods.parameter_server.served import Served, ServedHyperparameters
from atoll.methods.sequential.descent import Descent, check_descent


@dataclass(frozen=True, kw_only=True)
class MdownpourHyperparameters(ServedHyperparameters):
    """Hyperparameters of MDOWNPOUR.

    Attributes:
        server: shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """


def move(center: Tensor, velocity: Tensor, gradient: Tensor, rate: float, delta: float) -> None:
    """The master's update in place: v <- delta v - lr g, c <- c + v (algorithm 5)."""
    velocity.mul_(delta).sub_(gradient, alpha=rate)
    center.add_(velocity)


class Mdownpour(Served[MdownpourHyperparameters]):
    """Send a gradient, receive the point at which to take the next."""

    Hyperparameters = MdownpourHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-5, "momentum": 0.99, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: MdownpourHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("mdownpour", settings, momentum_form=None)

    def __init__(self, hyperparameters: MdownpourHyperparameters, context: Context) -> None:
        self._optimizers = context.optimizers
        self._delta = context.optimizers.settings.momentum
        self._num_servers = self.num_servers(hyperparameters)
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked, self._num_servers)
        self._descent = Descent(context, self._flat)
        self._value = self._flat.parameters.to("cpu", copy=True)
        self._velocity = torch.zeros_like(self._value)
        self._center = Center(
            context.communicator, self._flat.parameters, self._exchange, is_dedicated=self._num_servers > 0
        )
        if self._center.server is not None:
            self._flat.on_layer(self._center.server.serve)

    def _exchange(self, rank: int, gradient: Tensor, answer: Tensor) -> None:
        move(self._value, self._velocity, gradient, self._optimizers.learning_rate, self._delta)
        torch.add(self._value, self._velocity, alpha=self._delta, out=answer)  # where the next gradient is taken

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        if self._center.only_serves:
            self._center.serve_step(exchanges=True)
            return self._flat.parameters.new_zeros(())
        loss = self._descent.gradient(batch)
        self._center.ask(self._flat.gradients)
        self._flat.parameters.copy_(self._center.answer())
        return loss

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the center's place."""
        return center(model, self._value, OWNER, num_ranks, self._num_servers)

    def evaluation_model(self) -> nn.Module:
        """Return the center, with the running statistics' mean over ranks; collective."""
        self._center.meet()
        return self._evaluation_copy.load(self._value, OWNER)

    def finalize(self) -> nn.Module:
        """Return the center."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's parameters, the owner's center and velocity; collective."""
        self._center.meet()
        return {
            "model": self._flat.state_dict(),
            "center": self._value.clone(),
            "velocity": self._velocity.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        self._value.copy_(state["center"])
        self._velocity.copy_(state["velocity"])
