"""Metrics of a training's weights and traffic (Coquelin 2024, eqs. 4.6, 4.7, 5.9 and 5.10)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Share of an epoch spent in backward passes, as measured for Coquelin 2024, eq. 5.9.
BACKWARD_SHARE = 0.54


def orthogonal_basis(weight: Tensor) -> Tensor:
    """U V^T (m, n) of a weight (m, n), the orthogonal factor of its polar decomposition.

    Singular vectors whose singular value is 0 up to rounding are arbitrary, and excluded.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    rank = int((values > torch.finfo(values.dtype).eps * max(weight.shape) * values[0]).sum())
    basis: Tensor = left[:, :rank] @ right[:rank]
    return basis


def stability(basis: Tensor, other: Tensor) -> float:
    """tr(U_i V_i^T (U_j V_j^T)^T) / n, which is 1 for equal bases of full rank (Coquelin 2024, eq. 4.6).

    n is the shorter side. Coquelin 2024 divides by the longer one, but then a tall basis's stability against itself
    would be below 1.
    """
    return float((basis * other).sum()) / min(basis.shape)


def mixing_matrix(weight: Tensor) -> Tensor:
    """R (n, n) of the QR decomposition of a weight (Coquelin 2024, eq. 4.5), transposed if it is wider than tall.

    Its diagonal is made positive: otherwise nearly equal weights can have rows of opposite signs.
    """
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
    r: Tensor = torch.linalg.qr(tall, mode="r").R
    return r * torch.where(r.diagonal() < 0, -1.0, 1.0).to(r.dtype)[:, None]


def mixing_similarity(r: Tensor, other: Tensor, num_rows: int) -> float:
    """1 - ||R_i - R_j|| / sqrt(mn), with m the longer side of the weight (Coquelin 2024, eq. 4.7)."""
    return 1.0 - float((r - other).norm()) / math.sqrt(num_rows * r.shape[1])


def scaled_traffic(reduced_bytes: float, epoch_seconds: float, ranks_per_node: int) -> float:
    """T = p s / t_b in GB/s per node (Coquelin 2024, eq. 5.9).

    Args:
        reduced_bytes: p s, the bytes per epoch that a rank contributes to reductions over the interconnect.
        epoch_seconds: duration of the epoch, of which a share of 0.54 is backward passes, t_b.
        ranks_per_node: number of ranks that share a node's interconnect.
    """
    return ranks_per_node * reduced_bytes / 1e9 / (BACKWARD_SHARE * epoch_seconds)


def estimated_communication_reduction(full_rank_share: float, low_rank_share: float, size: float) -> float:
    """ECR = 1 - F - L c (Coquelin 2024, eq. 5.10).

    Table 5.3 assumes F = 0.25, and L = 0.75 minus the share of steps in independent groups.

    Args:
        full_rank_share: F, the share of steps whose gradients cross the interconnect in full rank.
        low_rank_share: L, the share of steps whose gradients cross it in low rank.
        size: c, the final size relative to the full-rank network.
    """
    return 1.0 - full_rank_share - low_rank_share * size
