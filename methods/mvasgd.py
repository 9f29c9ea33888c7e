"""MVASGD: SGD on one rank with a moving average of its iterates (003 chapter 4).

x_{t+1} = x_t - lr g(x_t), z_{t+1} = (1 - a) z_t + a x_t with a constant: z forgets at the rate a, and is what is
evaluated. It sends 0 bytes, and refuses more than one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.averages import RunningAverage
from atoll.methods.descent import Descent, check_descent
from atoll.methods.flat import FlatModel
from atoll.methods.method import Batch, Context, Method
from atoll.methods.optimizers import OptimizerSettings
from atoll.methods.shadow import Shadow
from atoll.methods.validation import require


@dataclass(frozen=True, kw_only=True)
class MvasgdHyperparameters:
    """Hyperparameters of MVASGD.

    Attributes:
        moving_rate: a, the weight of the newest iterate.
    """

    moving_rate: float = 0.001

    def __post_init__(self) -> None:
        require(0 < self.moving_rate <= 1, f"moving_rate must be in (0, 1]; got {self.moving_rate}")


class Mvasgd(Method):
    """Step, and remember where it has been."""

    Hyperparameters = MvasgdHyperparameters
    max_ranks: ClassVar[int | None] = 1
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: MvasgdHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Refuse several ranks and momentum."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("mvasgd", settings, momentum_form="msgd")

    def __init__(self, hyperparameters: MvasgdHyperparameters, context: Context) -> None:
        self._flat = FlatModel(context.model)
        self._descent = Descent(context, self._flat)
        self._average = RunningAverage(self._flat.parameters, hyperparameters.moving_rate)
        self._shadow = Shadow(context.model)

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        self._average.update(self._flat.parameters)
        return self._descent.step(batch)

    def evaluation_model(self) -> nn.Module:
        """Return the average, with the running statistics of the model in training."""
        return self._shadow.show(self._average.value, self._flat.statistics)

    def finalize(self) -> nn.Module:
        """Return the average."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and average."""
        return {"descent": self._descent.state_dict(), "average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state["descent"])
        self._average.load_state_dict(state["average"])
