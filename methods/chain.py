"""A network as a chain of groups of layers that lie on different ranks: what the layer-parallel methods share.

A layer is a module with a weight of two or more dimensions and all modules up to the next one: its activation, pooling,
normalisation and dropout. Groups are runs of layers, f_0 .. f_{G-1}. With no more ranks than groups a rank holds a run
of groups; with more, a group has several ranks, and rank j of its m holds the samples whose index is j modulo m.

Every rank keeps all parameters, as it needs them for evaluation; gradients, moments and activations only of its groups.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
    if not isinstance(model, nn.Sequential):
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


def _flattened(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if isinstance(module, nn.Sequential):
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

    def times(cuts: tuple[int, ...]) -> list[float]:
        return [sum(seconds[a:b]) for a, b in itertools.pairwise([0, *cuts, len(seconds)])]

    def badness(cuts: tuple[int, ...]) -> tuple[float, float]:
        return max(times(cuts)), sum(time**2 for time in times(cuts))

    cuts = min(itertools.combinations(range(1, len(seconds)), num_groups - 1), key=badness)
    return [b - a for a, b in itertools.pairwise([0, *cuts, len(seconds)])]


def place(num_groups: int, num_ranks: int) -> list[range]:
    """The ranks of each group: one where there are enough groups, else a run of them, as equal as can be."""
    if num_ranks <= num_groups:
        return [range(g * num_ranks // num_groups, g * num_ranks // num_groups + 1) for g in range(num_groups)]
    edges = [-(-g * num_ranks // num_groups) for g in range(num_groups + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


class Arrival:
    """Values (n, ...) of this rank's samples under way from the ranks of another group."""

    def __init__(self, values: Tensor, parts: Sequence[tuple[Tensor, Tensor, Request]]) -> None:
        self._values = values
        self._parts = parts

    def test(self) -> bool:
        """Whether all have arrived; never waits."""
        return sum(not request.test() for _, _, request in self._parts) == 0

    def wait(self) -> Tensor:
        """The values."""
        for positions, buffer, request in self._parts:
            request.wait()
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
        taken = iter(layers)
        self.layers = [tuple(itertools.islice(taken, size)) for size in sizes]
        self.groups = [nn.Sequential(*(m for layer in group for m in layer.modules)) for group in self.layers]
        self.ranks_of = place(len(sizes), ranks or self._communicator.size)
        self._rank = self._communicator.rank
        self.mine = [g for g, held in enumerate(self.ranks_of) if self._rank in held]
        self.flats = {g: FlatModel(self.groups[g]) for g in self.mine}
        self.shapes = list(self._measure_shapes(context.inputs[:1]))
        self.dtype, self.device = next(context.model.parameters()).dtype, context.inputs.device
        self._peers = self._meet(context.communicator)
        self._quiet_peers = self._meet(context.aside)
        self._under_way: list[Request] = []
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
        sizes = ",".join(str(len(layers)) for layers in self.layers)
        return f"grouping {sizes}: {'; '.join(groups)}"

    @property
    def last(self) -> int:
        """The number of the group whose output the loss takes."""
        return len(self.groups) - 1

    # Samples.

    def owned(self, group: int, indices: Tensor, rank: int | None = None) -> Tensor:
        """Positions in `indices` (n,) of the samples that `rank`, this one unless given, holds in `group`."""
        ranks = self.ranks_of[group]
        number = ranks.index(self._rank if rank is None else rank)
        return torch.nonzero(indices % len(ranks) == number).flatten()

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
            source, target: groups, or for `target` a rank that holds none, as -1 - rank.
            indices: of all samples that are sent by the ranks of `source` now.
            tag: of the kind of values; those of one kind arrive in the order they were sent.
        """
        self.progress()
        values = values.detach()
        if self._rank in self.ranks_of[target]:
            self._handed[source, target, tag].append(values)
            return
        position = self.owned(source, indices)
        for rank in self.ranks_of[target]:
            theirs = indices[position] % len(self.ranks_of[target]) == self.ranks_of[target].index(rank)
            if bool(theirs.any()):
                self._under_way.append(self._communicator.start_send(values[theirs].contiguous(), rank, tag))

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
        mine = indices[self.owned(target, indices)]
        shape = shape or self.shapes[max(source, target)]
        values = torch.empty((len(mine), *shape), dtype=dtype or self.dtype, device=self.device)
        parts = []
        for number, rank in enumerate(self.ranks_of[source]):
            positions = torch.nonzero(mine % len(self.ranks_of[source]) == number).flatten()
            if len(positions):
                buffer = torch.empty((len(positions), *shape), dtype=values.dtype, device=self.device)
                parts.append((positions, buffer, self._communicator.start_receive(buffer, rank, tag)))
        return Arrival(values, parts)

    def progress(self) -> None:
        """Let go of what has been sent."""
        self._under_way = [request for request in self._under_way if not request.test()]

    def settle(self) -> None:
        """Wait until all that this rank sends has been taken."""
        for request in self._under_way:
            request.wait()
        self._under_way.clear()

    # The whole network.

    def reassemble(self) -> nn.Module:
        """The network with every group as the ranks that hold it have it, on every rank; collective."""
        for g in self.mine:
            if self._quiet_peers is not None:
                self.flats[g].average_statistics(self._quiet_peers)
        for group, ranks in zip(self.groups, self.ranks_of, strict=True):
            for tensor in (*group.parameters(), *group.buffers()):
                self._aside.broadcast(tensor.data, ranks[0])
        return self._model

    def state_dict(self) -> dict[int, dict[str, object]]:
        """Copies of this rank's groups."""
        return {g: flat.state_dict() for g, flat in self.flats.items()}

    def load_state_dict(self, state: dict[int, dict[str, object]]) -> None:
        """Continue from `state`."""
        for g, flat in self.flats.items():
            flat.load_state_dict(state[g])


def deterministic(module: nn.Module, inputs: Tensor) -> Tensor:
    """A forward pass without dropout, by the running statistics, and without a graph."""
    with torch.no_grad(), evaluating(module):
        return module(inputs)  # type: ignore[no-any-return]


class evaluating:
    """While it lasts, the module is in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._training = module.training

    def __enter__(self) -> None:
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._training)


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
