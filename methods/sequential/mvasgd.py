"""MVASGD: SGD on one rank with a moving average of its iterates (Zhang 2016, chapter 4).

x_{t+1} = x_t - lr g(x_t), z_{t+1} = (1 - a) z_t + a x_t with a constant: z forgets at the rate a, and is
evaluated. It sends 0 bytes, and runs on one rank only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.validation import require
from atoll.methods.common.weight_average import OWN_AVERAGE
from atoll.methods.method import Context
from atoll.methods.sequential.base import SequentialBase
from atoll.methods.sequential.descent import check_descent


@dataclass(frozen=True, kw_only=True)
class MvasgdHyperparameters:
    """Hyperparameters of MVASGD.

    Attributes:
        moving_rate: a, the weight of the newest iterate.
    """

    moving_rate: float = 0.001

    def __post_init__(self) -> None:
        require(0 < self.moving_rate <= 1, f"moving_rate must be in (0, 1]; got {self.moving_rate}")


class Mvasgd(SequentialBase[MvasgdHyperparameters]):
    """Step, and average the latest steps."""

    Hyperparameters = MvasgdHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("moving_rate",)

    @classmethod
    def unsupported(cls, hyperparameters: MvasgdHyperparameters) -> Mapping[str, str]:
        """A second average."""
        return {**super().unsupported(hyperparameters), **OWN_AVERAGE}

    @classmethod
    def check(cls, hyperparameters: MvasgdHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for several ranks, momentum, and optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("mvasgd", settings, momentum_form="msgd")

    def __init__(self, hyperparameters: MvasgdHyperparameters, context: Context) -> None:
        super().__init__(context, averaged=True, moving_rate=hyperparameters.moving_rate)
