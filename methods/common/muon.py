"""Muon: momentum whose matrices are orthogonalized (Jordan et al. 2024), with AdamW's step for vectors.

A matrix W (m, n), or filters (m, ...) taken as one, with the gradient G:

    B <- momentum B + G,  N = G + momentum B (Nesterov),  O = U V^T of N = U S V^T, approximately
    W <- W - lr decay W - lr 0.2 sqrt(max(m, n)) O

The factor gives O's elements the size of AdamW's update (Liu et al. 2025, eq. 4), so one rate and one decay serve both.
Five Newton-Schulz steps take N / |N| close to U V^T without an SVD; its singular values then lie between about 0.7 and
1.2. Parameters of one dimension, such as biases, take AdamW's step. Unlike in the sources, which exclude embeddings and
the last layer, every matrix is orthogonalized: a parameter group can give some a rate of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from atoll.methods.common.update_rule import UpdateRule

# The odd polynomial a s + b s^3 + c s^5 that each step applies to the singular values (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_STEPS = 5
SMALLEST_NORM = 1e-7


def orthogonalized(matrix: Tensor) -> Tensor:
    """U V^T of a matrix (m, n) = U S V^T, with singular values near 1 in place of 1; zero for zero.

    Computed in the matrix's own dtype; torch.optim.Muon rounds to bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrix / matrix.norm().clamp(min=SMALLEST_NORM)
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = x.T if is_tall else x
    for _ in range(NUM_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if is_tall else x
    return result


class Muon(UpdateRule):
    """Muon for matrices and filters, AdamW for vectors.

    Args:
        parameters: to be optimized.
        lr: the rate of both.
        momentum: of the matrices.
        betas: rates of the vectors' moments, whose bias is corrected.
        weight_decay: decoupled.
        eps: added to the root of the vectors' second moments.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        *,
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        super().__init__(parameters, defaults)

    def _update(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        if weights.dim() > 1:
            self._update_matrix(weights, gradient, state, group)
        else:
            self._update_vector(weights, gradient, state, group)

    def _update_matrix(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weights)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        matrix = gradient.add(buffer, alpha=group["momentum"]).flatten(1)
        scale = 0.2 * max(matrix.shape) ** 0.5
        weights.sub_(orthogonalized(matrix).view_as(weights), alpha=group["lr"] * scale)

    def _update_vector(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        weights.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1 ** state["step"]))
