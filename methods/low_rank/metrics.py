"""What source 001 observes of a training: bases, mixing matrices and traffic (equations 4.6, 4.7, 5.9, 5.10)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Share of an epoch spent in backward passes, as measured for equation 5.9.
BACKWARD_SHARE = 0.54


def orthogonal_basis(weight: Tensor) -> Tensor:
    """U V^T (m, n) of a weight (m, n), the orthogonal factor of its polar decomposition.

    Singular vectors of values that are 0 to rounding are arbitrary, and left out.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    rank = int((values > torch.finfo(values.dtype).eps * max(weight.shape) * values[0]).sum())
    basis: Tensor = left[:, :rank] @ right[:rank]
    return basis


def stability(basis: Tensor, other: Tensor) -> float:
    """tr(U_i V_i^T (U_j V_j^T)^T) / n, 1 for equal bases of full rank (4.6).

    n is the shorter side. The source divides by the longer one, with which a tall basis would not be stable against
    itself.
    """
    return float((basis * other).sum()) / min(basis.shape)


def mixing_matrix(weight: Tensor) -> Tensor:
    """R (n, n) of the QR decomposition of a weight (4.5), transposed if it is wider than tall.

    Its diagonal is made positive: otherwise weights that are nearly equal can have rows of opposite signs.
    """
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
    r: Tensor = torch.linalg.qr(tall, mode="r").R
    return r * torch.where(r.diagonal() < 0, -1.0, 1.0).to(r.dtype)[:, None]


def mixing_similarity(r: Tensor, other: Tensor, num_rows: int) -> float:
    """1 - ||R_i - R_j|| / sqrt(mn), with m the longer side of the weight (4.7)."""
    return 1.0 - float((r - other).norm()) / math.sqrt(num_rows * r.shape[1])


def scaled_traffic(reduced_bytes: float, epoch_seconds: float, ranks_per_node: int) -> float:
    """T = p s / t_b in GB/s and node (5.9).

    Args:
        reduced_bytes: p s, what a rank gives to reductions over the interconnect in an epoch.
        epoch_seconds: of which 0.54 are backward passes, t_b.
        ranks_per_node: that share a node's interconnect.
    """
    return ranks_per_node * reduced_bytes / 1e9 / (BACKWARD_SHARE * epoch_seconds)


def estimated_communication_reduction(full_rank_share: float, low_rank_share: float, size: float) -> float:
    """ECR = 1 - F - L c (5.10).

    Table 5.3 assumes F = 0.25 and, less the share of the steps in independent groups, L = 0.75.

    Args:
        full_rank_share, low_rank_share: F and L, the shares of the steps whose gradients cross the interconnect in full
            rank and in low rank.
        size: c, the final size relative to the full-rank network.
    """
    return 1.0 - full_rank_share - low_rank_share * size
