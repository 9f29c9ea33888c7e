"""EASGD: elastic averaging SGD (Zhang, Choromanska and LeCun 2015; Zhang 2016, chapter 2 and algorithm 1).

Every rank has a replica x that an elastic force ties to a center c; every tau local steps

    x <- x - lr g(x) - alpha (x - c),  c <- c + beta/p (x - c)

in the form `async`. `elastic_base.py` has the other forms, their equations and the bytes. The center is evaluated, or
its running mean (eq. 3.13), whose asymptotic variance is sigma^2 / (p h^2 t).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.method import Context
from atoll.methods.parameter_server.elastic_base import ElasticBase
from atoll.methods.parameter_server.elastic_hyperparameters import ElasticHyperparameters
from atoll.methods.sequential.descent import check_descent


@dataclass(frozen=True, kw_only=True)
class EasgdHyperparameters(ElasticHyperparameters):
    """Hyperparameters of EASGD.

    Attributes:
        form: async (algorithm 1), async_overlap (end of section 2.2), jacobi (eqs. 2.3, 2.4) or gauss_seidel
            (eq. 6.3).
        tau: local steps between two exchanges.
        beta: rate of the center.
        alpha: rate of the replicas. Default: beta / p.
        report: the model to evaluate: the center, or its average over time (eq. 3.13).
        stale_replicas: whether ranks that have finished an epoch keep their pull, by their last replicas, in the
            asynchronous forms; without, c drifts to the ranks still at work (the tail of section 4.3.3).
        server: in the asynchronous forms, shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """


class Easgd(ElasticBase[EasgdHyperparameters]):
    """Plain descent, tied to a center."""

    Hyperparameters = EasgdHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    @classmethod
    def check(cls, hyperparameters: EasgdHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for momentum, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("easgd", settings, momentum_form="eamsgd")

    def __init__(self, hyperparameters: EasgdHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context)
