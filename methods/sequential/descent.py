"""The local step of the methods of Zhang 2016: gradient descent, plain or with momentum delta.

    nesterov     v <- delta v - lr g(x + delta v),  x <- x + v   (eq. 2.5, algorithm 2)
    heavy ball   v <- delta v - lr g(x),            x <- x + v   (eq. 2.6)

g is the gradient of the loss, clipped if gradient_clipping is above 0, plus weight_decay times the point at which it is
taken: the source's l2 term is a part of F. The parameters' groups scale lr and weight_decay. delta is the optimizer's
`momentum`; 0 is plain SGD.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atoll.methods.common.flat import FlatModel
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.method import Batch, Context, NotApplicable


def check_descent(method: str, settings: OptimizerSettings, *, momentum_form: str | None) -> None:
    """Raise NotApplicable unless `settings` describe a step of `Descent`.

    Args:
        method: its name.
        settings: the trial's.
        momentum_form: the form with momentum of a method that has none itself; None for a method with momentum.
    """
    if settings.optimizer != "sgd":
        raise NotApplicable(
            f"{method} is defined by SGD's own update{'' if momentum_form else ' and momentum'} (Zhang 2016), which "
            f"{settings.optimizer} does not have; optimizer must be sgd"
        )
    if settings.nesterov:
        raise NotApplicable(f"{method} defines the form of its momentum itself; nesterov must be false; got true")
    if settings.momentum and momentum_form:
        raise NotApplicable(
            f"{method} has no momentum, its form with momentum is {momentum_form}; momentum must be 0; "
            f"got {settings.momentum}"
        )


class Descent:
    """The local steps of one rank.

    Attributes:
        velocity: (n,) v.
    """

    def __init__(self, context: Context, flat: FlatModel, *, heavy_ball: bool = False) -> None:
        self._context = context
        self._settings = context.optimizers.settings
        self._flat = flat
        self._heavy_ball = heavy_ball
        self.velocity = torch.zeros_like(flat.parameters)

    def gradient(self, batch: Batch) -> Tensor:
        """Put g at the parameters as they are, times their groups' rates, into the flat gradients; returns the loss."""
        flat, settings = self._flat, self._settings
        loss = self._context.gradient(batch, flat)
        if (scale := self._context.optimizers.loss_scale) is not None and not scale.accepts([flat.gradients]):
            flat.gradients.zero_()  # the step is taken with a gradient of 0, as momentum and centers go on
            return loss
        if settings.gradient_clipping:
            nn.utils.clip_grad_norm_([flat.vector], settings.gradient_clipping)
        _add_decay(flat, settings.weight_decay)
        if isinstance(flat.rate_factor, Tensor) or flat.rate_factor != 1.0:
            flat.gradients.mul_(flat.rate_factor)
        return loss

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch; returns the loss, for Nesterov's form at x + delta v."""
        x, v = self._flat.parameters, self.velocity
        v.mul_(self._settings.momentum)
        if not self._heavy_ball:
            x.add_(v)
        loss = self.gradient(batch)
        rate = self._context.optimizers.learning_rate
        v.sub_(self._flat.gradients, alpha=rate)
        # x + v; Nesterov's form has already added delta v.
        x.add_(v) if self._heavy_ball else x.sub_(self._flat.gradients, alpha=rate)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, running statistics and velocity."""
        return {"model": self._flat.state_dict(), "velocity": self.velocity.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        self.velocity.copy_(state["velocity"])


def _add_decay(flat: FlatModel, weight_decay: float) -> None:
    """Add the gradient of the l2 term to the flat gradients."""
    factor = flat.decay_factor
    if isinstance(factor, Tensor):
        flat.gradients.addcmul_(flat.parameters, factor, value=weight_decay)
    else:
        flat.gradients.add_(flat.parameters, alpha=weight_decay * factor)
