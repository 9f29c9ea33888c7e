"""The importance of hyperparameters for a study's objective, by Optuna's evaluators.

PED-ANOVA (Watanabe, Bansal, Hutter 2023) measures what distinguishes the best tenth of the trials from the rest; fANOVA
(Hutter, Hoos, Leyton-Brown 2014) measures each hyperparameter's share of the objective's variance with a random forest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["PED-ANOVA", "fANOVA"]
MAX_TRIALS = 2000
LOG_RATIO = 100.0
HIGHEST_MEDIAN = 0.88  # as a share of the range of logarithms; for uniform numbers over three decades it is 0.9


class ImportanceError(Exception):
    """Importance cannot be computed; the message says why."""


def importance(
    hyperparameters: Sequence[Mapping[str, Any]],
    objectives: Sequence[float],
    direction: str,
    method: Method,
    seed: int = 0,
) -> dict[str, float]:
    """Each hyperparameter's share of the importance. The shares sum to 1; there are none if nothing varies.

    Hyperparameters that some trials lack are left out. The cost grows with the trials: use `sample` for large studies.

    Raises:
        ImportanceError: if a package that the evaluator needs is not installed.
    """
    import optuna

    finite = [index for index, value in enumerate(objectives) if math.isfinite(value)]
    rows = [hyperparameters[index] for index in finite]
    spaces = {name: space for name in rows[0] if (space := _distribution(name, rows)) is not None} if rows else {}
    if len(rows) < 2 or not spaces or len({objectives[index] for index in finite}) < 2:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction=direction)
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: _value(row[name], space) for name, space in spaces.items()},
                    distributions=spaces,
                    value=objectives[index],
                )
                for index, row in zip(finite, rows, strict=True)
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluators = optuna.importance
            evaluator: Any = (
                evaluators.PedAnovaImportanceEvaluator()
                if method == "PED-ANOVA"
                else evaluators.FanovaImportanceEvaluator(seed=seed)
            )
            shares = evaluators.get_param_importances(study, evaluator=evaluator)
    except ImportError as error:
        raise ImportanceError(f"{method} needs the search extra, `pip install atoll[search]`: {error}") from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in shares.items()}


def sample(num_trials: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of enough trials: all, or `MAX_TRIALS` at random, in order."""
    return np.sort(np.random.default_rng(seed).choice(num_trials, min(num_trials, MAX_TRIALS), replace=False))


def is_log(values: NDArray[np.float64]) -> bool:
    """Whether numbers are spread logarithmically: positive, over at least two decades, with a median far below the top.

    Uniform numbers may span decades as well, but the logarithm of their median is near the top of the range.
    """
    if not len(values) or values.min() <= 0 or values.max() / values.min() < LOG_RATIO:
        return False
    decades = np.log(values)
    low, middle, high = decades.min(), np.median(decades), decades.max()
    return bool((middle - low) / (high - low) <= HIGHEST_MEDIAN)


def _distribution(name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The observed range of a hyperparameter; None if some trials lack it or all have the same value."""
    import optuna.distributions as d

    if not all(name in row for row in rows):
        return None
    values = [row[name] for row in rows]
    if len({str(value) for value in values}) < 2:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return d.CategoricalDistribution(sorted({_word(value) for value in values}))
    low, high = min(values), max(values)
    log = is_log(np.array(values, dtype=float))
    if all(isinstance(value, int) for value in values):
        return d.IntDistribution(low, high, log=log)
    return d.FloatDistribution(float(low), float(high), log=log)


def _value(value: Any, space: Any) -> Any:
    return _word(value) if hasattr(space, "choices") else value


def _word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
