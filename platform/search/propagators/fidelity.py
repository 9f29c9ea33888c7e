"""A Gaussian process over hyperparameters and fidelity, which learns from the curves of pruned trials.

How far a training had come is one more dimension of the process, so that a trial that was pruned early says something
about its end, with a certainty that grows with its length, and a complete trial says more (Kandasamy et al. 2017; the
curves as data are those of freeze-thaw, Swersky et al. 2014, and DyHPO, Wistuba et al. 2022). What is proposed has the
largest expected improvement at the end of a training. Which trials go on is decided by the study's pruning.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray

from atoll.platform.search import gaussian_process, ranking
from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.ensemble import Ensemble, Model, improvement, suggest
from atoll.platform.search.propagators.known_trials import KnownTrials
from atoll.platform.search.propagators.propagator import Propagator, Proposal, seed_of
from atoll.platform.search.propagators.random_search import uniform_genes
from atoll.platform.study.samplers import FidelityGp
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

if TYPE_CHECKING:
    import torch
    from optuna._gp.gp import GPRegressor


class FidelityPropagator(Propagator):
    """Proposes where the expected improvement at the end of a training is largest.

    Args:
        settings: the sampler's settings.
        space: the search space.
        seed: the study's seed.
        infeasibility: returns why hyperparameters are infeasible, or None.
    """

    is_slow: ClassVar[bool] = True
    tells_pending: ClassVar[bool] = True

    def __init__(
        self, settings: FidelityGp, space: SearchSpace, seed: int, infeasibility: Infeasibility = lambda _: None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        gaussian_process.leave_threads_alone()
        self._settings = settings
        self._space = space
        self._seed = seed
        self._infeasibility = infeasibility
        self._trials = KnownTrials(list(space.limits()))

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """At random until `startup` trials are known, and after infeasible proposals."""
        started = time.perf_counter()
        seed = seed_of(self._seed, number, attempt)
        genes, operator = None, "fidelity-gp"
        if attempt == 0 and len(self._trials) >= self._settings.startup:
            genes = self._suggest(number, seed)
        if genes is None:
            genes, operator = uniform_genes(self._space.limits(), random.Random(seed)), "fidelity-gp, random"
        return Proposal(genes, operator, seconds=time.perf_counter() - started)

    def _suggest(self, number: int, seed: int) -> dict[str, Gene] | None:
        used = remembered(self._trials.ended, self._settings.memory)
        seen = self._trials.points([*(trial.genes for trial in used), *self._trials.running(number)])
        complete = self._trials.points([trial.genes for trial in used if trial.is_complete])
        ensemble = Ensemble((self.model(used),), np.ones(1))
        expected = improvement(ensemble, seen, self._space, complete if len(complete) else None)
        return suggest(expected, seen, self._space, self._infeasibility, seed)

    def model(self, trials: Sequence[Individual]) -> Model:
        """The process of these trials, at the end of a training; scores are larger for smaller losses."""
        places, losses = curves_of(trials)
        genes = [trials[trial].genes for trial, _ in places]
        points = np.column_stack([self._trials.points(genes), [fidelity for _, fidelity in places]])
        limits = self._space.limits().values()
        is_categorical = np.array([*(isinstance(low, int) for low, _ in limits), False])
        process = gaussian_process.fit(points, ranking.scores(np.array(losses)), is_categorical)
        return Model(AtTheEnd(process), np.arange(len(limits)))

    # Events.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        self._trials.started(number, genes)

    def arrived(self, individual: Individual) -> None:
        """A trial has a result, or a newer one."""
        self._trials.arrived(individual)

    def dropped(self, number: int) -> None:
        """A trial has no result."""
        self._trials.forget(number)

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A proposal was infeasible."""
        self._trials.infeasible(number)

    def left(self, number: int) -> None:
        """An individual has emigrated."""
        self._trials.forget(number)


class AtTheEnd:
    """A process over hyperparameters and fidelity as one over hyperparameters, at the end of a training."""

    def __init__(self, process: GPRegressor) -> None:
        self._process = process
        self.kernel_scale, self.noise_var = process.kernel_scale, process.noise_var

    @property
    def length_scales(self) -> NDArray[np.float64]:
        """Those of the hyperparameters."""
        return np.asarray(self._process.length_scales[:-1])

    def kernel(self, first: torch.Tensor | None = None, second: torch.Tensor | None = None) -> torch.Tensor:
        """Covariances at the end; those of the data by default, with their own fidelities."""
        covariances: torch.Tensor = self._process.kernel(_at_the_end(first), _at_the_end(second))
        return covariances

    def posterior(self, points: torch.Tensor, joint: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean and the variance, or the covariances, at the end."""
        mean, variance = self._process.posterior(_at_the_end(points), joint)
        return mean, variance


def _at_the_end(points: torch.Tensor | None) -> torch.Tensor | None:
    import torch

    return None if points is None else torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def remembered(trials: Sequence[Individual], count: int) -> list[Individual]:
    """At most `count` trials, by number: half of them the best, complete ones first, the others the newest."""
    if len(trials) <= count:
        return list(trials)
    best = sorted(trials, key=lambda trial: (not trial.is_complete, trial.losses[0], trial.number))[: count // 2]
    chosen = {trial.number for trial in best}
    newest = [trial for trial in trials if trial.number not in chosen][-(count - len(best)) :]
    return sorted([*best, *newest], key=lambda trial: trial.number)


def curves_of(trials: Sequence[Individual]) -> tuple[list[tuple[int, float]], list[float]]:
    """The data of the process: trial and fidelity of each point, and its loss.

    A complete trial has its end. Of a pruned trial's curve these are its last point and those after a half, a quarter
    and an eighth of it: neighbors say the same. Fidelities are logarithms, 0 for the first report and 1 for the end,
    which is taken to be twice as far as the longest pruned trial came.
    """
    longest = max((position for trial in trials for position in trial.curve), default=1)
    places, losses = [], []
    for number, trial in enumerate(trials):
        if trial.is_complete or not trial.curve:
            places.append((number, 1.0))
            losses.append(trial.losses[0])
            continue
        for position in sparse(sorted(trial.curve)):
            places.append((number, float(np.log2(max(position, 1)) / np.log2(2 * longest))))
            losses.append(trial.curve[position])
    return places, losses


def sparse(positions: Sequence[int]) -> list[int]:
    """The last one, and the last ones up to a half, a quarter and an eighth of it."""
    last = positions[-1]
    kept = {max((position for position in positions if position <= last / 2**n), default=last) for n in range(4)}
    return sorted(kept)
