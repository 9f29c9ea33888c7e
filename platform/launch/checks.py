"""Checks of a study before anything expensive starts."""

from __future__ import annotations

from typing import Any

import torch

from atoll.analysis.failures import user_frame
from atoll.analysis.formatting import counted
from atoll.methods.common.memory import can_reset_peak_memory
from atoll.platform.launch import exhaustion, extras
from atoll.platform.search import gaussian_process, regret
from atoll.platform.search.own_code import OwnCode
from atoll.platform.search.propagators import own
from atoll.platform.search.propagators.grid import points
from atoll.platform.search.proposals import draw
from atoll.platform.study import learning
from atoll.platform.study.own_pruning import PruningRule
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import FidelityGp, Genetic, Grid, OwnSampler, members
from atoll.platform.study.study import Study
from atoll.platform.trial.failure import reason_of, traceback_of
from atoll.platform.trial.fork_server import check_system
from atoll.searchspaces.encoding import identity
from atoll.storage.folder import StudyFolder


def check(study: Study, *, in_process: bool = False, changed: StudyFolder | None = None) -> Plan:
    """Resolve a study, and check that its names, space, samplers, objectives and data are valid and consistent.

    The plan's study may have fewer trials than the given one, if its space has no more configurations.

    Args:
        study: the study.
        in_process: whether its ranks are to be threads of this process.
        changed: the study's files, if it has changed since it was started.

    Raises:
        ValueError, DataMissing: the message has the rule, the value and the valid choices.
    """
    _check_isolation(study, in_process=in_process)
    plan = _resolved(study)
    _check_memory(plan, in_process=in_process)
    _check_predictions(plan)
    if study.confirm is not None:
        _check_confirmed(plan, study.confirm.configurations)
    else:
        draw(plan.space, plan.infeasibility, study.seed)  # raises if almost everything is infeasible
        _check_packages(study)
        _check_grids(plan)
        _check_own_code(plan)
        learning.check(plan)
        if study.stop is not None and study.stop.regret is not None:
            regret.check()
    if plan.training is not None:
        plan.training.workload.check_data(plan.data)
    return exhaustion.limited(plan, changed)


def _resolved(study: Study) -> Plan:
    """The resolved study; an error of the user's code, such as of its hyperparameters, becomes a line."""
    try:
        return Plan.of(study)
    except (ValueError, OSError, ModuleNotFoundError):
        raise
    except Exception as error:
        frame = user_frame(traceback_of(error), or_any=False)
        if not frame:
            raise
        raise ValueError(f"the study cannot be resolved: {reason_of(error)}; at {frame}") from error


def _check_isolation(study: Study, *, in_process: bool) -> None:
    """Trials in processes of their own need ranks that are processes, Linux, and ranks that train on CPUs."""
    if study.isolate != "process":
        return
    if in_process:
        raise ValueError(
            "isolate: process needs ranks that are processes, and --in-process makes them threads: omit --in-process, "
            "or use isolate: restore"
        )
    check_system()
    if study.topology.device == "auto" and torch.cuda.device_count():
        raise ValueError(
            "isolate: process trains without GPUs, and this host has some: set topology.device to cpu to train on "
            "CPUs, or use isolate: restore"
        )


def _check_memory(plan: Plan, *, in_process: bool) -> None:
    """A trial's peak memory is its own only if its ranks are processes whose peak can be reset."""
    if plan.training is None or all(objective.name != "peak_memory" for objective in plan.objectives):
        return
    if in_process:
        raise ValueError(
            "the objective peak_memory needs ranks that are processes, and --in-process makes them threads of one: "
            "omit --in-process"
        )
    if not can_reset_peak_memory():
        raise ValueError(
            "the objective peak_memory needs a system that can reset a process's peak, as Linux can; here a trial "
            "would have that of all trials before it"
        )


def _check_predictions(plan: Plan) -> None:
    """Predictions need recorded steps, which trials that communicate through NCCL do not have."""
    topology = plan.study.topology
    if not plan.predicts or topology.device == "cpu":
        return
    if topology.shape().world_size <= (gpus := torch.cuda.device_count()):  # each rank has one to itself
        raise ValueError(
            "predicted objectives need the recorded steps of each trial, and ranks with a GPU each communicate through "
            f"NCCL, which does not record them: set topology.device to cpu; this host has {counted(gpus, 'GPU')}"
        )


def _check_confirmed(plan: Plan, configurations: list[dict[str, Any]]) -> None:
    """The configurations to confirm must be in the space and feasible."""
    for place, hyperparameters in enumerate(configurations, 1):
        try:
            plan.space.encode(hyperparameters)
        except (KeyError, ValueError) as error:
            raise ValueError(f"configuration {place} of confirm must be in the study's space: {error}") from None
        if (reason := plan.infeasibility(hyperparameters)) is not None:
            raise ValueError(f"configuration {place} of confirm is infeasible: {reason}")


def _check_grids(plan: Plan) -> None:
    """A grid must have a point for each trial."""
    study = plan.study
    for sampler in study.samplers():
        if isinstance(sampler, Grid):
            if with_priors := [parameter.name for parameter in plan.space.parameters if parameter.prior is not None]:
                raise ValueError(
                    f"a grid evaluates its points, so no parameter may have a prior; {', '.join(with_priors)} has one: "
                    "omit it, or use another sampler"
                )
            distinct = set(points(sampler, plan.space, plan.infeasibility))
            if not distinct:
                raise ValueError(
                    "the grid must have a feasible point, and has none; change sampler.points, or remove constraints"
                )
            if study.default_first:  # which may be a point of the grid
                distinct.add(identity(plan.space.default()))
            if study.trials is not None and study.trials > (size := len(distinct)):
                raise ValueError(
                    f"trials must be at most {size}, the number of distinct configurations of the grid and the "
                    f"default; got {study.trials}"
                )


def _check_packages(study: Study) -> None:
    """Samplers need the packages that they use, in versions that have what is used."""
    used = {type(member) for sampler in study.samplers() for member in members(sampler)}
    if FidelityGp in used:
        gaussian_process.check("sampler fidelity-gp", "use optuna-gp")
    # Newer versions of Python and numpy rule it out.
    if Genetic in used and not extras.is_installed("propulate"):
        raise ValueError(
            "sampler propulate needs the package propulate 1.2.2, which is not installed and needs Python below 3.13 "
            "and numpy below 2; use evolution, atoll's own"
        )


def _check_own_code(plan: Plan) -> None:
    """Samplers and pruning rules of the user's own must be made with their options, and samplers must propose."""
    study = plan.study
    checked: list[OwnSampler] = []
    for settings in (member for sampler in study.samplers() for member in members(sampler)):
        if isinstance(settings, OwnSampler) and settings not in checked:
            own.check(settings, plan.space, len(plan.objectives), study.seed)
            checked.append(settings)
    if study.pruning is not None and study.pruning.is_own:
        OwnCode("pruning_rule", str(study.pruning.rule)).make(PruningRule, study.pruning.options)
