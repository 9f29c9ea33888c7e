"""Elastic averaging (Zhang, Choromanska and LeCun 2015; Zhang 2016, chapters 2 and 6): the base of EASGD and EAMSGD.

Every rank i has a replica x_i that an elastic force ties to a center c. Every tau local steps, the first at t = 0:

    jacobi         x_i <- x_i - lr g(x_i) - alpha (x_i - c),  c <- (1 - beta) c + beta mean(x_i)    (eqs. 2.3, 2.4, 5.9)
                   both from the old values, so that the all-reduce overlaps the gradient
    gauss_seidel   x_i <- x_i - alpha (x_i - c),  x_i <- x_i - lr g(x_i),  c <- c + beta (mean(x_i) - c)    (eq. 6.3)
    async          x_i <- x_i - lr g(x_i) - alpha (x_i - c),  c <- c + beta/p (x_i - c)    (algorithms 1 and 2)
                   each rank by its own clock; the owner of c answers from its poll points, while the gradient is
                   computed
    async_overlap  as async, with the difference applied at the end of the period (end of section 2.2), or of the epoch

p is the number of replicas, one for each rank; with `server: dedicated` the owner of c has none, and p is one less.
With alpha = beta/p, the elastic symmetry, the forces on x_i and c are opposite. Between exchanges the ranks descend
alone. In the asynchronous forms a rank that has finished its steps stays tied to the center: the owner continues to
move its stale replica, the last one it received, as often as the others exchange, so that c does not drift to the ranks
still at work (the tail of section 4.3.3). c then moves for a replica that its rank does not move, and sum(x_i) + c is
not kept at rate 0. Zhang 2016 has no such replicas: `stale_replicas: false`.

Bytes per step: async 8n/tau for each rank but the owner, whose exchange stays in its memory, half of them sent by it
and half by the owner; jacobi and gauss_seidel 2(p-1)/p 4n/tau per rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from atoll.methods.common.averages import RunningAverage
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.weight_average import OWN_AVERAGE, Evaluated, center
from atoll.methods.method import Batch, Context
from atoll.methods.parameter_server.center import OWNER, Center, ParameterServer
from atoll.methods.parameter_server.elastic_hyperparameters import ElasticHyperparameters
from atoll.methods.parameter_server.served import Served
from atoll.methods.sequential.descent import Descent

E = TypeVar("E", bound=ElasticHyperparameters)


def pull(x: Tensor, seen: Tensor, center: Tensor, alpha: float) -> None:
    """Subtract the elastic displacement from a replica in place: x <- x - alpha (seen - c) (eq. 2.3).

    `seen` (n,) is the replica at the exchange; it is overwritten. Nothing is allocated: that would cost more than the
    arithmetic.
    """
    x.sub_(torch.sub(seen, center, out=seen), alpha=alpha)


def follow(center: Tensor, x: Tensor, beta: float) -> None:
    """Move the center towards x in place: c <- (1 - beta) c + beta x (eq. 2.4; for one replica of p, beta/p)."""
    center.lerp_(x, beta)


@dataclass
class StaleReplica:
    """The last replica that the parameter server saw of a rank that has departed.

    Attributes:
        parameters: (n,).
        due: exchanges, in fractions of one, that it owes to keep up with the ranks at work.
    """

    parameters: Tensor
    due: float = 0.0


class ElasticBase(Served[E]):
    """Tie replicas to a center."""

    mutable: ClassVar[tuple[str, ...]] = ("tau", "beta", "alpha")

    @classmethod
    def without_effect(cls, hyperparameters: E, shape: TrainingShape) -> Mapping[str, str]:
        """All where replicas and center start equal and never exchange again; what only servers do where ranks meet."""
        h = hyperparameters
        if shape.ends_by(h.tau):
            why = f"the center never moves: the only exchange in {shape.num_steps} steps is before the first one"
            return idle(("form", "tau", "beta", "alpha", "report", "stale_replicas"), why)
        reasons = dict(super().without_effect(h, shape))
        num_replicas = shape.num_ranks - cls.num_servers(h)
        if not h.stale_replicas and (num_replicas == 1 or not cls.serves(h)):
            reasons |= idle(("stale_replicas",), "no rank finishes before another one")
        return reasons

    @classmethod
    def serves(cls, hyperparameters: E) -> bool:
        """In the asynchronous forms."""
        return hyperparameters.form.startswith("async")

    @classmethod
    def unsupported(cls, hyperparameters: E) -> Mapping[str, str]:
        """A second average of the center."""
        own = OWN_AVERAGE if hyperparameters.report == "average" else {}
        return {**super().unsupported(hyperparameters), **own}

    def __init__(self, hyperparameters: E, context: Context, *, heavy_ball: bool = False) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        self._num_servers = self.num_servers(hyperparameters)
        self._size = context.communicator.size - self._num_servers  # replicas
        self._alpha = hyperparameters.beta / self._size if hyperparameters.alpha is None else hyperparameters.alpha
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked, self._num_servers)
        self._descent = Descent(context, self._flat, heavy_ball=heavy_ball)
        self._num_steps = 0
        # The asynchronous center is in its owner's host memory, a synchronous one next to every replica.
        self._is_async = hyperparameters.form.startswith("async")
        self._value = self._flat.parameters.to("cpu" if self._is_async else self._flat.parameters.device, copy=True)
        self._average = RunningAverage(self._value) if hyperparameters.report == "average" else None
        self._seen = torch.empty_like(self._flat.parameters)
        self._center: Center | None = None
        self._is_waiting = False
        self._stale: dict[int, StaleReplica] = {}
        if self._is_async:
            self._center = Center(
                context.communicator, self._flat.parameters, self._exchange, is_dedicated=self._num_servers > 0
            )
            if self._center.server is not None:
                self._flat.on_layer(self._center.server.serve)

    # The rank's steps.

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        exchanges = self._num_steps % self._hyperparameters.tau == 0
        self._num_steps += 1
        if self._center is not None and self._center.only_serves:
            self._center.serve_step(exchanges=exchanges)
            return self._flat.parameters.new_zeros(())
        loss = self._STEPS[self._hyperparameters.form](self, batch, exchanges)
        if self._num_steps % self._context.steps_per_epoch == 0:
            self._depart()
        return loss

    def _step_jacobi(self, batch: Batch, exchanges: bool) -> Tensor:
        if not exchanges:
            return self._descent.step(batch)
        self._seen.copy_(self._flat.parameters)
        average = self._seen.clone()
        mean = self._context.communicator.start_mean(average)
        loss = self._descent.step(batch)
        pull(self._flat.parameters, self._seen, self._value, self._alpha)
        mean.wait()
        self._move(average, self._hyperparameters.beta)
        return loss

    def _step_gauss_seidel(self, batch: Batch, exchanges: bool) -> Tensor:
        if not exchanges:
            return self._descent.step(batch)
        self._seen.copy_(self._flat.parameters)
        pull(self._flat.parameters, self._seen, self._value, self._alpha)
        loss = self._descent.step(batch)
        self._seen.copy_(self._flat.parameters)
        self._context.communicator.mean(self._seen)
        self._move(self._seen, self._hyperparameters.beta)
        return loss

    def _step_async(self, batch: Batch, exchanges: bool) -> Tensor:
        if exchanges:
            self._ask()
        loss = self._descent.step(batch)
        if exchanges:
            self._apply()
        return loss

    def _step_async_overlap(self, batch: Batch, exchanges: bool) -> Tensor:
        if exchanges:
            self._apply()
            self._ask()
        return self._descent.step(batch)

    _STEPS: ClassVar[Mapping[str, Callable[..., Tensor]]] = {
        "async": _step_async,
        "async_overlap": _step_async_overlap,
        "jacobi": _step_jacobi,
        "gauss_seidel": _step_gauss_seidel,
    }

    def _ask(self) -> None:
        assert self._center is not None
        self._seen.copy_(self._flat.parameters)
        self._center.ask(self._seen)
        self._is_waiting = True

    def _apply(self) -> None:
        if self._is_waiting:
            assert self._center is not None
            pull(self._flat.parameters, self._seen, self._center.answer().to(self._seen.device), self._alpha)
            self._is_waiting = False

    def _depart(self) -> None:
        if self._center is not None:
            self._apply()
            self._center.depart()

    # The center.

    def _move(self, x: Tensor, beta: float) -> None:
        if self._average is not None:
            self._average.update(self._value)
        follow(self._value, x, beta)

    def _exchange(self, rank: int, x: Tensor, answer: Tensor) -> None:
        """The parameter server's rule in the asynchronous forms: answer with the center, then move it."""
        assert self._center is not None
        assert self._center.server is not None
        answer.copy_(self._value)
        self._move(x, self._hyperparameters.beta / self._size)
        if self._hyperparameters.stale_replicas:
            self._exchange_stale(self._center.server, rank)

    def _exchange_stale(self, server: ParameterServer, asking: int) -> None:
        """Let stale replicas exchange as often as each of the ranks at work."""
        departed = [rank for rank in server.departed() if rank != asking]
        # After a restart the owner knows no replica of a rank that has not asked since.
        known = [rank for rank in departed if rank == OWNER or server.clients[rank].num_served > 0]
        self._stale = {rank: self._stale.get(rank) or self._stale_replica(server, rank) for rank in known}
        for stale in self._stale.values():
            stale.due += 1 / (self._size - len(departed))
            if stale.due > 1 - 1e-9:  # a sum of 1/k, k times
                stale.due -= 1
                center = self._value.clone()
                self._move(stale.parameters, self._hyperparameters.beta / self._size)
                pull(stale.parameters, stale.parameters.clone(), center, self._alpha)

    def _stale_replica(self, server: ParameterServer, rank: int) -> StaleReplica:
        if rank == OWNER:
            replica = self._flat.parameters.to("cpu", copy=True)
            if self._is_waiting:
                assert self._center is not None
                pull(replica, self._seen.to("cpu", copy=True), self._center.answer(), self._alpha)
            return StaleReplica(replica)
        client = server.clients[rank]
        assert client.received is not None
        assert client.answered is not None
        replica = client.received.clone()
        pull(replica, replica.clone(), client.answered, self._alpha)
        return StaleReplica(replica)

    # Evaluation and state.

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the center's place."""
        return center(model, self._value, OWNER, num_ranks, self._num_servers)

    def evaluation_model(self) -> nn.Module:
        """Return the center, or its average, with the running statistics' mean over ranks; collective."""
        self._meet()
        return self._evaluation_copy.load(self._value if self._average is None else self._average.value, OWNER)

    def _meet(self) -> None:
        if self._center is not None:
            self._center.answer()  # applied at its own step
            self._center.meet()

    def finalize(self) -> nn.Module:
        """Wait until every rank is done, and return the center."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return replica, the owner's center and its average, an answer to be applied, and counters; collective."""
        self._meet()
        pending = None
        if self._is_waiting:
            assert self._center is not None
            pending = {"seen": self._seen.clone(), "answer": self._center.answer().clone()}
        return {
            "descent": self._descent.state_dict(),
            "center": self._value.clone(),
            "average": self._average.state_dict() if self._average is not None else None,
            "pending": pending,
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state["descent"])
        self._value.copy_(state["center"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        pending = state["pending"]
        self._is_waiting = pending is not None
        if pending is not None:
            assert self._center is not None
            self._seen.copy_(pending["seen"])
            self._center.answer().copy_(pending["answer"])
        self._num_steps = state["num_steps"]
