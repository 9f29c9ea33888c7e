"""Gaussian processes that are asked together where the expected improvement is largest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atoll.platform.search import gaussian_process, ranking
from atoll.platform.search.propagators.configurations import named_genes
from atoll.platform.search.propagators.random_search import uniform_genes
from atoll.searchspaces.encoding import identity
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

NUM_DRAWN = 512  # configurations from which one is taken where the best is infeasible, or taken

Array = NDArray[np.float64]


class Process(Protocol):
    """What is used of Optuna's Gaussian process; points and variances are torch tensors."""

    kernel_scale: Any
    noise_var: Any

    @property
    def length_scales(self) -> Array:
        """(d,)."""

    def kernel(self, first: Any = None, second: Any = None) -> Any:
        """(n, m): the covariances of two sets of points; those of the trials by default."""

    def posterior(self, points: Any, joint: bool = False) -> tuple[Any, Any]:
        """The mean and the variance, or the covariances, at points."""


@dataclass(frozen=True)
class Model:
    """A Gaussian process over some of the space's parameters.

    Attributes:
        process: the process of normal scores; higher is better.
        columns: (d,), the places of its parameters in the space.
    """

    process: Process
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
class Ensemble:
    """Models and their weights, whose sum is 1."""

    models: tuple[Model, ...]
    weights: Array


def suggest(
    acquisition: Any, seen: Array, space: SearchSpace, infeasibility: Infeasibility, seed: int
) -> dict[str, Gene] | None:
    """The configuration with the largest value of an acquisition function; None if no feasible one is found.

    Args:
        acquisition: such as `improvement`.
        seen: (n, parameters), the genes of trials, whose configurations are taken.
        space, infeasibility: the search space, and why hyperparameters are infeasible, or None.
        seed: of the search for the maximum.
    """
    from optuna._gp import optim_mixed

    best, _ = optim_mixed.optimize_acqf_mixed(acquisition, rng=np.random.RandomState(seed))
    taken = {identity(space.decode(named_genes(space, point))) for point in seen}

    def allowed(point: Array) -> dict[str, Gene] | None:
        """The genes of a point, with inactive ones as they are by default; None if it is infeasible, or taken."""
        genes = named_genes(space, point)
        active, values = space.draw(lambda parameter: genes[parameter.name])
        if identity(values) in taken or infeasibility(values) is not None:
            return None
        return space.inactive_genes() | active

    if (genes := allowed(best)) is not None:
        return genes
    rng, limits = random.Random(seed), space.limits()
    drawn = np.array([tuple(uniform_genes(limits, rng).values()) for _ in range(NUM_DRAWN)], dtype=float)
    order = np.argsort(-acquisition.eval_acqf_no_grad(drawn), kind="stable")
    return next((genes for place in order if (genes := allowed(drawn[place])) is not None), None)


def improvement(ensemble: Ensemble, seen: Array, space: SearchSpace, best: Array | None = None) -> Any:
    """The logarithm of the ensemble's expected improvement, as an acquisition function of Optuna.

    Its mean is the weighted one of the models, and its variance that with squared weights (Feurer et al. 2018). Where
    the study has a trial, each model is taken to know its own prediction, so that the same place is not suggested again
    and again: a source's model never learns what the study measured there.

    Args:
        ensemble: the models and their weights.
        seen: (n, parameters), the genes of known and running trials.
        space: the search space.
        best: (m, parameters), the genes of those to improve on. Default: of all that are seen.
    """
    import torch
    from optuna._gp import acqf
    from optuna._gp.search_space import SearchSpace as Normalized

    from atoll.platform.search.propagators.optuna_sampler import gene_distribution

    conditioned = [_Conditioned(model, seen) for model in ensemble.models]

    def predicted(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.zeros(points.shape[:-1], dtype=torch.float64)
        variance = torch.zeros(points.shape[:-1], dtype=torch.float64)
        for weight, model in zip(ensemble.weights.tolist(), conditioned, strict=True):
            of_model, around = model.posterior(points)
            mean, variance = mean + weight * of_model, variance + weight**2 * around
        return mean, variance

    incumbent = None
    if len(best := seen if best is None else best):
        with torch.no_grad():
            incumbent = float(predicted(torch.from_numpy(best))[0].max())

    class Improvement(acqf.BaseAcquisitionFunc):  # type: ignore[misc]
        def eval_acqf(self, x: torch.Tensor) -> torch.Tensor:
            mean, variance = predicted(x if x.ndim > 1 else x[None])
            value = mean if incumbent is None else acqf.logei(mean=mean, var=variance + 1e-12, f0=incumbent)
            return value if x.ndim > 1 else value.squeeze(0)

    scales = _length_scales(ensemble, len(space.parameters))
    return Improvement(scales, Normalized({p.name: gene_distribution(p) for p in space.parameters}))


def _length_scales(ensemble: Ensemble, dimension: int) -> Array:
    """Those of the model with the largest weight, for the steps of the maximization; 1 where it has none."""
    heaviest = ensemble.models[int(ensemble.weights.argmax())]
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
