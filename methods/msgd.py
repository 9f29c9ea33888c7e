"""MSGD: SGD with Nesterov's momentum on one rank (Nesterov, 1983; 003 chapter 4 and equation 5.4).

v <- delta v - lr g(x + delta v), x <- x + v; delta is the optimizer's `momentum`. It sends 0 bytes, and refuses more
than one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.descent import Descent, check_descent
from atoll.methods.flat import FlatModel
from atoll.methods.method import Batch, Context, Method, NoHyperparameters
from atoll.methods.optimizers import OptimizerSettings


class Msgd(Method):
    """Look ahead, then step."""

    max_ranks: ClassVar[int | None] = 1
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.001, "momentum": 0.99, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: NoHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Refuse several ranks, and optimizers without momentum."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("msgd", settings, momentum_form=None)

    def __init__(self, hyperparameters: NoHyperparameters, context: Context) -> None:
        self._descent = Descent(context, FlatModel(context.model))
        self._model = context.model

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        return self._descent.step(batch)

    def evaluation_model(self) -> nn.Module:
        """Return the model."""
        return self._model

    def finalize(self) -> nn.Module:
        """Return the model."""
        return self._model

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and velocity."""
        return self._descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state)
