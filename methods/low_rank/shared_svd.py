"""Singular value decompositions of several matrices, distributed over ranks (Golub and Reinsch 1970)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atoll.communication.communicator import Communicator
from atoll.methods.low_rank.packing import pack, unpack


class Svd(NamedTuple):
    """U (m, k), the singular values s (k,), and V^T (k, n)."""

    u: Tensor
    s: Tensor
    vt: Tensor


def truncated_svd(matrix: Tensor, cutoff: float) -> Svd:
    """The decomposition without the singular values below `cutoff` times the largest; k >= 1.

    If the matrix has a NaN or infinite value, all factors are NaN with the largest possible k: a training that goes on
    with them gets a NaN loss on every rank, as it would with the matrix.
    """
    if not bool(matrix.isfinite().all()):
        k = min(matrix.shape)
        nan = matrix.new_full((1,), float("nan"))
        return Svd(nan.expand(len(matrix), k), nan.expand(k), nan.expand(k, matrix.shape[1]))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    k = max(1, int((s >= cutoff * s[0]).sum()))
    return Svd(u[:, :k], s[:k], vt[:k])


def shared_svds(matrices: Sequence[Tensor], cutoff: float, communicator: Communicator) -> list[Svd]:
    """The truncated decompositions of matrices that are equal on all ranks; collective.

    Every rank decomposes its share and broadcasts the factors, so that they are equal on all ranks, including the
    vectors' signs and the ranks k. A rank sends its factors to p-1 others; the ranks k are exchanged first.
    """
    owners = share_out([m.shape[0] * m.shape[1] * min(m.shape) for m in matrices], communicator.size)
    mine = {i: truncated_svd(m, cutoff) for i, m in enumerate(matrices) if owners[i] == communicator.rank}
    if communicator.size == 1:
        return [mine[i] for i in range(len(matrices))]
    shapes = _agree_on_shapes(matrices, mine, communicator)
    svds: dict[int, Svd] = {}
    for owner in sorted(set(owners)):
        owned = [i for i, rank in enumerate(owners) if rank == owner]
        owned_shapes = [shape for i in owned for shape in shapes[i]]
        packed = matrices[0].new_empty(sum(torch.Size(shape).numel() for shape in owned_shapes))
        if owner == communicator.rank:
            pack((factor for i in owned for factor in mine[i]), out=packed)
        communicator.broadcast(packed, owner)
        factors = unpack(packed, owned_shapes)
        svds |= {i: Svd(*factors[3 * place : 3 * place + 3]) for place, i in enumerate(owned)}
    return [svds[i] for i in range(len(matrices))]


def _agree_on_shapes(
    matrices: Sequence[Tensor], mine: Mapping[int, Svd], communicator: Communicator
) -> list[tuple[tuple[int, ...], ...]]:
    """The shapes of all matrices' factors, from the ranks k of this rank's decompositions; collective."""
    inner_ranks = torch.zeros(len(matrices), dtype=torch.int64)
    for i, svd in mine.items():
        inner_ranks[i] = len(svd.s)
    communicator.sum(inner_ranks)
    return [((len(m), k), (k,), (k, m.shape[1])) for m, k in zip(matrices, inner_ranks.tolist(), strict=True)]


def share_out(costs: Sequence[float], num_ranks: int) -> list[int]:
    """Assign a rank to each task: the most expensive task first, to the rank with the lowest load (Graham 1969)."""
    loads = [(0.0, rank) for rank in range(num_ranks)]
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, rank = heapq.heappop(loads)
        owners[task] = rank
        heapq.heappush(loads, (load + costs[task], rank))
    return owners
