"""Groups of a network's layers on different ranks, and the messages between them, for all layer-parallel methods.

If there are at most as many ranks as groups, each rank holds a run of groups. Otherwise each group has several ranks,
and rank j of its m ranks holds the samples whose index is j modulo m.

Every rank keeps all parameters, as evaluation needs them, but gradients, moments and activations only of its groups.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator, Request
from atoll.methods.common.evaluation import deterministic
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.weight_average import Evaluated, replicas
from atoll.methods.layer_parallel.grouping import Stopwatch, parse_grouping, split_layers
from atoll.methods.method import Context, NotApplicable


def place(num_groups: int, num_ranks: int) -> list[range]:
    """The ranks of each group: one rank if there are enough groups, else runs of ranks as equal as possible."""
    if num_ranks <= num_groups:
        return [range(g * num_ranks // num_groups, g * num_ranks // num_groups + 1) for g in range(num_groups)]
    edges = [-(-g * num_ranks // num_groups) for g in range(num_groups + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


class Arrival:
    """Values (n, ...) of this rank's samples, in transit from the ranks of another group.

    Args:
        values: the destination.
        parts: per sending rank the positions that it sends, the buffer that receives them, and the request.
    """

    def __init__(self, values: Tensor, parts: Sequence[tuple[Tensor, Tensor, Request]]) -> None:
        self._values = values
        self._parts = parts

    def test(self) -> bool:
        """Whether all have arrived; never waits."""
        # Tests every request, so that each makes progress.
        return sum(not request.test() for _, _, request in self._parts) == 0

    def wait(self) -> Tensor:
        """Wait for the values and return them."""
        for positions, buffer, request in self._parts:
            request.wait()
            if buffer is not self._values:
                self._values[positions] = buffer
        return self._values


class HandOver:
    """Values that a group passes to another group on the same rank."""

    def __init__(self, queue: deque[Tensor]) -> None:
        self._queue = queue

    def test(self) -> bool:
        """Whether the values are there; never waits."""
        return bool(self._queue)

    def wait(self) -> Tensor:
        """Return the values."""
        return self._queue.popleft()


class Chain:
    """The network's groups, as one rank sees them. All ranks of the worker construct it together.

    Args:
        context: the trial's.
        grouping: where the network is cut, as `parse_grouping` reads it.
        num_groups: number of groups, for a grouping that leaves it open.
        ranks: number of ranks that hold groups, the first ones of the worker. Default: all.

    Attributes:
        groups: every group as a module that shares the network's own modules.
        layers: the layers of each group.
        ranks_of: the ranks of each group.
        mine: the groups of this rank.
        flats: the parameters of this rank's groups.
        shapes: the shape of one sample's input to each group, and of the last group's output.
        dtype, device: of the network's parameters, and of the data.
    """

    def __init__(self, context: Context, grouping: str, num_groups: int = 2, ranks: int | None = None) -> None:
        self._model, self._communicator, self._untracked = context.model, context.communicator, context.untracked
        layers = split_layers(context.model)
        measure = Stopwatch(layers, context)
        sizes = parse_grouping(grouping).sizes([layer.name for layer in layers], num_groups, measure.agreed_seconds)
        self._sizes = tuple(sizes)
        remaining = iter(layers)
        self.layers = [tuple(itertools.islice(remaining, size)) for size in sizes]
        self.groups = [nn.Sequential(*(m for layer in group for m in layer.modules)) for group in self.layers]
        self.ranks_of = place(len(sizes), ranks or self._communicator.size)
        self._rank = self._communicator.rank
        self.mine = [g for g, held in enumerate(self.ranks_of) if self._rank in held]
        for group in self.groups:
            _check_trains(group)
        of_network = list(context.groups(context.model))
        self.flats = {g: FlatModel(self.groups[g], of_network) for g in self.mine}
        self.shapes = list(self._measure_shapes(context.inputs[:1]))
        self.dtype, self.device = next(context.model.parameters()).dtype, context.inputs.device
        self._peers = self._split_off_peers(context.communicator)
        self._untracked_peers = self._split_off_peers(context.untracked)
        self._sends: deque[Request] = deque()
        self._handed: dict[tuple[int, int, int], deque[Tensor]] = defaultdict(deque)

    def _measure_shapes(self, inputs: Tensor) -> Iterator[tuple[int, ...]]:
        yield tuple(inputs.shape[1:])
        for group in self.groups:
            inputs = deterministic(group, inputs)
            yield tuple(inputs.shape[1:])

    def _split_off_peers(self, communicator: Communicator) -> Communicator | None:
        """A communicator of the ranks that share this rank's group; None if no group has several ranks."""
        if all(len(ranks) == 1 for ranks in self.ranks_of):
            return None
        return communicator.split(self.mine[0] if self.mine else len(self.groups))

    def describe(self) -> str:
        """The grouping and its placement in words."""
        groups = (
            f"{', '.join(layer.name for layer in layers)} on {_in_words(ranks)}"
            for layers, ranks in zip(self.layers, self.ranks_of, strict=True)
        )
        return f"grouping {','.join(map(str, self._sizes))}: {'; '.join(groups)}"

    @property
    def last(self) -> int:
        """The number of the last group, whose outputs go into the loss."""
        return len(self.groups) - 1

    # Samples.

    def owned(self, group: int, indices: Tensor) -> Tensor:
        """Positions in `indices` (n,) of the samples that this rank holds in `group`, in ascending order."""
        ranks = self.ranks_of[group]
        return torch.nonzero(indices % len(ranks) == ranks.index(self._rank)).flatten()

    def part_of_mean(self, mean: Tensor, num_mine: int, num_all: int) -> Tensor:
        """Scale the mean loss of this rank's share so that the sum over a group's ranks is the mean over the batch.

        A rank without samples contributes 0.
        """
        return mean * (num_mine / num_all) if num_mine else mean.new_zeros(())

    def as_loss_of_rank(self, part: Tensor | None) -> Tensor:
        """The loss for `Method.step` to return: its mean over all ranks is the batch's. None: not on the last group."""
        return torch.zeros(()) if part is None else part.detach() * self._communicator.size

    def sum_gradients(self, group: int) -> None:
        """Sum the gradients of `group` over its ranks."""
        self.sum_over_peers(self.flats[group].gradients)

    def sum_over_peers(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the ranks of this rank's group."""
        if self._peers is not None:
            self._peers.sum(tensor)

    def average_over_peers(self, tensor: Tensor) -> None:
        """Replace `tensor` by its mean over the ranks of this rank's group."""
        if self._peers is not None:
            self._peers.mean(tensor)

    # Messages between groups.

    def send(self, values: Tensor, source: int, target: int, indices: Tensor, tag: int) -> None:
        """Start to send `values` of this rank's samples to the group `target`.

        Args:
            values: (n, ...) of the samples that this rank holds in `source`.
            source, target: numbers of the groups.
            indices: indices of all samples that the ranks of `source` send now.
            tag: the kind of values; values of one kind arrive in the order in which they were sent.
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
                self._sends.append(self._communicator.start_send(part, rank, tag))

    def receive(
        self,
        source: int,
        target: int,
        indices: Tensor,
        tag: int,
        dtype: torch.dtype | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Arrival | HandOver:
        """Start to receive the values that `source`, a neighbor of `target`, sends for this rank's samples.

        Args:
            source, target: numbers of the groups.
            indices: indices of all samples that the ranks of `source` send now.
            tag: the kind of values.
            dtype: of the values. Default: the network's.
            shape: of one sample's values. Default: the shape of the upper group's inputs, in either direction.
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
        """Release the buffers of completed sends."""
        while self._sends and self._sends[0].test():
            self._sends.popleft()

    def settle(self) -> None:
        """Wait until all of this rank's sends have completed."""
        while self._sends:
            self._sends.popleft().wait()

    # The whole network.

    def evaluated(self) -> list[Evaluated]:
        """The groups, each on its ranks."""
        return [replicas(group, ranks) for group, ranks in zip(self.groups, self.ranks_of, strict=True)]

    def reassemble(self) -> nn.Module:
        """Return the network with every group's current parameters, on every rank; collective."""
        for g in self.mine:
            if self._untracked_peers is not None:
                self.flats[g].average_statistics(self._untracked_peers)
        for group, ranks in zip(self.groups, self.ranks_of, strict=True):
            self._untracked.progress()
            for tensor in (*group.parameters(), *group.buffers()):
                self._untracked.broadcast(tensor.data, ranks[0])
        return self._model

    def state_dict(self) -> dict[str, Any]:
        """Copies of this rank's groups."""
        return {"sizes": self._sizes, "groups": {g: flat.state_dict() for g, flat in self.flats.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; its chain must have been cut in the same places."""
        if state["sizes"] != self._sizes:
            raise ValueError(f"the state is of the grouping {state['sizes']}, and the network is cut as {self._sizes}")
        for g, flat in self.flats.items():
            flat.load_state_dict(state["groups"][g])


def _check_trains(group: nn.Module) -> None:
    if not any(p.requires_grad for p in group.parameters()):
        raise NotApplicable(f"each group of layers must have a parameter that is trained; {group} has none")


def take(values: Tensor, positions: Tensor) -> Tensor:
    """Rows of `values` at ascending `positions`; the same tensor if these are all rows."""
    return values if len(positions) == len(values) else values[positions]


def _in_words(ranks: range) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
