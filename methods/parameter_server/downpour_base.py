"""The base of DOWNPOUR and its averaged forms: ranks push their summed updates to a center (Zhang 2016, algorithm 3).

Every tau local steps, the first at t = 0: c <- c + v, x <- c, v <- 0; at every step x <- x - lr g(x), v <- v - lr
g(x). v is the movement of x since. The owner of c adds v and answers with c at once. At the end the last v is pushed.

With `server: dedicated` the owner of c only serves.

Bytes per step: 8n/tau for each rank but the owner, half of them sent by it and half by the owner; 8n once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from atoll.methods.common.averages import RunningAverage
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.validation import require
from atoll.methods.common.weight_average import Evaluated, center
from atoll.methods.method import Batch, Context
from atoll.methods.parameter_server.center import OWNER, Center
from atoll.methods.parameter_server.served import Served, ServedHyperparameters
from atoll.methods.sequential.descent import Descent

D = TypeVar("D", bound="PushHyperparameters")


@dataclass(frozen=True, kw_only=True)
class PushHyperparameters(ServedHyperparameters):
    """Hyperparameters of DOWNPOUR and its averaged forms.

    Attributes:
        tau: local steps between two pushes.
        server: shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """

    tau: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tau >= 1, f"tau must be at least 1; got {self.tau}")


def push(center: Tensor, update: Tensor) -> None:
    """Add a rank's accumulated update to the center in place."""
    center.add_(update)


class DownpourBase(Served[D]):
    """Push, fetch, step alone.

    Args:
        hyperparameters: of the method.
        context: the trial's.
        averaged: whether an average of the center over time is evaluated.
        moving_rate: of that average. Default: the mean over all time.
    """

    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.005, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def without_effect(cls, hyperparameters: D, shape: TrainingShape) -> Mapping[str, str]:
        """The period where the only push is that at the end."""
        tau = hyperparameters.tau
        return idle(("tau",), f"the only push of {shape.num_steps} steps is at the end") if shape.ends_by(tau) else {}

    def __init__(
        self, hyperparameters: D, context: Context, *, averaged: bool = False, moving_rate: float | None = None
    ) -> None:
        self._tau = hyperparameters.tau
        self._num_servers = self.num_servers(hyperparameters)
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked, self._num_servers)
        self._descent = Descent(context, self._flat)
        self._num_steps = 0
        self._fetched = self._flat.parameters.clone()
        self._value = self._flat.parameters.to("cpu", copy=True)
        self._average = RunningAverage(self._value, moving_rate) if averaged else None
        self._center = Center(
            context.communicator, self._flat.parameters, self._exchange, is_dedicated=self._num_servers > 0
        )
        if self._center.server is not None:
            self._flat.on_layer(self._center.server.serve)

    def _exchange(self, rank: int, update: Tensor, answer: Tensor) -> None:
        """The parameter server's rule; the master clock counts the pushes (Zhang 2016, chapter 4)."""
        if self._average is not None:
            self._average.update(self._value)
        push(self._value, update)
        answer.copy_(self._value)

    def _push(self) -> None:
        self._center.ask(torch.sub(self._flat.parameters, self._fetched, out=self._fetched))
        self._flat.parameters.copy_(self._center.answer())
        self._fetched.copy_(self._flat.parameters)

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        pushes = self._num_steps % self._tau == 0
        self._num_steps += 1
        if self._center.only_serves:
            self._center.serve_step(exchanges=pushes)
            return self._flat.parameters.new_zeros(())
        if pushes:
            self._push()
        return self._descent.step(batch)

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the center's place."""
        return center(model, self._value, OWNER, num_ranks, self._num_servers)

    def evaluation_model(self) -> nn.Module:
        """Return the center, or its average, with the running statistics' mean over ranks; collective."""
        self._center.meet()
        return self._evaluation_copy.load(self._value if self._average is None else self._average.value, OWNER)

    def finalize(self) -> nn.Module:
        """Push the last updates, and return the center or its average."""
        if not self._center.only_serves:
            self._push()
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return replica, the owner's center and its average, and counters; collective."""
        self._center.meet()
        return {
            "descent": self._descent.state_dict(),
            "fetched": self._fetched.clone(),
            "center": self._value.clone(),
            "average": self._average.state_dict() if self._average is not None else None,
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state["descent"])
        self._fetched.copy_(state["fetched"])
        self._value.copy_(state["center"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._num_steps = state["num_steps"]
