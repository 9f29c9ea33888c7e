"""The Gaussian process of Optuna's `GPSampler`, which is no part of Optuna's interface."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna._gp.gp import GPRegressor

Array = NDArray[np.float64]


def check(what: str, instead: str) -> None:
    """Raise ValueError unless Optuna has the Gaussian process that is used here.

    Args:
        what: the setting that needs it.
        instead: what a user may do without it.
    """
    import optuna

    try:
        from optuna._gp import acqf, gp, optim_mixed, prior, search_space

        _ = acqf.UCB, acqf.LCB, acqf.BaseAcquisitionFunc, acqf.logei, prior.default_log_prior
        _ = gp.fit_kernel_params, gp.GPRegressor.kernel, gp.GPRegressor.posterior, optim_mixed.optimize_acqf_mixed
        _ = search_space.SearchSpace
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{what} needs the Gaussian process of Optuna 5.0, which Optuna {optuna.__version__} does not have "
            f"({error}): install optuna 5.0, or {instead}"
        ) from None


def leave_threads_alone() -> None:
    """Keep Optuna from setting torch's threads to 1 while it fits a Gaussian process.

    The setting would affect the whole process, so the running trial would be slower and have other last digits.
    """
    from optuna._gp import gp, optim_mixed

    for module in (gp, optim_mixed):
        assert hasattr(module, "limit_threads_in_optimization")
        module.limit_threads_in_optimization = nullcontext


def fit(points: Array, values: Array, is_categorical: NDArray[np.bool_]) -> GPRegressor:
    """A process with a Matérn kernel, whose parameters are those of the largest posterior density.

    Args:
        points: (n, d); those of categories are their indices.
        values: (n,), standardized.
        is_categorical: (d,).
    """
    from optuna._gp import gp, prior

    return gp.fit_kernel_params(
        X=points,
        Y=values,
        is_categorical=is_categorical,
        log_prior=prior.default_log_prior,
        minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
        deterministic_objective=False,
    )
