"""An upper bound of the incumbent's regret, its distance to the optimum (Makarova et al. 2022).

A Gaussian process on the results gives confidence bounds; the regret is at most the largest upper bound over the space
less the largest lower one over the results, for a maximum (section 3.1), with beta of Srinivas et al. 2010, divided by
5 as there. The process, its confidence bounds and their maximization over the space are those of Optuna's `GPSampler`.

Optuna's own `RegretBoundEvaluator` is not used: it takes the largest upper bound from 2,048 random points and fits the
better half of the results only. After 1,000 random trials of a quadratic function of 12 variables it is 0.0016, with a
true regret of 0.27; this one, from all results and a maximum that is searched for, is 0.31 (benchmarks/regret.py).
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from atoll.platform.search import gaussian_process
from atoll.searchspaces.space import Gene, SearchSpace

FEWEST = 20  # complete trials
MOST = 400  # the incumbent and others at random: the time grows with the third power


@dataclass(frozen=True)
class Bound:
    """A bound.

    Attributes:
        value: in the objective's unit; None if numbers were too large or a matrix was singular.
        incumbent: the lowest loss.
        num_trials: the complete trials that there were.
        seconds: the computing time.
    """

    value: float | None
    incumbent: float
    num_trials: int
    seconds: float


def next_after(num_trials: int) -> int:
    """The number of complete trials at which the bound is computed again: a tenth more."""
    return max(FEWEST, num_trials + max(1, num_trials // 10))


def check() -> None:
    """Raise ValueError unless Optuna has the Gaussian process that is used here."""
    gaussian_process.check("stop.regret", "use target, plateau or a budget")


def bound(genes: Sequence[Mapping[str, Gene]], losses: Sequence[float], space: SearchSpace, seed: int) -> Bound:
    """The bound.

    Args:
        genes, losses: of the complete trials; the losses are finite.
        space: the search space.
        seed: of the points from which the largest upper confidence bound is searched.
    """
    import numpy as np
    import torch

    began = time.perf_counter()
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            value = _value(genes, losses, space, seed)
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        value = math.nan
    return Bound(value if math.isfinite(value) else None, min(losses), len(losses), time.perf_counter() - began)


def _value(genes: Sequence[Mapping[str, Gene]], losses: Sequence[float], space: SearchSpace, seed: int) -> float:
    """The bound; NaN or infinite if numbers were too large."""
    import numpy as np
    import optuna
    from optuna._gp import acqf, optim_mixed
    from optuna._gp.search_space import SearchSpace as Normalized
    from optuna.distributions import BaseDistribution
    from optuna.trial import create_trial

    from atoll.platform.search.propagators.optuna_sampler import gene_distribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # For the whole process, as in the sampler: torch's threads are those of the training.
    gaussian_process.leave_threads_alone()
    distributions: dict[str, BaseDistribution] = {p.name: gene_distribution(p) for p in space.parameters}
    chosen = _chosen(losses, seed)
    trials = [create_trial(params=dict(genes[i]), distributions=distributions, value=losses[i]) for i in chosen]
    normalized = Normalized(distributions)
    points = normalized.get_normalized_params(trials)
    values = -np.array([losses[i] for i in chosen])  # the process's bounds are those of a maximum
    scale = max(float(values.std()), 1e-10)
    if not math.isfinite(scale):
        return math.nan
    process = gaussian_process.fit(points, (values - values.mean()) / scale, normalized.is_categorical)
    beta = confidence(len(space.parameters), len(chosen))
    upper = acqf.UCB(process, normalized, beta)
    lower = acqf.LCB(process, normalized, beta)
    start, rng = points[[int(values.argmax())]], np.random.RandomState(seed % 2**32)
    _, highest = optim_mixed.optimize_acqf_mixed(upper, warmstart_normalized_params_array=start, rng=rng)
    highest = max(float(highest), float(upper.eval_acqf_no_grad(points).max()))
    return scale * (highest - float(lower.eval_acqf_no_grad(points).max()))


def confidence(num_parameters: int, num_trials: int, delta: float = 0.1) -> float:
    """The squared width of the confidence bounds, beta (Srinivas et al. 2010, theorem 1, divided by 5).

    Args:
        num_parameters: in place of the number of configurations, as in Optuna, as that is infinite.
        num_trials: the results.
        delta: the probability with which a bound does not hold.
    """
    return 2 * math.log(num_parameters * num_trials**2 * math.pi**2 / (6 * delta)) / 5


def _chosen(losses: Sequence[float], seed: int) -> list[int]:
    """The places of the results that are used: the lowest, and others at random if there are many."""
    if len(losses) <= MOST:
        return list(range(len(losses)))
    best = min(range(len(losses)), key=losses.__getitem__)
    others = [place for place in range(len(losses)) if place != best]
    return sorted([best, *random.Random(seed).sample(others, MOST - 1)])


class Bounding:
    """Computes bounds in a thread, one at a time, next to the trainings.

    Args:
        space: the search space.
        seed: the study's.
        num_before: the complete trials of the last bound that is recorded; 0 if none is.
    """

    def __init__(self, space: SearchSpace, seed: int, num_before: int = 0) -> None:
        self._space = space
        self._seed = seed
        self._due = next_after(num_before) if num_before else FEWEST
        self._results: dict[int, tuple[Mapping[str, Gene], float]] = {}
        self._future: Future[Bound] | None = None

    def add(self, number: int, genes: Mapping[str, Gene], loss: float) -> None:
        """A complete trial."""
        if math.isfinite(loss):
            self._results[number] = genes, loss

    def start(self) -> None:
        """Compute a bound if one is due."""
        if self._future is not None or len(self._results) < self._due:
            return
        results = [self._results[number] for number in sorted(self._results)]
        self._due = next_after(len(results))
        future: Future[Bound] = Future()

        def work() -> None:
            try:
                genes, losses = zip(*results, strict=True)
                future.set_result(bound(genes, losses, self._space, self._seed + len(results)))
            except BaseException as error:
                future.set_exception(error)

        self._future = future
        threading.Thread(target=work, name="regret", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        """Whether a bound is being computed."""
        return self._future is not None and not self._future.done()

    def take(self) -> Bound | None:
        """The bound that was computed; None if there is none that is new. Raises what its computing has raised."""
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        return future.result()
