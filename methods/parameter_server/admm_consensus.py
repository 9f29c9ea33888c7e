"""Consensus ADMM, linearized (Ouyang et al. 2013; Zhang 2016, eqs. 3.51 to 3.54): EASGD's unstable comparator.

Every rank has a replica x_i and a dual l_i (scaled by 1/rho) that ties it to a center c:

    l_i <- l_i - (x_i - c)                                              (3.52)
    x_i <- (x_i - lr g(x_i) + lr rho (l_i + c)) / (1 + lr rho)          (3.53)
    c   <- mean(x_i - l_i)                                              (3.54)

form `synchronous`: all ranks move at once, then c. form `round_robin`: the ranks move in turn, and c after each; a step
of this method is then p of the source's, and the gradients, which do not depend on c, are computed at once. It can
diverge at rates at which each of its maps alone is stable (section 3.3). form `async`: each rank moves by its own
clock, by the center that answered its last move; it sends the change of x_i - l_i, by which the owner of c moves the
mean of eq. 3.54, and answers with that while the next gradient is computed. Zhang 2016 compares such a form with EASGD
(chapter 4, note 1) without its equations. A rank that has finished an epoch stays in the mean with its last move.

p is the number of replicas: with `server: dedicated` the owner has none.

Bytes per step and rank: synchronous 2(p-1)/p 4n; round_robin (p-1) 4n, a broadcast from each rank in turn; async 8n for
each rank but the owner, half of them sent by it and half by the owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.validation import require, require_choice
from atoll.methods.common.weight_average import Evaluated, center
from atoll.methods.method import Batch, Context
from atoll.methods.parameter_server.center import OWNER, Center
from atoll.methods.parameter_server.served import Served, ServedHyperparameters
from atoll.methods.sequential.descent import Descent, check_descent

FORMS = ("synchronous", "round_robin", "async")


@dataclass(frozen=True, kw_only=True)
class AdmmConsensusHyperparameters(ServedHyperparameters):
    """Hyperparameters of consensus ADMM.

    Attributes:
        form: synchronous, round_robin, or async (each rank by its own clock).
        rho: the penalty's weight; EASGD's alpha is lr rho.
        server: in the form async, shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """

    form: str = "synchronous"
    rho: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("form", self.form, FORMS)
        require(self.rho > 0, f"rho must be above 0; got {self.rho}")


def dual_ascent(dual: Tensor, x: Tensor, center: Tensor) -> None:
    """Zhang 2016, eq. 3.52, in place on the dual (n,)."""
    dual.sub_(x - center)


def descend(x: Tensor, gradient: Tensor, dual: Tensor, center: Tensor, rate: float, pull: float | Tensor) -> None:
    """Zhang 2016, eq. 3.53, in place on the replica (n,); `pull` is lr rho, (n,) if the rate is not one for all."""
    x.sub_(gradient, alpha=rate).add_((dual + center) * pull).div_(1 + pull)


class AdmmConsensus(Served[AdmmConsensusHyperparameters]):
    """Tie replicas to a center by duals."""

    Hyperparameters = AdmmConsensusHyperparameters
    asynchronous: ClassVar[bool] = False  # by default
    mutable: ClassVar[tuple[str, ...]] = ("rho",)
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def serves(cls, hyperparameters: AdmmConsensusHyperparameters) -> bool:
        """In the asynchronous form."""
        return hyperparameters.form == "async"

    @classmethod
    def check(cls, hyperparameters: AdmmConsensusHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for momentum, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("admm_consensus", settings, momentum_form="eamsgd")

    def __init__(self, hyperparameters: AdmmConsensusHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._communicator = context.communicator
        self._optimizers = context.optimizers
        self._num_servers = self.num_servers(hyperparameters)
        self._num_replicas = context.communicator.size - self._num_servers
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked, self._num_servers)
        self._descent = Descent(context, self._flat)
        self._dual = torch.zeros_like(self._flat.parameters)
        self._center = self._flat.parameters.clone()  # as this rank knows it
        self._owned = self._center  # as it is, on its owner
        self._told: Tensor | None = None  # x - l as it is in the center, which a change of rho does not change
        self._access: Center | None = None
        self._is_waiting = False
        if self.serves(hyperparameters):
            self._owned = self._flat.parameters.to("cpu", copy=True)
            self._access = Center(
                context.communicator, self._flat.parameters, self._exchange, is_dedicated=self._num_servers > 0
            )
            if self._access.server is not None:
                self._flat.on_layer(self._access.server.serve)

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        if self._access is not None:
            return self._step_async(batch, self._access)
        loss = self._descent.gradient(batch)
        if self._hyperparameters.form == "synchronous":
            self._center.copy_(self._moved())
            self._communicator.mean(self._center)
        else:
            for rank in range(self._communicator.size):
                if rank == self._communicator.rank:
                    self._center.add_(self._change(), alpha=1 / self._num_replicas)
                self._communicator.broadcast(self._center, rank)
        return loss

    def _step_async(self, batch: Batch, access: Center) -> Tensor:
        if access.only_serves:
            access.serve_step(exchanges=True)
            return self._flat.parameters.new_zeros(())
        loss = self._descent.gradient(batch)
        self._take_answer(access)
        access.ask(self._change())
        self._is_waiting = True
        return loss

    def _take_answer(self, access: Center) -> None:
        if self._is_waiting:
            self._center.copy_(access.answer())
            self._is_waiting = False

    def _exchange(self, rank: int, change: Tensor, answer: Tensor) -> None:
        """The parameter server's rule."""
        self._owned.add_(change, alpha=1 / self._num_replicas)
        answer.copy_(self._owned)

    def _meet(self) -> None:
        if self._access is not None:
            self._take_answer(self._access)  # the next move is the first to see it
            self._access.meet()

    def _change(self) -> Tensor:
        """Move; returns the change of x - l since the last one, this rank's part of the change of eq. 3.54's mean."""
        before = self._flat.parameters - self._dual if self._told is None else self._told
        self._told = self._moved()
        return self._told - before

    def _moved(self) -> Tensor:
        """Move this rank's dual and replica; returns x - l."""
        dual_ascent(self._dual, self._flat.parameters, self._center)
        rate = self._optimizers.learning_rate
        pull = self._flat.rate_factor * (rate * self._hyperparameters.rho)  # the gradients have the factor already
        descend(self._flat.parameters, self._flat.gradients, self._dual, self._center, rate, pull)
        return self._flat.parameters - self._dual

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the center's place."""
        return center(model, self._owned, OWNER, num_ranks, self._num_servers)

    def evaluation_model(self) -> nn.Module:
        """Return the center, with the running statistics' mean over ranks; collective."""
        self._meet()
        return self._evaluation_copy.load(self._owned, OWNER)

    def finalize(self) -> nn.Module:
        """Return the center."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return replica, dual, center (as this rank knows it, and as its owner does) and this rank's part of it."""
        self._meet()
        return {
            "model": self._flat.state_dict(),
            "dual": self._dual.clone(),
            "center": self._center.clone(),
            "owned": None if self._access is None else self._owned.clone(),
            "told": None if self._told is None else self._told.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        self._dual.copy_(state["dual"])
        self._center.copy_(state["center"])
        if self._access is not None:
            self._owned.copy_(state["owned"])
        if (told := state.get("told")) is not None:  # not in checkpoints of earlier versions
            self._told = told.to(self._dual.device, copy=True)

    def change(self, before: AdmmConsensusHyperparameters) -> None:
        """Scale the dual, which is in units of 1/rho."""
        self._dual.mul_(before.rho / self._hyperparameters.rho)
