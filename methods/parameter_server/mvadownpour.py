"""MVADOWNPOUR: DOWNPOUR with a moving average of its center (Zhang 2016, chapter 4).

z_{t+1} = (1 - a) z_t + a c_t with a constant, where the master's clock t counts the pushes. z is evaluated.
`methods/parameter_server/downpour_base.py` has the protocol and the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.validation import require
from atoll.methods.common.weight_average import OWN_AVERAGE
from atoll.methods.method import Context
from atoll.methods.parameter_server.downpour_base import DownpourBase, PushHyperparameters
from atoll.methods.sequential.descent import check_descent


@dataclass(frozen=True, kw_only=True)
class MvadownpourHyperparameters(PushHyperparameters):
    """Hyperparameters of MVADOWNPOUR.

    Attributes:
        tau: local steps between two pushes.
        server: shared (rank 0 owns the center and trains) or dedicated (it only serves).
        moving_rate: a, the weight of the newest center.
    """

    moving_rate: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.moving_rate <= 1, f"moving_rate must be in (0, 1]; got {self.moving_rate}")


class Mvadownpour(DownpourBase[MvadownpourHyperparameters]):
    """Push, fetch, step alone; average the center."""

    Hyperparameters = MvadownpourHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("tau", "moving_rate")

    @classmethod
    def unsupported(cls, hyperparameters: MvadownpourHyperparameters) -> Mapping[str, str]:
        """A second average."""
        return {**super().unsupported(hyperparameters), **OWN_AVERAGE}

    @classmethod
    def check(cls, hyperparameters: MvadownpourHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for momentum, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("mvadownpour", settings, momentum_form="mdownpour")

    def __init__(self, hyperparameters: MvadownpourHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context, averaged=True, moving_rate=hyperparameters.moving_rate)
