"""Stochastic gradient push: gossip on a directed graph, without a center (Assran, Loizou, Ballas and Rabbat 2019).

Rank i has a vector x_i with the weight w_i, and trains its network z_i = x_i / w_i. A step, with d(z) what the
optimizer adds to z for the gradient there (for SGD, algorithm 1: -lr g(z)):

    x_i <- x_i + d(z_i);  halves of x_i and w_i go to one other rank;  x_i <- x_i / 2 + those that arrive,  w_i alike

The receiver changes from step to step. In the exponential graph it is 1, 2, 4, ... ranks further, then 1 again, so that
p = 2^k ranks that stand still agree after k steps; in the ring it is the next rank. With `staleness` s, a step mixes in
what was sent s steps before, while later messages are under way (overlap SGP). The division by w_i corrects for these.
As each rank sends to one rank and receives from one in every step, all have the same weight, which is not sent.

The result is the mean of all x_i, those under way included. One rank sends 4n bytes per step, whatever the number of
ranks, and at the end 2(p-1)/p 4(n+s) for the mean, of s running statistics too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Request
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require, require_choice
from atoll.methods.method import Batch, Context, Method

GRAPHS = ("exponential", "ring")


@dataclass(frozen=True, kw_only=True)
class SgpHyperparameters:
    """Hyperparameters of stochastic gradient push.

    Attributes:
        graph: "exponential" or "ring": who sends to whom.
        staleness: steps between sending and mixing in.
    """

    graph: str = "exponential"
    staleness: int = 0

    def __post_init__(self) -> None:
        require_choice("graph", self.graph, GRAPHS)
        require(self.staleness >= 0, f"staleness must be at least 0; got {self.staleness}")


def distances(graph: str, num_ranks: int) -> list[int]:
    """How many ranks further the receivers are, in turn; empty for one rank.

    Example:
        >>> distances("exponential", 6)
        [1, 2, 4]
        >>> distances("ring", 6)
        [1]
    """
    doubled = [2**k for k in range((num_ranks - 1).bit_length())]
    return doubled if graph == "exponential" else doubled[:1]


@dataclass
class _Message:
    """Half of a rank's vector on its way.

    Attributes:
        values: (n,) of the sender.
        weight: that goes with them.
        requests: that complete the message, and the one that was sent in the same step.
        sent: (n,) must live as long.
    """

    values: Tensor
    weight: float
    requests: tuple[Request, ...] = ()
    sent: Tensor | None = None

    def wait(self) -> None:
        for request in self.requests:
            request.wait()
        self.requests, self.sent = (), None


class Sgp(Method[SgpHyperparameters]):
    """Step alone, and share with one rank."""

    Hyperparameters = SgpHyperparameters
    point_to_point: ClassVar[bool] = True

    @classmethod
    def without_effect(cls, hyperparameters: SgpHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """All of them on one rank; the graph on two, which are neighbors in both."""
        if shape.num_ranks == 1:
            return idle(("graph", "staleness"), "there is one rank, which sends nothing")
        return idle(("graph",), "two ranks have one graph") if shape.num_ranks == 2 else {}

    def __init__(self, hyperparameters: SgpHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        self._flat = context.flatten()  # its parameters are z
        self._optimizer = context.optimizers(self._flat)
        self._weight = 1.0
        self._under_way: deque[_Message] = deque()
        self._distances = distances(hyperparameters.graph, context.communicator.size)
        self._num_steps = 0

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        if not self._distances:
            self._optimizer.step()
            return loss
        z = self._flat.parameters
        rest = (self._weight - 1) * z  # x - z
        self._optimizer.step()
        self._send((z + rest).mul_(0.5))
        if len(self._under_way) > self._hyperparameters.staleness:
            self._mix_in()
        self._num_steps += 1
        return loss

    def _send(self, half: Tensor) -> None:
        """Keep a half of x, and send the other."""
        c = self._context.communicator
        distance = self._distances[self._num_steps % len(self._distances)]
        self._weight /= 2
        arriving = torch.empty_like(half)
        receive = c.start_receive(arriving, (c.rank - distance) % c.size)
        send = c.start_send(half, (c.rank + distance) % c.size)
        self._under_way.append(_Message(arriving, self._weight, (receive, send), half))
        torch.div(half, self._weight, out=self._flat.parameters)

    def _mix_in(self) -> None:
        message = self._under_way.popleft()
        message.wait()
        z, weight = self._flat.parameters, self._weight + message.weight
        z.mul_(self._weight / weight).add_(message.values, alpha=1 / weight)
        self._weight = weight

    def evaluation_model(self) -> nn.Module:
        """Return this rank's replica."""
        return self._context.model

    def finalize(self) -> nn.Module:
        """Mix in all that is under way, average, and return the model."""
        while self._under_way:
            self._mix_in()
        self._context.communicator.mean(self._flat.state)
        return self._context.model

    def state_dict(self) -> dict[str, Any]:
        """Return replica, weight, optimizer, and the messages under way, which are received first."""
        for message in self._under_way:
            message.wait()
        return {
            "model": self._flat.state_dict(),
            "optimizer": saved(self._optimizer),
            "weight": self._weight,
            "under_way": [[message.values.clone(), message.weight] for message in self._under_way],
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
        self._weight = state["weight"]
        self._under_way = deque(_Message(values.clone(), weight) for values, weight in state["under_way"])
        self._num_steps = state["num_steps"]
