"""ASGD: SGD on one rank whose iterates are averaged (Polyak and Juditsky 1992; Zhang 2016, chapter 4).

x_{t+1} = x_t - lr g(x_t), z_{t+1} = (1 - a) z_t + a x_t with a = 1/(t+1): z is the mean of all x so far, and is
evaluated. It sends 0 bytes, and runs on one rank only.
"""

from __future__ import annotations

from collections.abc import Mapping

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.weight_average import OWN_AVERAGE
from atoll.methods.method import Context, NoHyperparameters
from atoll.methods.sequential.base import SequentialBase
from atoll.methods.sequential.descent import check_descent


class Asgd(SequentialBase[NoHyperparameters]):
    """Step, and average all steps."""

    @classmethod
    def unsupported(cls, hyperparameters: NoHyperparameters) -> Mapping[str, str]:
        """A second average."""
        return {**super().unsupported(hyperparameters), **OWN_AVERAGE}

    @classmethod
    def check(cls, hyperparameters: NoHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for several ranks, momentum, and optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("asgd", settings, momentum_form="msgd")

    def __init__(self, hyperparameters: NoHyperparameters, context: Context) -> None:
        super().__init__(context, averaged=True)
