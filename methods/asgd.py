"""ASGD: SGD on one rank whose iterates are averaged (Polyak and Juditsky, 1992; 003 chapter 4).

x_{t+1} = x_t - lr g(x_t), z_{t+1} = (1 - a) z_t + a x_t with a = 1/(t+1): z is the mean of all x so far, and is what is
evaluated. It sends 0 bytes, and refuses more than one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.averages import RunningAverage
from atoll.methods.descent import Descent, check_descent
from atoll.methods.flat import FlatModel
from atoll.methods.method import Batch, Context, Method, NoHyperparameters
from atoll.methods.optimizers import OptimizerSettings
from atoll.methods.shadow import Shadow


class Asgd(Method):
    """Step, and remember where it has been."""

    max_ranks: ClassVar[int | None] = 1
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: NoHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Refuse several ranks and momentum."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("asgd", settings, momentum_form="msgd")

    def __init__(self, hyperparameters: NoHyperparameters, context: Context) -> None:
        self._flat = FlatModel(context.model)
        self._descent = Descent(context, self._flat)
        self._average = RunningAverage(self._flat.parameters)
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
