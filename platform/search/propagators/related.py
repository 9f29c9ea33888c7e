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
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray

from atoll.platform.search import gaussian_process, ranking
from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.configurations import named_genes
from atoll.platform.search.propagators.mixed import MixedPropagator
from atoll.platform.search.propagators.propagator import Propagator, Proposal, seed_of
from atoll.platform.search.propagators.random_search import uniform_genes
from atoll.platform.study.related import Related
from atoll.searchspaces.encoding import identity
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

if TYPE_CHECKING:
    from optuna._gp.gp import GPRegressor

MOST = 0.75  # the largest share of suggestions: the sampler always has some trials, should all sources mislead
LAST = 200  # complete trials, after which sources are not asked any more
NUM_DRAWN = 512  # configurations from which one is taken where the best is infeasible, or taken

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A Gaussian process over some of the space's parameters.

    Attributes:
        process: the process of normal scores; higher is better.
        columns: (d,), the places of its parameters in the space.
    """

    process: GPRegressor
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, points: Array, losses: Array, columns: Sequence[int], is_categorical: NDArray[np.bool_]) -> Model:
        """A model of these trials.

        Args:
            points: (n, d), genes; `losses`: (n,).
            columns: (d,).
            is_categorical: of all parameters of the space.
        """
        places = np.array(columns, dtype=np.int64)
        return cls(gaussian_process.fit(points, ranking.scores(losses), is_categorical[places]), places)

    def mean(self, points: Array) -> Array:
        """(n,): the predicted scores of points (n, parameters of the space)."""
        import torch

        with torch.no_grad():
            return np.asarray(self.process.posterior(torch.from_numpy(points[:, self.columns]))[0].numpy())

    def left_out(self, losses: Array) -> Array:
        """(n,): the score predicted for each of its own trials from the others (Rasmussen and Williams 2006, 5.12)."""
        import torch

        with torch.no_grad():
            covariance = self.process.kernel().numpy() + float(self.process.noise_var) * np.eye(len(losses))
        inverse = np.linalg.inv(covariance)
        scored = ranking.scores(losses)
        return np.asarray(scored - inverse @ scored / inverse.diagonal())


@dataclass(frozen=True)
class Evidence:
    """What a study's own trials say.

    Attributes:
        models: those of the sources with a weight, and the study's own if it has one.
        weights: theirs; their sum is 1.
        of_sources: each source's weight.
    """

    models: tuple[Model, ...]
    weights: Array
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
        # Of its own, in order of the events: a population changes while a thread proposes.
        self._known: dict[int, Individual] = {}
        self._pending: dict[int, Mapping[str, Gene]] = {}
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
        points = self._points([individual.genes for individual in known])
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
        return Evidence(tuple(model for model, _ in used), np.array([w for _, w in used]), found[:-1])

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
            for _, individual in sorted(self._known.items())
            if individual.is_complete and np.isfinite(individual.losses[0])
        ]

    def _points(self, genes: Sequence[Sequence[Gene]]) -> Array:
        return np.array(genes, dtype=float).reshape(len(genes), len(self._names))

    # Suggestions.

    def _suggest(self, evidence: Evidence, number: int) -> dict[str, Gene] | None:
        """The configuration with the largest expected improvement; None if no feasible one is found."""
        from optuna._gp import optim_mixed

        known = [individual.genes for _, individual in sorted(self._known.items())]
        others = [genes for other, genes in sorted(self._pending.items()) if other != number]
        seen = self._points([*known, *(tuple(genes[name] for name in self._names) for genes in others)])
        expected = improvement(evidence, seen, self._space)
        seed = seed_of(self._seed, number, 0)
        rng = np.random.RandomState(seed)
        best, _ = optim_mixed.optimize_acqf_mixed(expected, rng=rng)
        taken = {identity(self._space.decode(named_genes(self._space, point))) for point in seen}
        if (genes := self._allowed(best, taken)) is not None:
            return genes
        draws = random.Random(seed)
        drawn = self._points([tuple(uniform_genes(self._space.limits(), draws).values()) for _ in range(NUM_DRAWN)])
        order = np.argsort(-expected.eval_acqf_no_grad(drawn), kind="stable")
        return next((genes for place in order if (genes := self._allowed(drawn[place], taken)) is not None), None)

    def _allowed(self, point: Array, taken: set[str]) -> dict[str, Gene] | None:
        """The genes of a point, with inactive ones as they are by default; None if it is infeasible, or taken."""
        genes = named_genes(self._space, point)
        active, values = self._space.draw(lambda parameter: genes[parameter.name])
        if identity(values) in taken or self._infeasibility(values) is not None:
            return None
        return self._space.inactive_genes() | active

    # Events.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        super().started(number, genes, attributes)
        self._pending[number] = dict(genes)

    def arrived(self, individual: Individual) -> None:
        """A trial has a result, or a newer one."""
        super().arrived(individual)
        self._pending.pop(individual.number, None)
        self._known[individual.number] = individual
        self._evidence = None

    def dropped(self, number: int) -> None:
        """A trial has no result."""
        super().dropped(number)
        self._forget(number)

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A proposal was infeasible."""
        super().infeasible(number, genes, attributes)
        self._pending.pop(number, None)

    def left(self, number: int) -> None:
        """An individual has emigrated: a resumed search does not know it either."""
        super().left(number)
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._pending.pop(number, None)
        if self._known.pop(number, None) is not None:
            self._evidence = None


