"""Groups of a network's layers on different ranks: what the layer-parallel methods share.

With no more ranks than groups a rank holds a run of groups; with more, a group has several ranks, and rank j of its m
holds the samples whose index is j modulo m.

Every rank keeps all parameters, as it needs them for evaluation; gradients, moments and activations only of its groups.
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
from atoll.methods.layer_parallel.grouping import Stopwatch, group_sizes, split_layers
from atoll.methods.method import Context, NotApplicable


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
        self._model, self._communicator, self._untracked = context.model, context.communicator, context.untracked
        layers = split_layers(context.model)
        measure = Stopwatch(layers, context)
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
        self._peers_aside = self._meet(context.untracked)
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
            self._untracked.progress()
            for tensor in (*group.parameters(), *group.buffers()):
                self._untracked.broadcast(tensor.data, ranks[0])
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


def _ranks(ranks: range) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
