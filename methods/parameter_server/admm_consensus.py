"""Consensus ADMM, linearized (Ouyang et al. 2013; Zhang 2016, eqs. 3.51 to 3.54): EASGD's unstable comparator.

Every rank has a replica x_i and a dual l_i (scaled by 1/rho) that ties it to a center c:

    l_i <- l_i - (x_i - c)                                              (3.52)
    x_i <- (x_i - lr g(x_i) + lr rho (l_i + c)) / (1 + lr rho)          (3.53)
    c   <- mean(x_i - l_i)                                              (3.54)

form `synchronous`: all ranks move at once, then c. form `round_robin`: the ranks move in turn, and c after each; a step
of this method is then p of the source's, and the gradients, which do not depend on c, are computed at once. It can
diverge at rates at which each of its maps alone is stable (section 3.3).

Bytes per step and rank: synchronous 2(p-1)/p 4n; round_robin (p-1) 4n, a broadcast from each rank in turn.
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
from atoll.methods.method import Batch, Context, Method
from atoll.methods.sequential.descent import Descent, check_descent


@dataclass(frozen=True, kw_only=True)
class AdmmConsensusHyperparameters:
    """Hyperparameters of consensus ADMM.

    Attributes:
        form: synchronous or round_robin.
        rho: the penalty's weight; EASGD's alpha is lr rho.
    """

    form: str = "synchronous"
    rho: float = 1.0

    def __post_init__(self) -> None:
        require_choice("form", self.form, ("synchronous", "round_robin"))
        require(self.rho > 0, f"rho must be above 0; got {self.rho}")


def dual_ascent(dual: Tensor, x: Tensor, center: Tensor) -> None:
    """Zhang 2016, eq. 3.52, in place on the dual (n,)."""
    dual.sub_(x - center)


def descend(x: Tensor, gradient: Tensor, dual: Tensor, center: Tensor, rate: float, pull: float | Tensor) -> None:
    """Zhang 2016, eq. 3.53, in place on the replica (n,); `pull` is lr rho, (n,) if the rate is not one for all."""
    x.sub_(gradient, alpha=rate).add_((dual + center) * pull).div_(1 + pull)


class AdmmConsensus(Method[AdmmConsensusHyperparameters]):
    """Tie replicas to a center by duals."""

    Hyperparameters = AdmmConsensusHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("rho",)
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: AdmmConsensusHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for momentum, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("admm_consensus", settings, momentum_form="eamsgd")

    def __init__(self, hyperparameters: AdmmConsensusHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._communicator = context.communicator
        self._optimizers = context.optimizers
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked)
        self._descent = Descent(context, self._flat)
        self._dual = torch.zeros_like(self._flat.parameters)
        self._center = self._flat.parameters.clone()

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._descent.gradient(batch)
        if self._hyperparameters.form == "synchronous":
            self._center.copy_(self._moved())
            self._communicator.mean(self._center)
        else:
            for rank in range(self._communicator.size):
                if rank == self._communicator.rank:
                    before = self._flat.parameters - self._dual
                    # The mean of eq. 3.54, of which only this rank's part has changed.
                    self._center.add_(self._moved() - before, alpha=1 / self._communicator.size)
                self._communicator.broadcast(self._center, rank)
        return loss

    def _moved(self) -> Tensor:
        """Move this rank's dual and replica; returns x - l."""
        dual_ascent(self._dual, self._flat.parameters, self._center)
        rate = self._optimizers.learning_rate
        pull = self._flat.rate_factor * (rate * self._hyperparameters.rho)  # the gradients have the factor already
        descend(self._flat.parameters, self._flat.gradients, self._dual, self._center, rate, pull)
        return self._flat.parameters - self._dual

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the center's place."""
        return center(model, self._center, 0, num_ranks)

    def evaluation_model(self) -> nn.Module:
        """Return the center, with the running statistics' mean over ranks."""
        return self._evaluation_copy.load(self._center)

    def finalize(self) -> nn.Module:
        """Return the center."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return replica, dual and center."""
        return {"model": self._flat.state_dict(), "dual": self._dual.clone(), "center": self._center.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        self._dual.copy_(state["dual"])
        self._center.copy_(state["center"])

    def change(self, before: AdmmConsensusHyperparameters) -> None:
        """Scale the dual, which is in units of 1/rho."""
        self._dual.mul_(before.rho / self._hyperparameters.rho)
