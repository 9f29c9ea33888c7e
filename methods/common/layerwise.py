"""Optimizers with a trust ratio for each parameter, for large batches: LARS (You et al. 2017), LAMB (You et al. 2020).

Both scale a parameter's update u to the size of the parameter w, with norms over the whole of each:

    LARS   g' = g + decay w,  ratio = trust |w| / (|g| + decay |w|),  v <- momentum v + lr ratio g',  w <- w - v
           (algorithm 1)
    LAMB   m, v Adam's moments, u = m^ / (sqrt(v^) + eps) + decay w,  w <- w - lr |w| / |u| u       (algorithm 2)

The ratio is 1 for one-dimensional parameters (biases, normalization layers), as in the authors' code, and where a norm
is 0. The default parameter groups exclude these parameters from the decay, too. With LARS they thus learn at the global
rate, a thousand times the others' if the norms are equal: a workload's parameter group can lower it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from atoll.methods.common.update_rule import UpdateRule


def lars_ratio(weights: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
    """The local rate of LARS, a scalar: trust |w| / (|g| + decay |w|) (You et al. 2017, equation 6)."""
    size, slope = weights.norm(), gradient.norm()
    return torch.where((size > 0) & (slope > 0), trust * size / (slope + decay * size), 1.0)


def lamb_ratio(weights: Tensor, update: Tensor) -> Tensor:
    """The ratio of LAMB, a scalar: |w| / |u| (You et al. 2020, algorithm 2, with the identity for phi)."""
    size, length = weights.norm(), update.norm()
    return torch.where((size > 0) & (length > 0), size / length, 1.0)


class Lars(UpdateRule):
    """SGD with momentum and a trust ratio.

    Args:
        parameters: to be optimized.
        lr: the global rate, which multiplies each parameter's ratio.
        momentum: of the scaled gradients.
        weight_decay: part of the gradient and of the ratio.
        trust: the trust coefficient, eta.
    """

    def __init__(
        self, parameters: Iterable[Any], lr: float, momentum: float, *, weight_decay: float, trust: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    def _update(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weights)
        change = gradient.add(weights, alpha=group["weight_decay"]).mul_(group["lr"])
        if weights.dim() > 1:
            change.mul_(lars_ratio(weights, gradient, group["weight_decay"], group["trust"]))
        weights.sub_(state["momentum_buffer"].mul_(group["momentum"]).add_(change))


class Lamb(UpdateRule):
    """Adam with decoupled decay and a trust ratio.

    Args:
        parameters: to be optimized.
        lr: the rate, which multiplies each parameter's ratio.
        betas: rates of the moments, whose bias is corrected.
        weight_decay: added to the update before its norm is taken.
        eps: added to the root of the second moments.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        *,
        weight_decay: float,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    def _update(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        update = mean.div(root).div_(1 - beta1 ** state["step"]).add_(weights, alpha=group["weight_decay"])
        if weights.dim() > 1:
            update.mul_(lamb_ratio(weights, update))
        weights.sub_(update, alpha=group["lr"])
