"""SGD with a constant rate on one rank (Robbins and Monro 1951; the comparator of Zhang 2016, chapter 4).

x <- x - lr g(x). It sends 0 bytes, and runs on one rank only.
"""

from __future__ import annotations

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.method import Context, NoHyperparameters
from atoll.methods.sequential.base import SequentialBase
from atoll.methods.sequential.descent import check_descent


class Sgd(SequentialBase[NoHyperparameters]):
    """Step."""

    @classmethod
    def check(cls, hyperparameters: NoHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for several ranks, momentum, and optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("sgd", settings, momentum_form="msgd")

    def __init__(self, hyperparameters: NoHyperparameters, context: Context) -> None:
        super().__init__(context)
