"""ADOWNPOUR: DOWNPOUR whose center is averaged over all time (Zhang 2016, chapter 4).

z_{t+1} = (1 - a) z_t + a c_t with a = 1/(t+1), where the master's clock t counts the pushes. z is
evaluated. `methods/parameter_server/downpour_base.py` has the protocol and the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.weight_average import OWN_AVERAGE
from atoll.methods.method import Context
from atoll.methods.parameter_server.downpour_base import DownpourBase, PushHyperparameters
from atoll.methods.sequential.descent import check_descent


@dataclass(frozen=True, kw_only=True)
class AdownpourHyperparameters(PushHyperparameters):
    """Hyperparameters of ADOWNPOUR.

    Attributes:
        tau: local steps between two pushes.
        server: shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """


class Adownpour(DownpourBase[AdownpourHyperparameters]):
    """Push, fetch, step alone; average the center."""

    Hyperparameters = AdownpourHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("tau",)

    @classmethod
    def unsupported(cls, hyperparameters: AdownpourHyperparameters) -> Mapping[str, str]:
        """A second average."""
        return {**super().unsupported(hyperparameters), **OWN_AVERAGE}

    @classmethod
    def check(cls, hyperparameters: AdownpourHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for momentum, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("adownpour", settings, momentum_form="mdownpour")

    def __init__(self, hyperparameters: AdownpourHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context, averaged=True)
