"""AB training: low-rank training in independent groups (Coquelin et al., 2024; source 001, chapter 5, algorithm 2).

1. Warm-up: data-parallel training in full rank (ddp). Then, again and again:
2. Every weight is decomposed (5.3, 5.4) into A B = (U S^1/2)(S^1/2 V^T), with the singular values of at least `cutoff`
   times the largest. The SVDs are shared out over ranks and broadcast, where algorithm 2 has every rank decompose the
   same weight and takes the largest rank: equal factors on all ranks, signs included, in a fraction of the time.
3. For `group_steps` the first half of the groups of ranks, the larger one of an odd number, trains A and the others B,
   the other factor frozen. Gradients are averaged inside a group only; one-dimensional parameters and layers that stay
   in full rank are trained too.
4. A and B are averaged over all ranks, copies that were frozen included, and W = mean(A) mean(B) (5.8). What else was
   trained is averaged too.
5. Rebound: ddp in full rank.

Parameters that change shape start with new moments (after a merge of groups all do, as theirs differ), and the learning
rate climbs linearly to its schedule over `lr_rebound` steps. The first and the last weight, and those of unfavourable
shape, stay in full rank.

Merge modes: `with_stale` as above; `only_learned` without the frozen copies; `full` the mean of the products A B;
`only_b` ("no groups"): all ranks train B together.

Bytes one rank sends: ddp 2(p-1)/p 4n a step; a step of a group of g 2(g-1)/g 4(sum mk or sum kn, + rest), inside the
group; a merge 2(p-1)/p 4(sum k(m+n) + rest + statistics), or 4n in all for `full`, or none but the statistics for
`only_b`; an SVD (p-1) 4k(m + n + 1), by the rank that has it, and a sum of all k as integers of 8 bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.buckets import GradientBuckets
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.optimizers import restore, retarget, saved, state_bytes
from atoll.methods.common.validation import require, require_choice
from atoll.methods.low_rank.factored import (
    eligible_layers,
    factor,
    forbid_nested_tensors,
    join,
    load,
    shape_of,
    weight_of,
)
from atoll.methods.low_rank.factored import restore as restore_layer
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.low_rank.metrics import estimated_communication_reduction
from atoll.methods.low_rank.shared_svd import shared_svds
from atoll.methods.method import Batch, Context, Method

MERGES = ("with_stale", "only_learned", "only_b", "full")


@dataclass(frozen=True, kw_only=True)
class AbHyperparameters:
    """Hyperparameters of AB training, as the ratios of section 5.3.3.

    Attributes:
        warmup: share of all training steps before the first decomposition.
        group_steps: share of all training steps between a decomposition and its merge.
        rebound: full-rank steps after a merge, as a share of group_steps.
        lr_rebound: steps in which the learning rate climbs again, as a share of group_steps.
        cutoff: smallest singular value that is kept, as a share of the largest (table A.6).
        group_size: ranks of a group (table A.6); at most half of the ranks, so that there are two groups.
        merge: what becomes of the groups' factors.
    """

    warmup: float = 0.2
    group_steps: float = 1 / 30
    rebound: float = 0.25
    lr_rebound: float = 0.5
    cutoff: float = 0.15
    group_size: int = 4
    merge: str = "with_stale"

    def __post_init__(self) -> None:
        require(self.warmup >= 0, f"warmup must be at least 0; got {self.warmup}")
        require(0 < self.group_steps <= 1, f"group_steps must be in (0, 1]; got {self.group_steps}")
        require(self.rebound >= 0, f"rebound must be at least 0; got {self.rebound}")
        require(self.lr_rebound >= 0, f"lr_rebound must be at least 0; got {self.lr_rebound}")
        require(0 <= self.cutoff < 1, f"cutoff must be in [0, 1); got {self.cutoff}")
        require(self.group_size >= 1, f"group_size must be at least 1; got {self.group_size}")
        require_choice("merge", self.merge, MERGES)


@dataclass(frozen=True)
class Group:
    """A group of ranks: its number, and the factor that it trains."""

    number: int
    factor: Literal["A", "B"]


def place(rank: int, num_ranks: int, group_size: int) -> Group:
    """The group of a rank: runs of ranks as equal as can be, at least two; the first half of them trains A."""
    num_groups = max(2, num_ranks // group_size)
    number = rank * num_groups // num_ranks
    return Group(number, "A" if 2 * number < num_groups else "B")


def decompose(svd: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """A = U S^1/2 (m, k) and B = S^1/2 V^T (k, n) (5.3)."""
    u, s, vt = svd
    return {"A": u * s.sqrt(), "B": s.sqrt()[:, None] * vt}


def _restore(model: nn.Module, merged: Mapping[str, Tensor]) -> None:
    """Give the network the full-rank weights, and all else, of a merge."""
    for name, layer in model.named_modules():
        if isinstance(layer, Factored):
            restore_layer(layer, merged[join(name, layer.weight_name)])
    model.load_state_dict(dict(merged))


class Ab(Method[AbHyperparameters]):
    """Train one factor in each group, and both by merging."""

    Hyperparameters = AbHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "min_lr": 1e-5}
    min_ranks: ClassVar[int] = 2

    def __init__(self, hyperparameters: AbHyperparameters, context: Context) -> None:
        h, size = hyperparameters, context.communicator.size
        num_steps = context.num_epochs * context.steps_per_epoch
        self._merge_mode = h.merge
        self._cutoff = h.cutoff
        self._context = context
        self._warmup = round(h.warmup * num_steps)
        self._num_group_steps = max(1, round(h.group_steps * num_steps))
        self._cycle = self._num_group_steps + round(h.rebound * self._num_group_steps)
        self._lr_rebound = round(h.lr_rebound * self._num_group_steps)
        self._layers = eligible_layers(context.model, full_rank_first=True, full_rank_last=True)
        if not self._layers:
            self.notes = ("ab: the network has no weight to decompose, so this is ddp",)
        elif 2 * h.group_size > size and h.merge != "only_b":
            self.notes = (f"ab: groups of {h.group_size} need {2 * h.group_size} ranks; {size} ranks make two groups",)
        forbid_nested_tensors(context.model)
        self._num_full_rank = sum(p.numel() for p in context.model.parameters() if p.requires_grad)
        self._group_size = h.group_size
        self._members, self._trains = context.communicator, "B"
        if h.merge != "only_b":
            group = place(context.communicator.rank, size, h.group_size)
            self._members, self._trains = context.communicator.split(group.number), group.factor
        self._flat = FlatModel(context.model)
        self._buckets = GradientBuckets(self._flat, context.communicator)
        self._optimizer = context.optimizers(self._flat.trained)
        self._num_steps = self._num_steps_apart = self._num_steps_full_rank = self._optimizer_bytes = 0
        self._num_steps_of_shape = self._lr_rebound  # the first shape needs no rebound
        self._inner_ranks: dict[str, int] = {}

    def _adopt(self, communicator: Communicator) -> None:
        """Train what the network's layers have now, with `communicator`'s ranks."""
        self._flat.release_hooks()
        self._flat = FlatModel(self._context.model)
        self._buckets = GradientBuckets(self._flat, communicator)
        self._num_steps_of_shape = 0
        retarget(self._optimizer, self._flat.trained)

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
        self._num_steps_apart += self._is_apart and self._merge_mode != "only_b"
        self._num_steps_full_rank += not self._is_apart
        loss = self._context.loss(self._context.model(batch.inputs), batch.targets)
        self._buckets.backward(loss)
        self._set_learning_rate()
        self._optimizer.step()
        return loss.detach()

    def _set_learning_rate(self) -> None:
        """The schedule's, or the part of it that the climb since the last change of shape has reached."""
        self._num_steps_of_shape += 1
        climbed = min(1.0, self._num_steps_of_shape / max(1, self._lr_rebound))
        self._optimizer.param_groups[0]["lr"] = climbed * self._context.optimizers.learning_rate

    def _decompose(self) -> None:
        weights = [weight_of(layer).detach() for layer in self._layers.values()]
        svds = shared_svds(weights, self._cutoff, self._context.communicator)
        for (name, layer), svd in zip(self._layers.items(), svds, strict=True):
            factor(layer, decompose(svd), trained=[self._trains])
            self._inner_ranks[name] = len(svd[1])
        self._adopt(self._members)

    def _merge(self) -> None:
        self._optimizer_bytes = state_bytes(self._optimizer)
        _restore(self._context.model, self._merged(self._context.communicator))
        if self._merge_mode != "only_b":
            self._optimizer.state.clear()  # with the groups' moments, equal gradients would part the replicas again
        self._adopt(self._context.communicator)

    def _merged(self, communicator: Communicator) -> dict[str, Tensor]:
        """The state dict of the full-rank network that a merge makes; collective, and nothing changes here."""
        layers: dict[str, Any] = {name: layer for name, layer in self._layers.items() if isinstance(layer, Factored)}
        factors = {join(name, factor) for name in layers for factor in ("A", "B")}
        state = {n: v.clone() for n, v in self._context.model.state_dict().items() if n not in factors}
        rest = {n: v for n, v in state.items() if v.is_floating_point()}
        if self._merge_mode == "only_b":  # all else is equal on all ranks
            buffers = dict(self._context.model.named_buffers())
            rest = {n: v for n, v in rest.items() if n in buffers}
        sent = [*rest.values(), *(part for layer in layers.values() for part in self._sent(layer))]
        if sent:
            packed = torch.cat([part.reshape(-1) for part in sent])
            communicator.mean(packed)
            for part, mean in zip(sent, torch.split(packed, [part.numel() for part in sent]), strict=True):
                part.copy_(mean.view(part.shape))
        parts = iter(sent[len(rest) :])
        for name, layer in layers.items():
            state[join(name, layer.weight_name)] = self._weight(layer, parts)
        return state

    def _sent(self, layer: Any) -> list[Tensor]:
        """Copies of what this rank gives to the mean over ranks."""
        if self._merge_mode == "only_b":
            return []
        if self._merge_mode == "full":
            return [layer.merged().detach().clone()]
        shares = dict.fromkeys(("A", "B"), 1.0)
        if self._merge_mode == "only_learned":
            size = self._context.communicator.size
            factors = [place(rank, size, self._group_size).factor for rank in range(size)]
            shares = {f: size / factors.count(f) if f == self._trains else 0.0 for f in ("A", "B")}
        return [getattr(layer, f).detach() * share for f, share in shares.items()]

    def _weight(self, layer: Any, means: Iterator[Tensor]) -> Tensor:
        """The full-rank weight, from the means of what `_sent` gave."""
        if self._merge_mode == "only_b":
            return layer.merged().detach()  # type: ignore[no-any-return]
        weight = next(means)
        return weight if self._merge_mode == "full" else (weight @ next(means)).view(layer.weight_shape)

    def metrics(self) -> dict[str, float]:
        """Sizes relative to the full-rank network, as the last decomposition left them, and the steps spent apart."""
        shapes = {name: shape_of(layer) for name, layer in self._layers.items()}
        sizes = [(m * k, k * n, m * n) for (m, n), k in ((shapes[name], k) for name, k in self._inner_ranks.items())]
        num_a, num_b, num_full = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0, 0)
        rest, size = self._num_full_rank - num_full, self._num_full_rank
        trained = num_b if self._merge_mode == "only_b" else max(num_a, num_b)
        low_rank, num_steps = num_a + num_b + rest, max(1, self._num_steps)
        group_share, full_rank_share = self._num_steps_apart / num_steps, self._num_steps_full_rank / num_steps
        low_rank_share = 1 - full_rank_share - group_share  # groups keep off the interconnect
        is_merged = self._num_steps_of_shape == 0
        return {
            "trainable_share": (trained + rest) / size,
            "compression": size / low_rank,
            "group_share": group_share,
            "ecr": estimated_communication_reduction(full_rank_share, low_rank_share, low_rank / size),
            "optimizer_bytes": float(self._optimizer_bytes if is_merged else state_bytes(self._optimizer)),
        }

    def inner_ranks(self) -> dict[str, int]:
        """Of the last decomposition."""
        return dict(self._inner_ranks)

    def evaluation_model(self) -> nn.Module:
        """Return the network, or what a merge would make of the groups'; equal on all ranks."""
        model = self._context.model
        if self._is_apart:
            model = copy.deepcopy(model)
            _restore(model, self._merged(self._context.untracked))
        else:
            self._flat.average_statistics(self._context.untracked)
        return model

    def finalize(self) -> nn.Module:
        """Merge, and return the network in full rank."""
        if self._is_apart:
            self._merge()
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's network, with its factors if any, the optimizer, and counters."""
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
            "inner_ranks": dict(self._inner_ranks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, which this rank saved."""
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
        self._inner_ranks = dict(state["inner_ranks"])
