"""DiLoCo: local steps, then an outer Nesterov step along the mean change (Douillard et al. 2023).

Every H steps, with x the parameters after the last outer step and x_i those of rank i now:

    d <- x - mean(x_i),  m <- momentum m + d,  x <- x - lr (d + momentum m),  x_i <- x

with the outer rate lr and the outer momentum. Outer rate 1 and momentum 0 is local SGD. The inner optimizer is AdamW by
default, as in Douillard et al. 2023. What is evaluated, how a training ends, and bytes: `outer_base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from atoll.methods.common.validation import require
from atoll.methods.data_parallel.outer_base import OuterBase


@dataclass(frozen=True, kw_only=True)
class DilocoHyperparameters:
    """Hyperparameters of DiLoCo.

    Attributes:
        H: local steps between two outer steps.
        outer_learning_rate: learning rate of the outer step.
        outer_momentum: momentum of the outer step, in Nesterov's form.
    """

    H: int = 32
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.9

    def __post_init__(self) -> None:
        require(self.H >= 1, f"H must be at least 1; got {self.H}")
        require(self.outer_learning_rate > 0, f"outer_learning_rate must be above 0; got {self.outer_learning_rate}")
        require(0 <= self.outer_momentum < 1, f"outer_momentum must be in [0, 1); got {self.outer_momentum}")


def outer_step(start: Tensor, mean: Tensor, velocity: Tensor, rate: float, momentum: float) -> None:
    """Move `start` (n,) in place along the change to `mean` (n,), with Nesterov's momentum; `velocity` (n,) is m."""
    change = start - mean
    velocity.mul_(momentum).add_(change)
    start.sub_(change.add_(velocity, alpha=momentum), alpha=rate)


class Diloco(OuterBase[DilocoHyperparameters]):
    """Step alone with the inner optimizer; take an outer step together every H steps."""

    Hyperparameters = DilocoHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3}
    mutable: ClassVar[tuple[str, ...]] = ("H", "outer_learning_rate", "outer_momentum")

    def _step_outside(self, mean: Tensor) -> None:
        h = self._hyperparameters
        outer_step(self._start, mean, self._velocity, h.outer_learning_rate, h.outer_momentum)
