"""EAMSGD: elastic averaging SGD with momentum (Zhang, Choromanska and LeCun 2015; Zhang 2016, algorithm 2).

The replicas descend with momentum delta (the optimizer's `momentum`), the center has none:

    nesterov     v <- delta v - lr g(x + delta v),  x <- x + v - alpha (x - c)    (2.5)
    heavy_ball   v <- delta v - lr g(x),            x <- x + v - alpha (x - c)    (2.6)

delta = 0 is EASGD. `elastic_base.py` has the forms of the exchange, their equations and the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.validation import require_choice
from atoll.methods.method import Context
from atoll.methods.parameter_server.elastic_base import ElasticBase
from atoll.methods.parameter_server.elastic_hyperparameters import ElasticHyperparameters
from atoll.methods.sequential.descent import check_descent


@dataclass(frozen=True, kw_only=True)
class EamsgdHyperparameters(ElasticHyperparameters):
    """Hyperparameters of EAMSGD.

    Attributes:
        momentum_form: nesterov (eq. 2.5) or heavy_ball (eq. 2.6).
        form: async (algorithm 2), async_overlap (end of section 2.2), jacobi (eqs. 2.3, 2.4) or gauss_seidel
            (eq. 6.3).
        tau: local steps between two exchanges.
        beta: rate of the center.
        alpha: rate of the replicas. Default: beta / p.
        report: the model to evaluate: the center, or its average over time (eq. 3.13).
        stale_replicas: whether ranks that have finished an epoch keep their pull, by their last replicas, in the
            asynchronous forms; without, c drifts to the ranks still at work (the tail of section 4.3.3).
        server: in the asynchronous forms, shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """

    momentum_form: str = "nesterov"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("momentum_form", self.momentum_form, ("nesterov", "heavy_ball"))


class Eamsgd(ElasticBase[EamsgdHyperparameters]):
    """Descent with momentum, tied to a center."""

    Hyperparameters = EamsgdHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.005, "momentum": 0.99, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: EamsgdHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("eamsgd", settings, momentum_form=None)

    def __init__(self, hyperparameters: EamsgdHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context, heavy_ball=hyperparameters.momentum_form == "heavy_ball")
