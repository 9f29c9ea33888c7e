"""A network as a chain of groups of layers that lie on different ranks: what the layer-parallel methods share.

A layer is a module with a weight of two or more dimensions and all modules up to the next one: its activation, pooling,
normalisation and dropout. Groups are runs of layers, f_0 .. f_{G-1}. With no more ranks than groups a rank holds a run
of groups; with more, a group has several ranks, and rank j of its m holds the samples whose index is j modulo m.

Every rank keeps all parameters, as it needs them for evaluation; gradients, moments and activations only of its groups.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from atoll.methods.communicator import Communicator, Request
from atoll.methods.flat import FlatModel
from atoll.methods.method import Context, NotApplicable
from atoll.methods.validation import require

NAMED = ("even", "first", "last", "balanced")
_COUNTS, _NAMES = re.compile(r"\d+(,\d+)*"), re.compile(r"at:[^,]+(,[^,]+)*")


@dataclass(frozen=True)
class Layer:
    """Modules that are trained together; `name` is that of the first one in the network."""

    name: str
    modules: tuple[nn.Module, ...]


def split_layers(model: nn.Module) -> list[Layer]:
    """The layers of a network that is an nn.Sequential of modules, or of others.

    Raises:
        NotApplicable: for any other network, or one whose layers share a parameter.
    """
    if not _is_chain(model):
        raise NotApplicable(
            "a layer-parallel method cuts the network between layers, so it must be an nn.Sequential, in which each "
            f"module takes what the one before it returns; got {type(model).__name__}, whose forward may do anything"
        )
    layers: list[Layer] = []
    ahead: list[nn.Module] = []  # such as a flattening before the first weight
    for name, module in _flattened(model):
        if any(p.dim() > 1 for p in module.parameters()):
            layers.append(Layer(name, (*ahead, module)))
            ahead = []
        elif layers:
            layers[-1] = Layer(layers[-1].name, (*layers[-1].modules, module))
        else:
            ahead.append(module)
    _check_parameters(layers)
    return layers


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _flattened(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    # Not named_children, which leaves out a module that stands in the network for the second time.
    for name, module in model._modules.items():
        assert module is not None
        if _is_chain(module):
            yield from _flattened(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _check_parameters(layers: Sequence[Layer]) -> None:
    if not layers:
        raise NotApplicable("a layer-parallel method needs a network with at least one weight; it has none")
    owner: dict[int, str] = {}
    for layer in layers:
        for parameter in (p for module in layer.modules for p in module.parameters()):
            if owner.setdefault(id(parameter), layer.name) != layer.name:
                raise NotApplicable(
                    f"layers {owner[id(parameter)]} and {layer.name} share a parameter; a layer-parallel method needs "
                    "layers with parameters of their own"
                )


def check_grouping(grouping: str) -> None:
    """Raise ValueError unless `grouping` may say how a network is cut."""
    require(
        grouping in NAMED or bool(_COUNTS.fullmatch(grouping)) or bool(_NAMES.fullmatch(grouping)),
        f"grouping must be one of {', '.join(NAMED)}, or the number of layers in each group, such as 1,5, or at: and "
        f"the modules with which all groups but the first begin, such as at:2,6; got {grouping!r}",
    )


def group_sizes(
    grouping: str, num_groups: int, names: Sequence[str], seconds: Callable[[], Sequence[float]] = tuple
) -> list[int]:
    """How many layers each group has.

    Args:
        grouping: as `check_grouping` takes it. `first` gives one layer to each group but the last, `last` to each but
            the first, as (1,5) and (5,1) of 000 table 4.1 do; `even` shares layers out, `balanced` their time.
        num_groups: the number of groups of a grouping that does not say it.
        names: of the layers.
        seconds: measures the time of each layer, for `balanced`.

    Raises:
        NotApplicable: where the network has not got these layers.
    """
    n, g = len(names), num_groups
    if grouping.startswith("at:"):
        wanted = grouping.removeprefix("at:").split(",")
        begins = [list(names).index(name) for name in wanted if name in names[1:]]
        if len(begins) != len(wanted) or begins != sorted(set(begins)):
            raise NotApplicable(
                f"groups may begin with the layers {', '.join(names[1:]) or 'none'}, in this order; got {grouping!r}"
            )
        sizes = [b - a for a, b in itertools.pairwise([0, *begins, n])]
    elif grouping not in NAMED:
        sizes = [int(size) for size in grouping.split(",")]
        if sum(sizes) != n or 0 in sizes:
            raise NotApplicable(
                f"the network has {n} layers ({', '.join(names)}), each of which belongs to one group of at least one; "
                f"got the grouping {grouping!r} of {sum(sizes)}"
            )
    elif g > n:
        raise NotApplicable(f"the network has {n} layers ({', '.join(names)}), so at most {n} groups; got {g}")
    elif grouping == "first":
        sizes = [1] * (g - 1) + [n - g + 1]
    elif grouping == "last":
        sizes = [n - g + 1] + [1] * (g - 1)
    elif grouping == "even":
        sizes = [(i + 1) * n // g - i * n // g for i in range(g)]
    else:
        sizes = _balanced(seconds(), g)
    return sizes


def _balanced(seconds: Sequence[float], num_groups: int) -> list[int]:
    """The cut into runs whose slowest is the fastest, and of these the most even one."""

    @cache
    def best(start: int, groups: int, limit: float) -> tuple[float, float, tuple[int, ...]]:
        """The slowest run's time, the sum of squares, and the sizes, for what begins at `start`."""
        if groups == 1:
            rest = sum(seconds[start:])
            return rest, rest**2 if rest <= limit else math.inf, (len(seconds) - start,)
        found = []
        for size in range(1, len(seconds) - start - groups + 2):
            run = sum(seconds[start : start + size])
            slowest, squares, sizes = best(start + size, groups - 1, limit)
            found.append((max(run, slowest), squares + run**2 if run <= limit else math.inf, (size, *sizes)))
        return min(found, key=lambda f: f[0] if limit == math.inf else f[1])

    slowest = best(0, num_groups, math.inf)[0]
    return list(best(0, num_groups, slowest)[2])


