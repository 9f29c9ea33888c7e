"""AB training: low-rank training in independent groups (Coquelin et al. 2024; Coquelin 2024, chapter 5, algorithm 2).

1. Warm-up: data-parallel training in full rank (ddp). Then repeat:
2. Decompose every weight (eqs. 5.3, 5.4) into A B = (U S^1/2)(S^1/2 V^T), with the singular values of at least `cutoff`
   times the largest. The SVDs are distributed over ranks and broadcast. In algorithm 2 every rank decomposes the same
   weight and takes the largest rank; distributing them gives equal factors on all ranks, signs included, in a fraction
   of the time.
3. For `group_steps` the first half of the groups of ranks (the larger half of an odd number) trains A and the others B,
   with the other factor frozen. Gradients are averaged inside a group only. One-dimensional parameters and layers in
   full rank are trained, too.
4. Average A and B over all ranks, frozen copies included, and set W = mean(A) mean(B) (eq. 5.8). All other trained
   parameters are averaged, too.
5. Rebound: ddp in full rank.

Parameters that change shape start with new moments; after a merge of groups all parameters do, as the groups' moments
differ. The learning rate then climbs linearly to its schedule over `lr_rebound` steps. The first and the last weight,
and weights of unfavorable shape, stay in full rank.

Merge modes (`ab_merges.py`): `with_stale` as above; `only_learned` without the frozen copies; `full` the mean of the
products A B; `only_b` ("no groups"): all ranks train B together.

The result is the network in full rank, so `compression`, which is that of the last decomposition, is of another network
than the accuracy next to it. With `low_rank_result` the network that is evaluated, and that the training ends with, is
decomposed at `cutoff` as well: accuracy, compression and saved weights are then of the same factors A and B.

Bytes sent by one rank: ddp 2(p-1)/p 4n per step; a step in a group of g ranks 2(g-1)/g 4(sum mk or sum kn, + rest),
inside the group; a merge 2(p-1)/p 4(sum k(m+n) + rest + statistics), or 4n in all for `full`, or only the statistics
for `only_b`; an SVD (p-1) 4k(m + n + 1) by the rank that computes it, and a sum of all k as 8-byte integers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.buckets import GradientBuckets
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.optimizers import OptimizerSettings, restore, saved, state_bytes
from atoll.methods.common.validation import require, require_choice
from atoll.methods.low_rank.ab_factors import factor_all
from atoll.methods.low_rank.ab_merges import MERGES, FactorName, merge_mode, place
from atoll.methods.low_rank.factored import (
    eligible_layers,
    forbid_nested_tensors,
    join,
    load,
    restore_layer,
    shape_of,
)
from atoll.methods.low_rank.factored_groups import REPLACES, FactoredGroups, check_retargets
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.low_rank.metrics import estimated_communication_reduction
from atoll.methods.low_rank.packing import pack, unpack
from atoll.methods.method import Batch, Context, Method, MetricDirections


@dataclass(frozen=True, kw_only=True)
class AbHyperparameters:
    """Hyperparameters of AB training, in the form of the ratios of Coquelin 2024, section 5.3.3.

    Attributes:
        warmup: share of all training steps before the first decomposition.
        group_steps: share of all training steps between a decomposition and its merge.
        rebound: number of full-rank steps after a merge, as a share of group_steps.
        lr_rebound: number of steps in which the learning rate climbs again, as a share of group_steps.
        cutoff: smallest singular value that is kept, as a share of the largest (Coquelin 2024, table A.6).
        group_size: ranks per group (ibid.); at most half of the ranks, so that there are two groups.
        merge: how the groups' factors become one weight.
        low_rank_result: whether the evaluated and final network is decomposed, so that size and accuracy are its own.
    """

    warmup: float = 0.2
    group_steps: float = 1 / 30
    rebound: float = 0.25
    lr_rebound: float = 0.5
    cutoff: float = 0.15
    group_size: int = 4
    merge: str = "with_stale"
    low_rank_result: bool = False

    def __post_init__(self) -> None:
        require(self.warmup >= 0, f"warmup must be at least 0; got {self.warmup}")
        require(0 < self.group_steps <= 1, f"group_steps must be in (0, 1]; got {self.group_steps}")
        require(self.rebound >= 0, f"rebound must be at least 0; got {self.rebound}")
        require(self.lr_rebound >= 0, f"lr_rebound must be at least 0; got {self.lr_rebound}")
        require(0 <= self.cutoff < 1, f"cutoff must be in [0, 1); got {self.cutoff}")
        require(self.group_size >= 1, f"group_size must be at least 1; got {self.group_size}")
        require_choice("merge", self.merge, MERGES)


def _restore(model: nn.Module, merged: Mapping[str, Tensor]) -> None:
    """Give the network the full-rank weights and all other values of a merge."""
    for name, layer in model.named_modules():
        if isinstance(layer, Factored):
            restore_layer(layer, merged[join(name, layer.weight_name)])
    model.load_state_dict(dict(merged))


def _average(tensors: list[Tensor], communicator: Communicator) -> None:
    """Replace tensors by their means over ranks, in one message."""
    if tensors:
        packed = pack(tensors)
        communicator.mean(packed)
        for tensor, mean in zip(tensors, unpack(packed, [tensor.shape for tensor in tensors]), strict=True):
            tensor.copy_(mean)


class Ab(Method[AbHyperparameters]):
    """Train one factor in each group of ranks, and combine them by merging."""

    Hyperparameters = AbHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("group_steps", "rebound", "lr_rebound", "cutoff")
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "min_lr": 1e-5}
    metric_directions: ClassVar[MetricDirections] = {
        "trainable_share": "minimize",
        "compression": "maximize",
        "group_share": None,
        "ecr": "maximize",
        "optimizer_bytes": "minimize",
    }
    min_ranks: ClassVar[int] = 2

    @classmethod
    def without_effect(cls, hyperparameters: AbHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """All but the warm-up if that is the whole training; the groups' size if only one is possible."""
        h = hyperparameters
        if h.warmup >= 1:
            names = ("group_steps", "rebound", "lr_rebound", "group_size", "merge")
            cutoff = () if h.low_rank_result else ("cutoff",)
            return idle((*names, *cutoff), f"a warmup of {h.warmup:g} is the whole training")
        if h.merge == "only_b":
            return idle(("group_size",), "merge only_b trains without groups")
        if shape.num_ranks == 2:
            return idle(("group_size",), "2 ranks make two groups of one")
        return {}

    @classmethod
    def unsupported(cls, hyperparameters: AbHyperparameters) -> Mapping[str, str]:
        """Averages of weights, as the network is not linear in what is trained, and compiling it."""
        ema = "merges products of factors, and the average of products is not the product of averages"
        return {**super().unsupported(hyperparameters), "ema": ema, "compile": REPLACES}

    @classmethod
    def check(cls, hyperparameters: AbHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for an optimizer of the user's own, whose groups would be lost with the weights."""
        super().check(hyperparameters, settings, num_ranks)
        check_retargets("ab", settings)

    def __init__(self, hyperparameters: AbHyperparameters, context: Context) -> None:
        h, size = hyperparameters, context.communicator.size
        num_steps = context.num_epochs * context.steps_per_epoch
        self._merge_mode = merge_mode(h.merge, context.communicator.rank, size, h.group_size)
        self._cutoff = h.cutoff
        self._context = context
        self._warmup = round(h.warmup * num_steps)
        self._num_group_steps = max(1, round(h.group_steps * num_steps))
        self._cycle = self._num_group_steps + round(h.rebound * self._num_group_steps)
        self._lr_rebound = round(h.lr_rebound * self._num_group_steps)
        self._layers = eligible_layers(context.model, full_rank_first=True, full_rank_last=True)
        if not self._layers:
            self.notes = ("ab: the network has no weight to decompose, so this is ddp",)
        elif 2 * h.group_size > size and self._merge_mode.has_groups:
            self.notes = (f"ab: groups of {h.group_size} need {2 * h.group_size} ranks; {size} ranks make two groups",)
        forbid_nested_tensors(context.model)
        self._num_full_rank = sum(p.numel() for p in context.model.parameters() if p.requires_grad)
        self._members = context.communicator
        self._trains: FactorName = "B"
        if self._merge_mode.has_groups:
            group = place(context.communicator.rank, size, h.group_size)
            self._members, self._trains = context.communicator.split(group.number), group.factor
        self._groups = FactoredGroups(context.model, context.groups(context.model))
        self._flat = FlatModel(context.model, self._groups.of(context.model))
        self._buckets = GradientBuckets(self._flat, context.communicator)
        self._optimizer = context.optimizers(self._flat.groups_by_parameter)
        self._num_steps = self._num_steps_apart = self._num_steps_full_rank = self._optimizer_bytes = 0
        self._num_steps_of_shape = self._lr_rebound  # the first shape needs no rebound
        self._inner_ranks: dict[str, int] = {}
        self._low_rank_result = h.low_rank_result
        self._result_ranks: dict[str, int] = {}  # of the network that was evaluated last

    def _adopt(self, communicator: Communicator) -> None:
        """Train the network's current parameters together with the ranks of `communicator`."""
        self._flat.release_hooks()
        self._flat = FlatModel(self._context.model, self._groups.of(self._context.model))
        self._buckets = GradientBuckets(self._flat, communicator)
        self._num_steps_of_shape = 0
        self._context.optimizers.retarget(self._optimizer, self._flat.groups_by_parameter)

    @property
    def _is_apart(self) -> bool:
        return any(isinstance(layer, Factored) for layer in self._layers.values())

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch (algorithm 2)."""
        phase = (self._num_steps - self._warmup) % self._cycle if self._num_steps >= self._warmup else self._cycle
        if self._is_apart and phase in (0, self._num_group_steps):
            self._merge()
        if phase == 0 and self._layers:
            self._decompose()
        self._num_steps += 1
        self._num_steps_apart += self._is_apart and self._merge_mode.has_groups
        self._num_steps_full_rank += not self._is_apart
        loss = self._context.gradient(batch, self._buckets)
        self._set_learning_rate()
        self._optimizer.step()
        return loss

    def _set_learning_rate(self) -> None:
        """Set the schedule's rate, or the fraction of it that the climb since the last change of shape has reached."""
        self._num_steps_of_shape += 1
        climbed = min(1.0, self._num_steps_of_shape / max(1, self._lr_rebound))
        self._context.optimizers.slow(self._optimizer, climbed)

    def _decompose(self) -> None:
        self._inner_ranks = factor_all(self._layers, self._cutoff, [self._trains], self._context.communicator)
        self._adopt(self._members)

    def _merge(self) -> None:
        self._optimizer_bytes = state_bytes(self._optimizer)
        _restore(self._context.model, self._merged(self._context.communicator))
        if self._merge_mode.has_groups:
            self._optimizer.state.clear()  # moments differ between groups, so replicas would diverge again
        self._adopt(self._context.communicator)

    def _merged(self, communicator: Communicator) -> dict[str, Tensor]:
        """The state dict of the full-rank network that a merge makes, without changing the network; collective."""
        mode, model = self._merge_mode, self._context.model
        layers = {name: layer for name, layer in self._layers.items() if isinstance(layer, Factored)}
        factors = {join(name, factor) for name in layers for factor in ("A", "B")}
        state = {name: value.clone() for name, value in model.state_dict().items() if name not in factors}
        # Without groups all parameters are equal on all ranks, and only running statistics differ.
        varying = state if mode.has_groups else dict(model.named_buffers())
        averaged = [value for name, value in state.items() if name in varying and value.is_floating_point()]
        packed = {name: mode.pack(layer) for name, layer in layers.items()}
        _average([*averaged, *(tensor for tensors in packed.values() for tensor in tensors)], communicator)
        for name, layer in layers.items():
            state[join(name, layer.weight_name)] = mode.unpack(layer, packed[name])
        return state

    def metrics(self) -> dict[str, float]:
        """Return sizes after the last decomposition relative to the full-rank network, and shares of steps by phase."""
        (num_a, num_b, rest), size = self._sizes(self._inner_ranks), self._num_full_rank
        trained = max(num_a, num_b) if self._merge_mode.has_groups else num_b
        low_rank, num_steps = sum(self._sizes(self.inner_ranks())), max(1, self._num_steps)
        group_share, full_rank_share = self._num_steps_apart / num_steps, self._num_steps_full_rank / num_steps
        low_rank_share = 1 - full_rank_share - group_share  # groups do not use the interconnect
        is_merged = self._num_steps_of_shape == 0
        return {
            "trainable_share": (trained + rest) / size,
            "compression": size / low_rank,
            "group_share": group_share,
            "ecr": estimated_communication_reduction(full_rank_share, low_rank_share, low_rank / size),
            "optimizer_bytes": float(self._optimizer_bytes if is_merged else state_bytes(self._optimizer)),
        }

    def _sizes(self, inner_ranks: Mapping[str, int]) -> tuple[int, int, int]:
        """The numbers of elements of all A, of all B, and of what is not decomposed."""
        shapes = {name: shape_of(self._layers[name]) for name in inner_ranks}
        num_a = sum(shapes[name][0] * k for name, k in inner_ranks.items())
        num_b = sum(k * shapes[name][1] for name, k in inner_ranks.items())
        return num_a, num_b, self._num_full_rank - sum(m * n for m, n in shapes.values())

    def inner_ranks(self) -> dict[str, int]:
        """Return the ranks k of the last decomposition: with `low_rank_result`, of the network evaluated last."""
        return dict(self._result_ranks or self._inner_ranks)

    def evaluation_model(self) -> nn.Module:
        """Return the network, or inside the group phase a merged copy, decomposed or not; equal on all ranks."""
        return self._result(self._context.untracked)

    def _result(self, communicator: Communicator) -> nn.Module:
        model = self._context.model
        if self._is_apart:
            model = copy.deepcopy(model)
            _restore(model, self._merged(self._context.untracked))
        else:
            self._flat.average_statistics(self._context.untracked)
        if self._low_rank_result:
            model = model if self._is_apart else copy.deepcopy(model)
            layers = {name: model.get_submodule(name) for name in self._layers}
            self._result_ranks = factor_all(layers, self._cutoff, ("A", "B"), communicator)
        return model

    def finalize(self) -> nn.Module:
        """Merge, and return the network: in full rank, or its factors."""
        if self._is_apart:
            self._merge()
        return self._result(self._context.communicator)

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's network, with factors if it has any, the optimizer, and counters."""
        return {
            "model": {name: value.clone() for name, value in self._context.model.state_dict().items()},
            "optimizer": saved(self._optimizer),
            "counters": [
                self._num_steps,
                self._num_steps_apart,
                self._num_steps_full_rank,
                self._num_steps_of_shape,
                self._optimizer_bytes,
            ],
            "inner_ranks": [dict(self._inner_ranks), dict(self._result_ranks)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, which the same rank saved."""
        load(self._context.model, state["model"], trained=[self._trains])
        self._adopt(self._members if self._is_apart else self._context.communicator)
        restore(self._optimizer, state["optimizer"])
        (
            self._num_steps,
            self._num_steps_apart,
            self._num_steps_full_rank,
            self._num_steps_of_shape,
            self._optimizer_bytes,
        ) = state["counters"]
        self._inner_ranks, self._result_ranks = map(dict, state["inner_ranks"])
