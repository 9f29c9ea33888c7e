"""DOWNPOUR: asynchronous SGD that pushes sums of updates to a center (Dean et al. 2012; Zhang 2016, algorithm 3).

Every tau local steps c <- c + v, x <- c, v <- 0, with v the sum of this rank's updates since; in between x <- x - lr
g(x). With p ranks the center moves p times as far as with one, and at tau >= 16 the source found it unstable. On one
rank it is SGD. `methods/parameter_server/downpour_base.py` has the protocol and the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.method import Context
from atoll.methods.parameter_server.downpour_base import DownpourBase, PushHyperparameters
from atoll.methods.sequential.descent import check_descent


@dataclass(frozen=True, kw_only=True)
class DownpourHyperparameters(PushHyperparameters):
    """Hyperparameters of DOWNPOUR.

    Attributes:
        tau: local steps between two pushes.
        server: shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """


class Downpour(DownpourBase[DownpourHyperparameters]):
    """Push, fetch, step alone."""

    Hyperparameters = DownpourHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("tau",)

    @classmethod
    def check(cls, hyperparameters: DownpourHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for momentum, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("downpour", settings, momentum_form="mdownpour")

    def __init__(self, hyperparameters: DownpourHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context)