def place(num_groups: int, num_ranks: int) -> list[range]:
    """The ranks of each group: one where there are enough groups, else a run of them, as equal as can be."""
    if num_ranks <= num_groups:
        return [range(g * num_ranks // num_groups, g * num_ranks // num_groups + 1) for g in range(num_groups)]
    edges = [-(-g * num_ranks // num_groups) for g in range(num_groups + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


class Arrival:
    """Values (n, ...) of this rank's samples under way from the ranks of another group.

    Args:
        values: where they go.
        parts: for each sending rank the positions that it sends, where they arrive, and the request.
    """

    def __init__(self, values: Tensor, parts: Sequence[tuple[Tensor, Tensor, Request]]) -> None:
        self._values = values
        self._parts = parts

    def test(self) -> bool:
        """Whether all have arrived; never waits."""
        # each is asked, so that each makes progress
        return sum(not request.test() for _, _, request in self._parts) == 0

    def wait(self) -> Tensor:
        """The values."""
        for positions, buffer, request in self._parts:
            request.wait()
            if buffer is not self._values:
                self._values[positions] = buffer
        return self._values


class HandOver:
    """Values that one group gives another on the same rank."""

    def __init__(self, queue: deque[Tensor]) -> None:
        self._queue = queue

    def test(self) -> bool:
        """Whether they are there."""
        return bool(self._queue)

    def wait(self) -> Tensor:
        """The values."""
        return self._queue.popleft()


class Chain:
    """The network's groups, as one rank sees them. To be made by all ranks of the worker together.

    Args:
        context: the trial's.
        grouping, num_groups: as `group_sizes` takes them.
        ranks: of the worker, those that hold groups; all unless given.

    Attributes:
        groups: every group as a module, of the network's own modules.
        layers: of each group.
        ranks_of: the ranks of each group.
        mine: the groups of this rank.
        flats: their parameters.
        shapes: of what goes into each group for one sample, and of what comes out of the last.
    """

    def __init__(self, context: Context, grouping: str, num_groups: int = 2, ranks: int | None = None) -> None:
        self._model, self._communicator, self._aside = context.model, context.communicator, context.aside
        layers = split_layers(context.model)
        measure = _Stopwatch(layers, context)
        sizes = group_sizes(grouping, num_groups, [layer.name for layer in layers], measure.agreed_seconds)
        self._sizes = tuple(sizes)
        taken = iter(layers)
        self.layers = [tuple(itertools.islice(taken, size)) for size in sizes]
        self.groups = [nn.Sequential(*(m for layer in group for m in layer.modules)) for group in self.layers]
        self.ranks_of = place(len(sizes), ranks or self._communicator.size)
        self._rank = self._communicator.rank
        self.mine = [g for g, held in enumerate(self.ranks_of) if self._rank in held]
        for group in self.groups:
            _check_trains(group)
        self.flats = {g: FlatModel(self.groups[g]) for g in self.mine}
        self.shapes = list(self._measure_shapes(context.inputs[:1]))
        self.dtype, self.device = next(context.model.parameters()).dtype, context.inputs.device
        self._peers = self._meet(context.communicator)
        self._peers_aside = self._meet(context.aside)
        self._under_way: deque[Request] = deque()
        self._handed: dict[tuple[int, int, int], deque[Tensor]] = defaultdict(deque)

    def _measure_shapes(self, inputs: Tensor) -> Iterator[tuple[int, ...]]:
        yield tuple(inputs.shape[1:])
        for group in self.groups:
            inputs = deterministic(group, inputs)
            yield tuple(inputs.shape[1:])

    def _meet(self, communicator: Communicator) -> Communicator | None:
        """The ranks of this rank's group, where a group has several."""
        if all(len(ranks) == 1 for ranks in self.ranks_of):
            return None
        return communicator.split(self.mine[0] if self.mine else len(self.groups))

    def describe(self) -> str:
        """The grouping in words."""
        groups = (
            f"{', '.join(layer.name for layer in layers)} on {_ranks(ranks)}"
            for layers, ranks in zip(self.layers, self.ranks_of, strict=True)
        )
        return f"grouping {','.join(map(str, self._sizes))}: {'; '.join(groups)}"

    @property
    def last(self) -> int:
        """The number of the group whose output the loss takes."""
        return len(self.groups) - 1

    # Samples.

    def owned(self, group: int, indices: Tensor) -> Tensor:
        """Positions in `indices` (n,) of the samples that this rank holds in `group`."""
        ranks = self.ranks_of[group]
        return torch.nonzero(indices % len(ranks) == ranks.index(self._rank)).flatten()

    def part_of_mean(self, mean: Tensor, num_mine: int, num_all: int) -> Tensor:
        """A loss whose sum over the ranks of a group is the mean over the batch; `mean` is that of this rank's share.

        No sample has no mean, but its part of the sum is 0.
        """
        return mean * (num_mine / num_all) if num_mine else mean.new_zeros(())

    def as_loss_of_rank(self, part: Tensor | None) -> Tensor:
        """What `Method.step` returns, so that its mean is right: of ranks that hold the last group, from their part."""
        return torch.zeros(()) if part is None else part.detach() * self._communicator.size

    def sum_gradients(self, group: int) -> None:
        """Add the gradients of the ranks of `group` up."""
        self.sum_over_peers(self.flats[group].gradients)

    def sum_over_peers(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the ranks of this rank's group."""
        if self._peers is not None:
            self._peers.sum(tensor)

    def average_over_peers(self, tensor: Tensor) -> None:
        """Replace `tensor` by its mean over the ranks of this rank's group."""
        if self._peers is not None:
            self._peers.mean(tensor)

    # Passing values from group to group.

    def send(self, values: Tensor, source: int, target: int, indices: Tensor, tag: int) -> None:
        """Start to send `values` of this rank's samples of `indices` to the group `target`.

        Args:
            values: (n, ...) of the samples that this rank holds in `source`.
            source, target: groups.
            indices: of all samples that are sent by the ranks of `source` now.
            tag: of the kind of values; those of one kind arrive in the order they were sent.
        """
        self.progress()
        values = values.detach()
        if self._rank in self.ranks_of[target]:
            self._handed[source, target, tag].append(values)
            return
        mine, ranks = take(indices, self.owned(source, indices)), self.ranks_of[target]
        for number, rank in enumerate(ranks):
            theirs = torch.nonzero(mine % len(ranks) == number).flatten()
            if len(theirs):
                part = take(values, theirs).contiguous()
                self._under_way.append(self._communicator.start_send(part, rank, tag))

    def receive(
        self,
        source: int,
        target: int,
        indices: Tensor,
        tag: int,
        dtype: torch.dtype | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Arrival | HandOver:
        """Start to receive what the neighbour `source` of `target` sends of this rank's samples of `indices`.

        What passes a boundary has the shape of the upper group's inputs, either way, unless another is given.
        """
        if self._rank in self.ranks_of[source]:
            return HandOver(self._handed[source, target, tag])
        mine = take(indices, self.owned(target, indices))
        shape = shape or self.shapes[max(source, target)]
        values = torch.empty((len(mine), *shape), dtype=dtype or self.dtype, device=self.device)
        parts = []
        for number, rank in enumerate(self.ranks_of[source]):
            positions = torch.nonzero(mine % len(self.ranks_of[source]) == number).flatten()
            if len(positions):
                alone = len(positions) == len(mine)
                buffer = values if alone else torch.empty_like(values[: len(positions)])
                parts.append((positions, buffer, self._communicator.start_receive(buffer, rank, tag)))
        return Arrival(values, parts)

    def progress(self) -> None:
        """Let go of what has been sent."""
        while self._under_way and self._under_way[0].test():
            self._under_way.popleft()

    def settle(self) -> None:
        """Wait until all that this rank sends has been taken."""
        while self._under_way:
            self._under_way.popleft().wait()

    # The whole network.

    def reassemble(self) -> nn.Module:
        """The network with every group as the ranks that hold it have it, on every rank; collective."""
        for g in self.mine:
            if self._peers_aside is not None:
                self.flats[g].average_statistics(self._peers_aside)
        for group, ranks in zip(self.groups, self.ranks_of, strict=True):
            self._aside.attend()
            for tensor in (*group.parameters(), *group.buffers()):
                self._aside.broadcast(tensor.data, ranks[0])
        return self._model

    def state_dict(self) -> dict[str, Any]:
        """Copies of this rank's groups."""
        return {"sizes": self._sizes, "groups": {g: flat.state_dict() for g, flat in self.flats.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, of a chain that was cut in the same places."""
        if state["sizes"] != self._sizes:
            raise ValueError(f"the state is of the grouping {state['sizes']}, and the network is cut as {self._sizes}")
        for g, flat in self.flats.items():
            flat.load_state_dict(state["groups"][g])


def _check_trains(group: nn.Module) -> None:
    if not any(p.requires_grad for p in group.parameters()):
        raise NotApplicable(f"each group of layers must have a parameter that is trained; {group} has none")


def take(values: Tensor, positions: Tensor) -> Tensor:
    """Rows of `values` at ascending `positions`; the same tensor where these are all."""
    return values if len(positions) == len(values) else values[positions]


def deterministic(module: nn.Module, inputs: Tensor) -> Tensor:
    """A forward pass without dropout, by the running statistics, and without a graph."""
    with torch.no_grad(), evaluating(module):
        return module(inputs)  # type: ignore[no-any-return]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While it lasts, the module is in evaluation mode."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


class _Stopwatch:
    """Measures layers where somebody asks."""

    NUM_REPEATS = 7

    def __init__(self, layers: Sequence[Layer], context: Context) -> None:
        self._layers = layers
        self._context = context

    def agreed_seconds(self) -> list[float]:
        """Seconds of each layer's forward pass, the median of some, as rank 0 measured them; collective."""
        seconds = torch.tensor(
            [
                statistics.median(times)
                for times in zip(*(self._measure() for _ in range(self.NUM_REPEATS)), strict=True)
            ],
            dtype=torch.float64,
        )
        self._context.aside.broadcast(seconds)
        return [float(s) for s in seconds]

    def _measure(self) -> Iterator[float]:
        values = self._context.inputs
        for layer in self._layers:
            module = nn.Sequential(*layer.modules)
            started = time.perf_counter()
            values = deterministic(module, values)
            if values.is_cuda:
                torch.cuda.synchronize(values.device)
            yield time.perf_counter() - started


def _ranks(ranks: range) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
