"""OIALR: orthogonality-informed adaptive low-rank training (Coquelin et al. 2024; Coquelin 2024, ch. 4, algorithm 1).

1. The first d steps train in full rank. Then each weight becomes U Sigma V^T by its SVD; U and V are frozen, and the
   dense k x k matrix Sigma is trained as a new parameter, with new moments.
2. Every nu steps the bases of the last min(L, ceil(L alpha u)) of L weights are updated, where u counts the updates
   from 1 (eq. 4.13):

       U', S', V'^T = SVD(Sigma),  U <- U U',  V^T <- V'^T V^T,  Sigma <- diag(S')

   without the singular values below beta times the largest. Sigma's moments are turned with the bases: the first ones
   become U'^T M V', the second ones (U'*U')^T v (V'*V') with elementwise squares (`turned.py`). Coquelin 2024 reshapes
   them, which makes the training depend on the signs of singular vectors.

Weights whose shorter side is at most a tenth of the longer one stay in full rank; the first and the last one optionally
do. The ranks average the gradients of the trained parameters. They divide the SVDs among themselves and broadcast them.

Bytes: one rank sends 2(p-1)/p 4(sum k^2 + rest) per step after conversion, and 2(p-1)/p 4n before. One rank broadcasts
the SVD of an (m, n) matrix with k values kept, (p-1) 4k(m + n + 1), and all k are summed as 8-byte integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.buckets import GradientBuckets
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.optimizers import OptimizerSettings, restore, saved, state_bytes
from atoll.methods.common.turned import Turned
from atoll.methods.common.validation import require
from atoll.methods.low_rank.factored import eligible_layers, factor, forbid_nested_tensors, load, weight_of
from atoll.methods.low_rank.factored_groups import REPLACES, FactoredGroups, check_retargets
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.low_rank.metrics import estimated_communication_reduction
from atoll.methods.low_rank.shared_svd import Svd, shared_svds
from atoll.methods.method import Batch, Context, Method, MetricDirections


@dataclass(frozen=True, kw_only=True)
class OialrHyperparameters:
    """Hyperparameters of OIALR.

    Coquelin 2024 counts d and nu in steps; here they are shares of all training steps, so that they mean the same in a
    short and in a long training (tables A.1 and A.4: d of 0.16 and 0.03, nu of 0.006 and 0.02).

    Attributes:
        delay: d, share of the steps before conversion; about a third (section 4.3). Above 1 nothing is converted.
        update_period: nu, share of the steps between two basis updates.
        beta: smallest singular value that is kept, as a share of the largest.
        alpha: share of the weights that each basis update adds.
        full_rank_first, full_rank_last: whether the first and the last weight of the network stay in full rank.
        full_rank_warmup: whether training starts in full rank; if not, it starts converted, and `delay` only delays
            the first basis update (section 4.4.5).
    """

    delay: float = 1 / 3
    update_period: float = 0.02
    beta: float = 0.1
    alpha: float = 0.1
    full_rank_first: bool = False
    full_rank_last: bool = True
    full_rank_warmup: bool = True

    def __post_init__(self) -> None:
        require(self.delay >= 0, f"delay must be at least 0; got {self.delay}")
        require(0 < self.update_period <= 1, f"update_period must be in (0, 1]; got {self.update_period}")
        require(0 <= self.beta < 1, f"beta must be in [0, 1); got {self.beta}")
        require(0 < self.alpha <= 1, f"alpha must be in (0, 1]; got {self.alpha}")


def _in_steps(hyperparameters: OialrHyperparameters, num_steps: int) -> tuple[int, int]:
    """The delay and the period of the updates."""
    h = hyperparameters
    return round(h.delay * num_steps), max(1, round(h.update_period * num_steps))


def num_updated(num_layers: int, alpha: float, num_updates: int) -> int:
    """min(L, ceil(L alpha u)), the number of weights, from the output backwards, in the u-th basis update."""
    return min(num_layers, math.ceil(num_layers * alpha * num_updates - 1e-9))  # as 10 * 0.1 * 3 is above 3


def rotate(u: Tensor, vt: Tensor, svd: Svd) -> dict[str, Tensor]:
    """The factors after a basis update, from the bases before it and the SVD of Sigma (Coquelin 2024, eq. 4.13)."""
    return {"U": u @ svd.u, "S": torch.diag(svd.s), "Vt": svd.vt @ vt}


class Oialr(Method[OialrHyperparameters]):
    """Train in full rank until the bases are stable, then train the matrices that mix them."""

    Hyperparameters = OialrHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("update_period", "beta")
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "min_lr": 1e-5}
    metric_directions: ClassVar[MetricDirections] = {
        "trainable_share": "minimize",
        "compression": "maximize",
        "ecr": "maximize",
        "optimizer_bytes": "minimize",
    }

    @classmethod
    def without_effect(cls, hyperparameters: OialrHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """Those of the conversion and of the bases' updates, where the training ends before."""
        h = hyperparameters
        end = shape.num_steps or 10**6  # shares mean the same in a training of any length
        delay, period = _in_steps(h, end)
        updates = ("update_period", "beta", "alpha")
        if delay > end and h.full_rank_warmup:
            return idle((*updates, "full_rank_first", "full_rank_last"), f"a delay of {h.delay:g} is beyond the end")
        if end // period * period <= delay:
            return idle(updates, f"no basis is updated after a delay of {h.delay:g}, every {h.update_period:g}")
        return {}

    @classmethod
    def unsupported(cls, hyperparameters: OialrHyperparameters) -> Mapping[str, str]:
        """Averages of weights, as the network is not linear in what is trained, and compiling it."""
        ema = "replaces weights by products whose bases change, and an average of such products has no such factors"
        return {**super().unsupported(hyperparameters), "ema": ema, "compile": REPLACES}

    @classmethod
    def check(cls, hyperparameters: OialrHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for an optimizer of the user's own, whose groups would be lost with the weights."""
        super().check(hyperparameters, settings, num_ranks)
        check_retargets("oialr", settings)

    def __init__(self, hyperparameters: OialrHyperparameters, context: Context) -> None:
        h = hyperparameters
        num_steps = context.num_epochs * context.steps_per_epoch
        self._hyperparameters = h
        self._context = context
        self._delay, self._period = _in_steps(h, num_steps)
        self._layers = eligible_layers(
            context.model, full_rank_first=h.full_rank_first, full_rank_last=h.full_rank_last
        )
        forbid_nested_tensors(context.model)
        self._num_frozen = sum(p.numel() for p in context.model.parameters() if not p.requires_grad)
        self._num_full_rank = sum(p.numel() for p in context.model.parameters()) - self._num_frozen
        if not self._layers:
            self.notes = ("oialr: the network has no weight to convert, so this is ddp",)
        self._groups = FactoredGroups(context.model, context.groups(context.model))
        self._flat = FlatModel(context.model, self._groups.of(context.model))
        self._buckets = GradientBuckets(self._flat, context.communicator)
        self._optimizer = context.optimizers(self._flat.groups_by_parameter)
        self._num_steps = self._num_steps_full_rank = 0
        self._num_updates = 0
        if not h.full_rank_warmup:
            self._convert()

    @property
    def _is_converted(self) -> bool:
        return any(isinstance(layer, Factored) for layer in self._layers.values())

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch (algorithm 1, whose t counts from 1)."""
        self._num_steps += 1
        if self._hyperparameters.full_rank_warmup and self._num_steps == max(1, self._delay):
            self._convert()
        elif self._is_converted and self._num_steps > self._delay and self._num_steps % self._period == 0:
            self._update_bases()
        self._num_steps_full_rank += not self._is_converted
        loss = self._context.gradient(batch, self._buckets)
        self._optimizer.step()
        return loss

    def _convert(self) -> None:
        layers = list(self._layers.values())
        weights = [weight_of(layer).detach() for layer in layers]
        for layer, (u, s, vt) in zip(layers, self._svds(weights, 0.0), strict=True):
            factor(layer, {"U": u, "S": torch.diag(s), "Vt": vt}, trained=["S"])
        self._adopt()

    def _update_bases(self) -> None:
        self._num_updates += 1
        num_layers = num_updated(len(self._layers), self._hyperparameters.alpha, self._num_updates)
        layers: list[Any] = list(self._layers.values())[-num_layers:]
        turned = {}
        svds = self._svds([layer.S.detach() for layer in layers], self._hyperparameters.beta)
        for layer, svd in zip(layers, svds, strict=True):
            before = layer.S
            factor(layer, rotate(layer.U, layer.Vt, svd), trained=["S"])
            turned[layer.S] = Turned(before, svd.u, svd.vt.T)
        self._adopt(turned)

    def _svds(self, matrices: list[Tensor], cutoff: float) -> list[Svd]:
        return shared_svds(matrices, cutoff, self._context.communicator)

    def _adopt(self, turned: Mapping[nn.Parameter, Turned] | None = None) -> None:
        """Train the network's current parameters; those in `turned` get another one's moments in their basis."""
        self._flat.release_hooks()
        self._flat = FlatModel(self._context.model, self._groups.of(self._context.model))
        self._buckets = GradientBuckets(self._flat, self._context.communicator)
        self._context.optimizers.retarget(self._optimizer, self._flat.groups_by_parameter, turned or {})

    def metrics(self) -> dict[str, float]:
        """Return sizes relative to the full-rank network's trained parameters, and the optimizer's memory."""
        share = self._flat.parameters.numel() / self._num_full_rank
        num_all = sum(p.numel() for p in self._context.model.parameters()) - self._num_frozen
        full_rank_share = self._num_steps_full_rank / max(1, self._num_steps)
        return {
            "trainable_share": share,
            "compression": self._num_full_rank / num_all,
            "ecr": estimated_communication_reduction(full_rank_share, 1 - full_rank_share, share),
            "optimizer_bytes": float(state_bytes(self._optimizer)),
        }

    def inner_ranks(self) -> dict[str, int]:
        """Return the ranks k of the converted layers."""
        return {name: layer.inner_rank for name, layer in self._layers.items() if isinstance(layer, Factored)}

    def evaluation_model(self) -> nn.Module:
        """Average the running statistics, and return the model."""
        self._flat.average_statistics(self._context.untracked)
        return self._context.model

    def finalize(self) -> nn.Module:
        """Return the trained model with its factors; `merged_state_dict` multiplies them."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return the network with its factors, the optimizer, and counters."""
        return {
            "model": {name: value.clone() for name, value in self._context.model.state_dict().items()},
            "optimizer": saved(self._optimizer),
            "counters": [self._num_steps, self._num_steps_full_rank, self._num_updates],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; either side may be in full rank or converted."""
        load(self._context.model, state["model"], trained=["S"])
        self._adopt()
        restore(self._optimizer, state["optimizer"])
        self._num_steps, self._num_steps_full_rank, self._num_updates = state["counters"]
