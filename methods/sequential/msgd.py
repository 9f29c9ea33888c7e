"""MSGD: SGD with Nesterov's momentum on one rank (Nesterov 1983; Zhang 2016, chapter 4 and eq. 5.4).

v <- delta v - lr g(x + delta v), x <- x + v; delta is the optimizer's `momentum`. It sends 0 bytes, and runs on one
rank only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.method import Context, NoHyperparameters
from atoll.methods.sequential.base import SequentialBase
from atoll.methods.sequential.descent import check_descent


class Msgd(SequentialBase[NoHyperparameters]):
    """Look ahead, then step."""

    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.001, "momentum": 0.99, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: NoHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for several ranks, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("msgd", settings, momentum_form=None)

    def __init__(self, hyperparameters: NoHyperparameters, context: Context) -> None:
        super().__init__(context)
