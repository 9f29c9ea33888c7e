"""Optuna's CMA-ES sampler, whose optimizer is kept as numbers in its trials' attributes, not as a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import cmaes
import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

Optimizer: TypeAlias = cmaes.CMA | cmaes.SepCMA | cmaes.CMAwM


class NumericCmaEsSampler(CmaEsSampler):  # type: ignore[misc]
    """Proposes what Optuna's sampler would.

    All dimensions must be continuous. The optimizer of the newest generation is in the attribute `PREFIX:state` of the
    trial that began the generation. Where there is none, as in journals of version 0.1.0, the optimizer is rebuilt
    from the trials of its generations.

    Args:
        seed: the seed of this proposal.
        options: further options of CmaEsSampler.
    """

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        self._seed = seed
        self._transform: _SearchSpaceTransform | None = None
        self._optimizer: Optimizer | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As in Optuna: a point of the current generation; nothing if the dimensions have changed."""
        if not search_space:
            return {}
        self._transform = _SearchSpaceTransform(search_space, transform_step=not self._with_margin, transform_0_1=True)
        values: dict[str, Any] = super().sample_relative(study, trial, search_space)
        return values

    def _newest_state(self, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
        states = (trial.system_attrs.get(f"{self._attr_prefix}state") for trial in reversed(trials))
        return next((state for state in states if state is not None), None)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Optimizer | None:
        state = self._newest_state(completed_trials)
        if state is None and not self._get_solution_trials(completed_trials, 1):
            return None
        assert self._transform is not None
        if state is not None and len(state["mean"]) != len(self._transform.bounds):
            return cmaes.CMA(
                np.array(state["mean"], float), 1.0
            )  # of other dimensions, so that Optuna proposes nothing
        optimizer = self._init_optimizer(self._transform, StudyDirection.MINIMIZE)
        self._cma_rng = LazyRandomState(self._seed)  # a restored optimizer must not cost a random number
        if state is not None:
            _put(optimizer, state)
        else:
            self._replay(optimizer, completed_trials)
        return optimizer

    def _replay(self, optimizer: Optimizer, trials: list[FrozenTrial]) -> None:
        """Tell a new optimizer all generations that have a successor."""
        while self._get_solution_trials(trials, optimizer.generation + 1):
            solutions = self._get_solution_trials(trials, optimizer.generation)
            if len(solutions) < optimizer.population_size:
                return
            optimizer.tell([(self._point(t), t.value) for t in solutions[: optimizer.population_size]])
            _put(optimizer, _numbers(optimizer))  # as if restored in between, which makes the covariance symmetric

    def _point(self, trial: FrozenTrial) -> NDArray[np.float64]:
        """A trial's coordinates."""
        assert self._transform is not None
        if self._with_margin:
            return np.array(trial.system_attrs["x_for_tell"])
        return np.asarray(self._transform.transform(trial.params))

    def _get_solution_trials(self, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        found: list[FrozenTrial] = super()._get_solution_trials(trials, generation)
        if not self._with_margin:
            return found
        assert self._transform is not None
        dimensions = len(self._transform.bounds)
        return [trial for trial in found if len(trial.system_attrs.get("x_for_tell", ())) == dimensions]

    def _init_optimizer(self, trans: _SearchSpaceTransform | None, direction: StudyDirection) -> Optimizer:
        self._optimizer = super()._init_optimizer(trans, direction)
        return self._optimizer

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, Any]:
        """The attributes that keep the optimizer: its numbers, in place of the pickle that Optuna passes."""
        assert self._optimizer is not None
        return {f"{self._attr_prefix}state": _numbers(self._optimizer)}


def _core(optimizer: Optimizer) -> cmaes.CMA | cmaes.SepCMA:
    """The optimizer itself; that with margin keeps it in another one, and has nothing of its own without steps."""
    return optimizer._cma if isinstance(optimizer, cmaes.CMAwM) else optimizer


def _numbers(optimizer: Optimizer) -> dict[str, Any]:
    """What `tell` changes, except for the history of values, which only `should_stop` reads."""
    core = _core(optimizer)
    covariance = core._C[np.triu_indices(core.dim)] if core._C.ndim == 2 else core._C
    return {
        "generation": int(core._g),
        "sigma": float(core._sigma),
        "mean": core._mean.tolist(),
        "covariance": covariance.tolist(),
        "path_sigma": core._p_sigma.tolist(),
        "path_c": core._pc.tolist(),
    }


def _put(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Give a new optimizer of the same dimensions the numbers of another one."""
    core = _core(optimizer)
    core._g, core._sigma = state["generation"], state["sigma"]
    core._mean, core._p_sigma, core._pc = (np.array(state[name], float) for name in ("mean", "path_sigma", "path_c"))
    covariance = np.array(state["covariance"], float)
    if core._C.ndim == 1:
        core._C = covariance
        return
    rows, columns = np.triu_indices(core.dim)
    core._C[rows, columns] = core._C[columns, rows] = covariance
