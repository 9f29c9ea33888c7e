"""SGD with a constant rate on one rank (Robbins and Monro, 1951): the sequential comparator of 003, chapter 4.

x <- x - lr g(x). It communicates nothing, so it sends 0 bytes, and it refuses more than one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.descent import Descent, check_descent
from atoll.methods.flat import FlatModel
from atoll.methods.method import Batch, Context, Method, NoHyperparameters
from atoll.methods.optimizers import OptimizerSettings


class Sgd(Method):
    """Step."""

    max_ranks: ClassVar[int | None] = 1
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: NoHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Refuse several ranks and momentum."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("sgd", settings, momentum_form="msgd")

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
        """Return the parameters."""
        return self._descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state)
