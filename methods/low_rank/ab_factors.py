"""AB training's decomposition of weights into two factors (Coquelin 2024, eqs. 5.3 and 5.4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.low_rank.factored import factor, weight_of
from atoll.methods.low_rank.shared_svd import shared_svds


def decompose(svd: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """A = U S^1/2 (m, k) and B = S^1/2 V^T (k, n) (Coquelin 2024, eq. 5.3)."""
    u, s, vt = svd
    return {"A": u * s.sqrt(), "B": s.sqrt()[:, None] * vt}


def factor_all(
    layers: Mapping[str, nn.Module], cutoff: float, trained: Collection[str], communicator: Communicator
) -> dict[str, int]:
    """Replace the layers' weights, equal on all ranks, by factors A and B; returns the ranks k. Collective.

    Args:
        layers: in full rank, by name.
        cutoff: smallest singular value that is kept, as a share of the largest (eq. 5.4).
        trained: names of the factors that are trained; the others are frozen.
        communicator: over whose ranks the decompositions are distributed.
    """
    svds = shared_svds([weight_of(layer).detach() for layer in layers.values()], cutoff, communicator)
    for layer, svd in zip(layers.values(), svds, strict=True):
        factor(layer, decompose(svd), trained)
    return {name: len(svd.s) for name, svd in zip(layers, svds, strict=True)}
