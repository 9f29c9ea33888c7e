"""Singular value decompositions of several matrices, shared out over ranks (Golub and Reinsch, 1970)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from atoll.communication.communicator import Communicator

Svd = tuple[Tensor, Tensor, Tensor]


def truncated_svd(matrix: Tensor, cutoff: float) -> Svd:
    """U (m, k), s (k,), V^T (k, n) with the singular values of at least `cutoff` times the largest; k >= 1.

    A matrix with a value that is no number has factors of that kind, and all of its ranks: whoever trains on them sees
    the loss that the matrix would have given, on every rank.
    """
    if not bool(matrix.isfinite().all()):
        k = min(matrix.shape)
        nothing = matrix.new_full((1,), float("nan"))
        return nothing.expand(len(matrix), k), nothing.expand(k), nothing.expand(k, matrix.shape[1])
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    k = max(1, int((values >= cutoff * values[0]).sum()))
    return left[:, :k], values[:k], right[:k]


def shared_svds(matrices: Sequence[Tensor], cutoff: float, communicator: Communicator) -> list[Svd]:
    """The truncated decompositions of matrices that are equal on all ranks; collective.

    Every rank decomposes its share, and broadcasts the factors: so they are equal on all ranks, the vectors' signs and
    the ranks k included. A rank sends what it has decomposed to p-1 others, with the ranks k in advance.
    """
    owners = share_out([m.shape[0] * m.shape[1] * min(m.shape) for m in matrices], communicator.size)
    mine = {i: truncated_svd(m, cutoff) for i, m in enumerate(matrices) if owners[i] == communicator.rank}
    if communicator.size == 1:
        return [mine[i] for i in range(len(matrices))]
    ranks = torch.zeros(len(matrices), dtype=torch.int64)
    for i, (_, values, _) in mine.items():
        ranks[i] = len(values)
    communicator.sum(ranks)
    shapes = [((len(m), int(k)), (int(k),), (int(k), m.shape[1])) for m, k in zip(matrices, ranks, strict=True)]
    found: dict[int, Svd] = {}
    for owner in sorted(set(owners)):
        theirs = [i for i, of in enumerate(owners) if of == owner]
        sizes = [torch.Size(shape).numel() for i in theirs for shape in shapes[i]]
        packed = matrices[0].new_empty(sum(sizes))
        if owner == communicator.rank:
            torch.cat([part.reshape(-1) for i in theirs for part in mine[i]], out=packed)
        communicator.broadcast(packed, owner)
        parts = iter(torch.split(packed, sizes))
        for i in theirs:
            u, s, vt = (next(parts).view(shape) for shape in shapes[i])
            found[i] = u, s, vt
    return [found[i] for i in range(len(matrices))]


def share_out(costs: Sequence[float], num_ranks: int) -> list[int]:
    """A rank for each task: the most expensive first, to whom has least to do (Graham, 1969)."""
    loads = [(0.0, rank) for rank in range(num_ranks)]
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, rank = heapq.heappop(loads)
        owners[task] = rank
        heapq.heappush(loads, (load + costs[task], rank))
    return owners
