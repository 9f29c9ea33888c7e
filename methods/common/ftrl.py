"""FTRL-Proximal (McMahan et al. 2013, algorithm 1), which torch does not have.

With eta_t = rate_t / sqrt(n_t), n the sum of squared gradients, and z the state from which the weights follow,

    z_t = z_{t-1} + g_t - (1/eta_t - 1/eta_{t-1}) w_t,   w_{t+1} = -eta_t (z_t - sign(z_t) l1), and 0 where |z_t| <= l1

so l1 makes weights exactly zero; without it this is AdaGrad. The paper's weights start at zero, where no network
trains; here z starts such that the given weights are its fixed point. It starts so anew wherever the weights are not
those of the last step, as after an average over ranks, which would be undone otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from atoll.methods.common.update_rule import UpdateRule

# 1/eta must stay finite in single precision, however far a schedule falls.
SMALLEST_RATE = 1e-12


class Ftrl(UpdateRule):
    """Follow the regularized leader, per coordinate.

    Args:
        parameters: to be optimized.
        lr: the learning rate.
        weight_decay: coupled, added to the gradient.
        l1: a weight is zero while |z| is at most l1.
        initial_accumulator: n at the start.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        initial_accumulator: float = 0.1,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "l1": l1, "initial_accumulator": initial_accumulator}
        super().__init__(parameters, defaults)

    def _update(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        rate, l1 = max(group["lr"], SMALLEST_RATE), group["l1"]
        if not state:
            state["n"] = torch.full_like(weights, group["initial_accumulator"])
        if "inverse" not in state:
            state["inverse"] = state["n"].sqrt() / rate
        n, start = state["n"], -weights * state["inverse"] - weights.sign() * l1
        if "z" in state:
            z = state["z"]
            z.copy_(torch.where(_weights(z, state["inverse"], l1) == weights, z, start))
        else:
            z = state["z"] = start
        gradient = gradient.add(weights, alpha=group["weight_decay"])
        n.addcmul_(gradient, gradient)
        inverse = n.sqrt() / rate
        z.add_(gradient - (inverse - state["inverse"]) * weights)
        state["inverse"] = inverse
        weights.copy_(_weights(z, inverse, l1))


def _weights(z: Tensor, inverse: Tensor, l1: float) -> Tensor:
    return -(z - z.clamp(-l1, l1)) / inverse
