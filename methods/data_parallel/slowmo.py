"""SlowMo: local steps, then a slow momentum step along the mean change (Wang, Tantia, Ballas and Rabbat 2020).

Every H steps, with x the parameters after the last outer step, x_i those of rank i now, and g the learning rate of the
round (algorithm 1; the base optimizer is any):

    u <- b u + (x - mean(x_i)) / g,  x <- x - a g u,  x_i <- x

with the slow momentum b and the slow rate a. As u is in units of a gradient, a falling g does not leave too large a
momentum. b = 0 and a = 1 is local SGD; H = 1, a = 1 and SGD is data-parallel SGD with the heavy ball's momentum b.
`buffers` says what becomes of the base optimizer's state after each round: each rank's stays, or starts anew; the
source's third way, to average it, is not here. What is evaluated, how a training ends, and bytes: `outer_base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from atoll.methods.common.validation import require, require_choice
from atoll.methods.data_parallel.outer_base import OuterBase
from atoll.methods.method import Batch, Context

BUFFERS = ("maintain", "reset")


@dataclass(frozen=True, kw_only=True)
class SlowmoHyperparameters:
    """Hyperparameters of SlowMo.

    Attributes:
        H: local steps between two slow steps.
        slow_momentum: b.
        slow_rate: a, a factor of the learning rate.
        buffers: what becomes of the base optimizer's state after a round: "maintain" keeps each rank's, "reset" starts
            anew.
    """

    H: int = 12
    slow_momentum: float = 0.6
    slow_rate: float = 1.0
    buffers: str = "maintain"

    def __post_init__(self) -> None:
        require(self.H >= 1, f"H must be at least 1; got {self.H}")
        require(0 <= self.slow_momentum < 1, f"slow_momentum must be in [0, 1); got {self.slow_momentum}")
        require(self.slow_rate > 0, f"slow_rate must be above 0; got {self.slow_rate}")
        require_choice("buffers", self.buffers, BUFFERS)


def slow_step(start: Tensor, mean: Tensor, velocity: Tensor, rate: float, slow_rate: float, momentum: float) -> None:
    """Move `start` (n,) in place by -slow_rate * rate * u, where `velocity` (n,) is u and `mean` (n,) the replicas'."""
    velocity.mul_(momentum)
    if rate > 0:  # else no replica has moved
        velocity.add_(start - mean, alpha=1 / rate)
    start.sub_(velocity, alpha=slow_rate * rate)


class Slowmo(OuterBase[SlowmoHyperparameters]):
    """Step alone with the base optimizer; take a slow momentum step together every H steps."""

    Hyperparameters = SlowmoHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("H", "slow_momentum", "slow_rate")

    def __init__(self, hyperparameters: SlowmoHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context)
        self._rate = 0.0  # of this round: that of its first step

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        if self._num_local_steps == 0:
            self._rate = self._context.optimizers.learning_rate
        return super().step(batch)

    def _step_outside(self, mean: Tensor) -> None:
        h = self._hyperparameters
        slow_step(self._start, mean, self._velocity, self._rate, h.slow_rate, h.slow_momentum)
        if h.buffers == "reset":
            self._optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return replica, both optimizers' state, the round's rate and counter."""
        return super().state_dict() | {"rate": self._rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        super().load_state_dict(state)
        self._rate = state["rate"]
