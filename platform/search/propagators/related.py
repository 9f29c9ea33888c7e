"""Suggestions from related problems, for any sampler: of other methods or workloads, as far as they prove right.

Each source has a Gaussian process, and so has the study, as an ensemble (RGPE; Feurer, Letham and Bakshy 2018), whose
weights are those of `ranking.py`. A trial is proposed by the ensemble with a probability that is the weight of all
sources, and by the study's sampler otherwise; so sources are let go of as the study's own model gets better, or at once
if they mislead.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray

from atoll.platform.search import gaussian_process, ranking
from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.ensemble import Ensemble, Model, improvement, suggest
from atoll.platform.search.propagators.known_trials import KnownTrials
from atoll.platform.search.propagators.mixed import MixedPropagator
from atoll.platform.search.propagators.propagator import Propagator, Proposal, seed_of
from atoll.platform.study.related import Related
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

MOST = 0.75  # the largest share of suggestions: the sampler always has some trials, should all sources mislead
LAST = 200  # complete trials, after which sources are not asked any more

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What a study's own trials say.

    Attributes:
        ensemble: the models of the sources with a weight, and the study's own if it has one.
        of_sources: each source's weight.
    """

    ensemble: Ensemble
    of_sources: Array

    @property
    def share(self) -> float:
        """The share of trials that the sources suggest."""
        return min(MOST, float(self.of_sources.sum()))


class RelatedPropagator(MixedPropagator):
    """Proposes by the ensemble, or asks the sampler; the sampler learns from all trials.

    Args:
        sampler: the sampler.
        sources: the related problems' trials.
        space: the search space.
        seed: the study's seed.
        infeasibility: returns why hyperparameters are infeasible, or None.
    """

    is_slow: ClassVar[bool] = True
    tells_pending: ClassVar[bool] = True

    def __init__(
        self,
        sampler: Propagator,
        sources: Sequence[Related],
        space: SearchSpace,
        seed: int,
        infeasibility: Infeasibility = lambda _: None,
    ) -> None:
        super().__init__([sampler])
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        gaussian_process.leave_threads_alone()
        self._sampler = sampler
        self._sources = sources
        self._space = space
        self._seed = seed
        self._infeasibility = infeasibility
        self._names = list(space.limits())
        self._is_categorical = np.array([isinstance(low, int) for low, _ in space.limits().values()], dtype=bool)
        self._trials = KnownTrials(self._names)
        self._evidence: Evidence | None = None

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """By the ensemble with the probability of the sources' weights; else the sampler's proposal."""
        import torch

        started = time.perf_counter()
        drawn = random.Random(f"{self._seed}/{number}/related").random()
        if attempt > 0 or drawn >= MOST or len(self._complete()) >= LAST:
            return self._sampler.propose(number, attempt)
        try:
            evidence = self.evidence()
            genes = self._suggest(evidence, number) if drawn < evidence.share else None
        except (np.linalg.LinAlgError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            genes = None  # a matrix was singular: the sampler may know better
        if genes is None:
            return self._sampler.propose(number, attempt)
        told = {source.title: float(w) for source, w in zip(self._sources, evidence.of_sources, strict=True)}
        took = time.perf_counter() - started
        return Proposal(genes, "related", attributes={"related:weights": told}, seconds=took)

    def evidence(self) -> Evidence:
        """The weights by the trials that are known, and the models."""
        if self._evidence is None:
            self._evidence = self._weigh()
        return self._evidence

    def _weigh(self) -> Evidence:
        known = self._complete()
        points = self._trials.points([individual.genes for individual in known])
        losses = np.array([individual.losses[0] for individual in known], dtype=float)
        own = None
        predicted = np.zeros(len(known))
        if len(known) >= ranking.FEWEST:
            own = Model.of(points, losses, range(len(self._names)), self._is_categorical)
            predicted = -own.left_out(losses)
        predictions = np.array([-model.mean(points) for model in self._models])
        found = ranking.weights(predictions, predicted, losses, self._seed)
        models = (*self._models, own)
        used = [(model, w) for model, w in zip(models, found, strict=True) if model is not None and w > 0]
        return Evidence(Ensemble(tuple(model for model, _ in used), np.array([w for _, w in used])), found[:-1])

    @cached_property
    def _models(self) -> list[Model]:
        models = []
        for source in self._sources:
            columns = [self._names.index(name) for name in source.names]
            losses = np.array([loss for _, loss in source.trials])
            models.append(Model.of(np.array(source.places(self._space)), losses, columns, self._is_categorical))
        return models

    def _complete(self) -> list[Individual]:
        """The complete trials with a finite loss, in an order that a resume does not change."""
        return [
            individual
            for individual in self._trials.ended
            if individual.is_complete and np.isfinite(individual.losses[0])
        ]

    # Suggestions.

    def _suggest(self, evidence: Evidence, number: int) -> dict[str, Gene] | None:
        """The configuration with the largest expected improvement; None if no feasible one is found."""
        known = [individual.genes for individual in self._trials.ended]
        seen = self._trials.points([*known, *self._trials.running(number)])
        expected = improvement(evidence.ensemble, seen, self._space)
        return suggest(expected, seen, self._space, self._infeasibility, seed_of(self._seed, number, 0))

    # Events.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        super().started(number, genes, attributes)
        self._trials.started(number, genes)

    def arrived(self, individual: Individual) -> None:
        """A trial has a result, or a newer one."""
        super().arrived(individual)
        self._trials.arrived(individual)
        self._evidence = None

    def dropped(self, number: int) -> None:
        """A trial has no result."""
        super().dropped(number)
        self._forget(number)

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A proposal was infeasible."""
        super().infeasible(number, genes, attributes)
        self._trials.infeasible(number)

    def left(self, number: int) -> None:
        """An individual has emigrated."""
        super().left(number)
        self._forget(number)

    def _forget(self, number: int) -> None:
        before = len(self._trials)
        self._trials.forget(number)
        if len(self._trials) < before:
            self._evidence = None