def improvement(evidence: Evidence, seen: Array, space: SearchSpace) -> Any:
    """The logarithm of the ensemble's expected improvement, as an acquisition function of Optuna.

    Its mean is the weighted one of the models, and its variance that with squared weights (Feurer et al. 2018). Where
    the study has a trial, each model is taken to know its own prediction, so that the same place is not suggested again
    and again: a source's model never learns what the study measured there.

    Args:
        evidence: the models and their weights.
        seen: (n, parameters), the genes of known and running trials.
        space: the search space.
    """
    import torch
    from optuna._gp import acqf
    from optuna._gp.search_space import SearchSpace as Normalized

    from atoll.platform.search.propagators.optuna_sampler import gene_distribution

    conditioned = [_Conditioned(model, seen) for model in evidence.models]

    def ensemble(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.zeros(points.shape[:-1], dtype=torch.float64)
        variance = torch.zeros(points.shape[:-1], dtype=torch.float64)
        for weight, model in zip(evidence.weights.tolist(), conditioned, strict=True):
            of_model, around = model.posterior(points)
            mean, variance = mean + weight * of_model, variance + weight**2 * around
        return mean, variance

    incumbent = None
    if len(seen):
        with torch.no_grad():
            incumbent = float(ensemble(torch.from_numpy(seen))[0].max())

    class Improvement(acqf.BaseAcquisitionFunc):  # type: ignore[misc]
        def eval_acqf(self, x: torch.Tensor) -> torch.Tensor:
            mean, variance = ensemble(x if x.ndim > 1 else x[None])
            value = mean if incumbent is None else acqf.logei(mean=mean, var=variance + 1e-12, f0=incumbent)
            return value if x.ndim > 1 else value.squeeze(0)

    scales = _length_scales(evidence, len(space.parameters))
    return Improvement(scales, Normalized({p.name: gene_distribution(p) for p in space.parameters}))


def _length_scales(evidence: Evidence, dimension: int) -> Array:
    """Those of the model with the largest weight, for the steps of the maximization; 1 where it has none."""
    heaviest = evidence.models[int(evidence.weights.argmax())]
    scales = np.ones(dimension)
    scales[heaviest.columns] = heaviest.process.length_scales
    return scales


class _Conditioned:
    """A model that knows its own prediction at some points, without noise: only its variance changes."""

    def __init__(self, model: Model, seen: Array) -> None:
        import torch

        self._process, self._columns = model.process, torch.from_numpy(model.columns)
        self._seen: torch.Tensor | None = None
        if not len(seen):
            return
        with torch.no_grad():
            self._seen = torch.unique(torch.from_numpy(seen)[:, self._columns], dim=0)
            covariance = self._process.kernel()
            covariance.diagonal().add_(self._process.noise_var)
            self._solved = torch.linalg.solve(covariance, self._process.kernel(self._seen).T)
            _, between = self._process.posterior(self._seen, joint=True)
            between.diagonal().add_(1e-6 * self._process.kernel_scale)
            self._factor = torch.linalg.cholesky(between)

    def posterior(self, points: Any) -> tuple[Any, Any]:
        """The mean and the variance at points (..., parameters of the space)."""
        import torch

        x = points[..., self._columns]
        mean, variance = self._process.posterior(x)
        if self._seen is None:
            return mean, variance
        covariance = self._process.kernel(x, self._seen) - self._process.kernel(x) @ self._solved
        known = torch.linalg.solve_triangular(self._factor, covariance.transpose(-1, -2), upper=False)
        return mean, (variance - (known**2).sum(dim=-2)).clamp_min(0.0)
