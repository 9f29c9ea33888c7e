"""Optuna's samplers with the interface of a propagator.

Each worker's root has its own in-memory study, which receives all individuals: genes, losses, intermediate values, and
the samplers' attributes, without which several studies would not act as one (CMA-ES would restart in each). Genes are
numbers in [0, 1] and indices of choices, so that scales, steps and ceilings stay in the space. A new sampler is made
for each proposal, from a seed of the study and the trial, so a resume loses no hidden state.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    TPESampler,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from atoll.platform.search.gaussian_process import leave_threads_alone
from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.propagator import SHARED, Propagator, Proposal, seed_of
from atoll.platform.study.samplers import CmaEs, Gp, Nsga2, Nsga3, Qmc, Tpe
from atoll.searchspaces.space import Gene, Parameter, SearchSpace

OptunaSettings = Tpe | CmaEs | Nsga2 | Nsga3 | Gp | Qmc


class _Storage(InMemoryStorage):  # type: ignore[misc]
    """Trials in memory; samplers see those that have not emigrated, and at most `memory` of them."""

    def __init__(self, memory: int | None = None) -> None:
        super().__init__()
        self.hidden: set[int] = set()
        self._memory = memory

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As in Optuna, without the hidden ones."""
        trials: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
        if self.hidden:
            trials = [trial for trial in trials if trial._trial_id not in self.hidden]
        if self._memory is None or len(trials) <= self._memory:
            return trials
        trials = [trial for trial in trials if trial.state != TrialState.FAIL]
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = {t._trial_id for t in sorted(done, key=lambda t: t.value or 0.0)[: self._memory // 2]}
        newest = {trial._trial_id for trial in trials[-(self._memory - len(best)) :]}
        return [trial for trial in trials if trial._trial_id in best | newest]


class _Shared(dict[str, Any]):
    """A trial's parameters or distributions, which Optuna would copy deeply for each trial.

    Optuna replaces them when they change, and never changes one.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class OptunaPropagator(Propagator):
    """Asks one of Optuna's samplers.

    Args:
        settings: the sampler's settings.
        space: the search space.
        num_objectives: the number of an individual's losses.
        population: the size of a generation of evolutionary samplers.
        seed: the study's seed.
    """

    is_slow: ClassVar[bool] = True
    tells_pending: ClassVar[bool] = True

    def __init__(
        self, settings: OptunaSettings, space: SearchSpace, num_objectives: int, population: int, seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # For the whole process: Python's warnings context is not safe in the thread that makes proposals.
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Clip non-finite values")  # a missed target is infinite
        if isinstance(settings, Gp):
            leave_threads_alone()
        self._name = settings.name
        self._knows_pruning = isinstance(settings, Tpe)
        # NSGA-II and -III see trials of generations only: results from elsewhere are the first one.
        genetic = {Nsga2: "NSGAIISampler", Nsga3: "NSGAIIISampler"}.get(type(settings))
        self._of_learned: dict[str, Any] = {} if genetic is None else {f"{genetic}:generation": 0}
        self._space = space
        self._seed = seed
        self._inactive = space.inactive_genes()
        self._distributions = {p.name: gene_distribution(p) for p in space.parameters}
        self._storage = _Storage(settings.memory if isinstance(settings, Gp) else None)
        self._study = optuna.create_study(storage=self._storage, directions=["minimize"] * num_objectives)
        self._learned: list[FrozenTrial] = []  # results from elsewhere
        self._make = _factory(settings, population, seed, self._distributions, self._learned)
        self._ids: dict[int, int] = {}  # trial's number -> Optuna's
        self._numbers: dict[int, int] = {}

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """Ask the sampler for the active parameters, one by one."""
        started = time.perf_counter()
        study = self._study._study_id
        before = set(self._storage.get_study_system_attrs(study))
        self._study.sampler = self._make(seed_of(self._seed, number, attempt), number)
        trial = self._study.ask()
        self._remember(number, trial._trial_id)
        genes, _ = self._space.draw(lambda p: self._suggest(trial, p))
        attributes = dict(self._storage.get_trial(trial._trial_id).system_attrs)
        # A generation's parents are attributes of the study, here by trial number, which other workers know.
        for key, ids in self._storage.get_study_system_attrs(study).items():
            if key not in before and ":parent:" in key:
                attributes[SHARED + key] = [self._numbers[id_] for id_ in ids]
        took = time.perf_counter() - started
        return Proposal(self._inactive | genes, self._name, attributes=attributes, seconds=took)

    def _suggest(self, trial: optuna.Trial, parameter: Parameter) -> Gene:
        distribution = self._distributions[parameter.name]
        if isinstance(distribution, CategoricalDistribution):
            return int(trial.suggest_categorical(parameter.name, distribution.choices))
        return float(trial.suggest_float(parameter.name, 0.0, 1.0))

    def _remember(self, number: int, trial_id: int) -> None:
        self._ids[number], self._numbers[trial_id] = trial_id, number

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Add a running trial, unless it was proposed here."""
        if number in self._ids and not self._storage.get_trial(self._ids[number]).state.is_finished():
            return
        active = self._space.active(genes)
        trial = FrozenTrial(
            number=-1,  # the storage numbers trials
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params=_Shared(active),
            distributions=_Shared((name, self._distributions[name]) for name in active),
            user_attrs={},
            system_attrs=self._take_study_attributes(attributes),
            intermediate_values={},
        )
        self._remember(number, self._storage.create_new_trial(self._study._study_id, trial))

    def _take_study_attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        known = self._storage.get_study_system_attrs(self._study._study_id)
        for key, numbers in ((k.removeprefix(SHARED), v) for k, v in attributes.items() if k.startswith(SHARED)):
            if key not in known:
                ids = [self._ids[number] for number in numbers if number in self._ids]
                self._storage.set_study_system_attr(self._study._study_id, key, ids)
        return {key: value for key, value in attributes.items() if not key.startswith(SHARED)}

    def arrived(self, individual: Individual) -> None:
        """Tell the sampler of an evaluated individual, or show it one again that has returned."""
        if self._returns(individual):
            return
        genes = dict(zip(self._distributions, individual.genes, strict=True))
        is_learned = individual.number < 0 or individual.is_learned
        self.started(individual.number, genes, self._of_learned if is_learned else individual.attributes)
        trial_id = self._ids[individual.number]
        # Only TPE supports pruned trials. The others would ignore them and keep proposing similar ones, so we report
        # the last value as final.
        if individual.is_complete or not self._knows_pruning:
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, individual.losses)
            if is_learned:
                self._learned.append(self._storage.get_trial(trial_id))
            return
        for epoch, loss in individual.curve.items():
            self._storage.set_trial_intermediate_value(trial_id, epoch, loss)
        self._storage.set_trial_state_values(trial_id, TrialState.PRUNED, individual.losses)

    def _returns(self, individual: Individual) -> bool:
        trial_id = self._ids.get(individual.number)
        if trial_id not in self._storage.hidden or not individual.is_complete:
            return False
        trial = self._storage.get_trial(trial_id)
        if trial.state != TrialState.COMPLETE or trial.values != list(individual.losses):  # it has a newer result
            return False
        self._storage.hidden.remove(trial_id)
        return True

    def dropped(self, number: int) -> None:
        """Close a trial that has no result."""
        if number in self._ids and not self._storage.get_trial(self._ids[number]).state.is_finished():
            self._storage.set_trial_state_values(self._ids[number], TrialState.FAIL)

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Close an infeasible proposal with an infinite loss, so that the sampler learns to avoid the region."""
        self.started(number, genes, attributes)
        worst = [math.inf] * len(self._study.directions)
        self._storage.set_trial_state_values(self._ids[number], TrialState.COMPLETE, worst)

    def left(self, number: int) -> None:
        """Hide an emigrant from the sampler."""
        if number in self._ids:
            self._storage.hidden.add(self._ids[number])


class _Qmc(QMCSampler):  # type: ignore[misc]
    """Point `number` of the sequence over the whole space."""

    def __init__(self, number: int, distributions: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._number, self._distributions = number, distributions

    def infer_relative_search_space(self, study: object, trial: object) -> dict[str, BaseDistribution]:
        """The same dimensions for every point."""
        return self._distributions

    def _find_sample_id(self, study: object, search_space: object) -> int:
        return self._number


def _factory(
    settings: OptunaSettings,
    population: int,
    seed: int,
    distributions: dict[str, BaseDistribution],
    learned: Sequence[FrozenTrial],
) -> Callable[[int, int], BaseSampler]:
    """A function that makes the sampler for a seed and a trial's number; `learned` may grow."""
    s = settings
    if isinstance(s, Tpe):
        return lambda seed, _: TPESampler(
            n_startup_trials=s.startup,
            n_ei_candidates=s.candidates,
            multivariate=s.multivariate,
            group=s.group,
            constant_liar=s.constant_liar,
            seed=seed,
        )
    if isinstance(s, CmaEs):
        from atoll.platform.search.propagators.cmaes import NumericCmaEsSampler  # imports scipy, which takes long

        return lambda seed, _: NumericCmaEsSampler(
            n_startup_trials=s.startup,
            popsize=s.population,
            with_margin=s.margin,
            use_separable_cma=s.separable,
            # Warm-started CMA-ES (Nomura et al. 2021), which Optuna has no separable form of.
            source_trials=(list(learned) or None) if not s.separable else None,
            warn_independent_sampling=False,
            seed=seed,
        )
    if isinstance(s, Gp):
        return lambda seed, _: GPSampler(
            n_startup_trials=s.startup,
            deterministic_objective=s.deterministic,
            warn_independent_sampling=False,
            seed=seed,
        )
    if isinstance(s, Qmc):
        return lambda _, number: _Qmc(
            number,
            distributions,
            qmc_type=s.sequence,
            scramble=s.scramble,
            seed=seed,
            warn_independent_sampling=False,
        )
    options = {
        "population_size": s.population or population,
        "mutation_prob": s.mutation,
        "crossover_prob": s.crossover,
        "swapping_prob": s.swapping,
    }
    if isinstance(s, Nsga2):
        return lambda seed, _: NSGAIISampler(seed=seed, **options)
    return lambda seed, _: NSGAIIISampler(seed=seed, dividing_parameter=s.divisions, **options)


def gene_distribution(parameter: Parameter) -> BaseDistribution:
    """The distribution of a parameter's gene: a number in [0, 1], or the index of a choice."""
    low, high = parameter.limits()
    if isinstance(low, int):
        return CategoricalDistribution(range(low, int(high) + 1))
    return FloatDistribution(0.0, 1.0)
