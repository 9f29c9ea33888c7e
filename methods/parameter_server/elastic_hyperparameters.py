"""The hyperparameters that EASGD and EAMSGD share; `elastic_base.py` has the equations."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.methods.common.validation import require, require_choice
from atoll.methods.parameter_server.served import ServedHyperparameters

FORMS = ("async", "async_overlap", "jacobi", "gauss_seidel")
REPORTS = ("center", "average")


@dataclass(frozen=True, kw_only=True)
class ElasticHyperparameters(ServedHyperparameters):
    """Hyperparameters of elastic averaging.

    Attributes:
        form: of the exchange with the center, one of FORMS.
        tau: local steps between two exchanges.
        beta: rate of the center.
        alpha: rate of the replicas. Default: beta / p.
        report: the model to evaluate: the center, or its mean over time (eq. 3.13).
        stale_replicas: whether ranks that have finished an epoch keep their pull, by their last replicas, in the
            asynchronous forms; without, c drifts to the ranks still at work (the tail of section 4.3.3).
        server: in the asynchronous forms, shared (rank 0 owns the center and trains) or dedicated (it only serves).
    """

    form: str = "async"
    tau: int = 10
    beta: float = 0.9
    alpha: float | None = None
    report: str = "center"
    stale_replicas: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("form", self.form, FORMS)
        require(self.tau >= 1, f"tau must be at least 1; got {self.tau}")
        require_choice("report", self.report, REPORTS)
