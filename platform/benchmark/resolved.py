"""What a benchmark trains: each method on each workload, with all settings as its study resolves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from atoll.methods.common.effects import TrainingShape
from atoll.platform.benchmark.benchmark_file import Benchmark, Part
from atoll.platform.study import registry
from atoll.platform.study.configuration import split_hyperparameters
from atoll.platform.study.plan import length, search_space, workload_of
from atoll.platform.study.study import Study
from atoll.searchspaces.optimizer import acts_with_any
from atoll.searchspaces.space import SearchSpace

# Their effect is in the batch per rank and in the rate.
_APPLIED = ("global_batch_size", "scale_rate")


@dataclass(frozen=True)
class Range:
    """A searched hyperparameter: its range in words, and its value in the default configuration, None if inactive."""

    name: str
    domain: str
    default: Any


@dataclass(frozen=True)
class Entry:
    """A method on a workload.

    Attributes:
        workload, method: labels.
        trains: the names of the workload and the method behind the labels.
        metric, direction, target: of the value by which methods are compared; None for no target.
        ranks, ranks_per_node: None for as many per node as there are.
        unit, length: the length of each training.
        patience: evaluations without a better metric that end a training; None for no early stopping.
        batch, batch_per_rank: samples per step of all ranks, and of each: equal if ranks hold parts of a network;
            None if they are searched.
        trials, busy_seconds: the budget of each tuning; an untuned entry trains its default configuration once.
        num_configurations: the size of the space, before constraints; None if it has a range of real numbers.
        settings: of method, optimizer and workload, in the default configuration, for its number of ranks.
        without_effect: those of these settings that have none in the default configuration.
        searched: the ranges; none if untuned.
        constraints: between hyperparameters.
    """

    workload: str
    method: str
    trains: tuple[str, str]
    metric: str
    direction: str
    target: float | None
    ranks: int
    ranks_per_node: int | None
    unit: str
    length: int
    patience: int | None
    batch: int | None
    batch_per_rank: int | None
    trials: int | None
    busy_seconds: float | None
    is_tuned: bool
    num_configurations: int | None
    settings: dict[str, dict[str, Any]]
    without_effect: list[str]
    searched: list[Range]
    constraints: list[str]


def resolve(benchmark: Benchmark) -> list[Entry]:
    """The entries in the order in which they are tuned. Nothing is started or written.

    Raises:
        ValueError: if a study of the benchmark is invalid; the message starts with the part's name.
    """
    first = [part for part in benchmark.parts() if part.stage == "tune" and part.repeat == 0]
    return [_entry(benchmark, part) for part in first]


def _entry(benchmark: Benchmark, part: Part) -> Entry:
    study = benchmark.study(part, Path())
    try:
        space = search_space(study)
        return _of_study(study, part, space)
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}") from None


def _of_study(study: Study, part: Part, space: SearchSpace) -> Entry:
    workload, ranks, is_tuned = workload_of(study), study.topology.ranks, not part.method.untuned
    default = space.default()
    names = ("method", "optimizer", "workload")
    split = split_hyperparameters(study.method, study.workload, default, ranks)
    settings = {owner: asdict(values) for owner, values in zip(names, split, strict=True)}
    searched = [Range(p.name, p.domain(), default.get(p.name)) for p in space.parameters if is_tuned]
    is_batch_searched = {"batch_size", "global_batch_size"} & {one.name for one in searched}
    unit, number = length(study.epochs, study.steps, workload)
    of_study = registry.method(study.method)
    num_training = ranks - of_study.num_servers(split[0])
    batch = None if is_batch_searched else settings["optimizer"]["batch_size"] * num_training
    shares = 1 if of_study.layer_parallel else num_training
    return Entry(
        workload=part.workload.name,
        method=part.method.name,
        trains=(study.workload, study.method),
        metric=part.workload.other_value or workload.metric,
        direction=workload.direction if part.workload.other_value is None else "minimize",
        target=workload.target if part.workload.other_value is None else part.workload.target,
        ranks=ranks,
        ranks_per_node=study.topology.ranks_per_node,
        unit=unit,
        length=number,
        patience=study.patience,
        batch=batch,
        batch_per_rank=None if batch is None else batch // shares,
        trials=study.trials,
        busy_seconds=study.busy_seconds,
        is_tuned=is_tuned,
        num_configurations=space.size_bound() if is_tuned else 1,
        settings=settings,
        without_effect=_without_effect(
            study, split[0], settings["optimizer"], (unit, number), _choices(space, is_tuned)
        ),
        searched=searched,
        constraints=list(space.constraints) if is_tuned else [],
    )


def _choices(space: SearchSpace, is_tuned: bool) -> dict[str, tuple[Any, ...]]:
    """The searched parameters, each with its choices; none for a range of numbers."""
    return {
        p.name: p.distribution.choices if isinstance(p.distribution, CategoricalDistribution) else ()
        for p in space.parameters
        if is_tuned
    }


def _without_effect(
    study: Study, own: Any, optimizer: Mapping[str, Any], size: tuple[str, int], searched: Mapping[str, tuple[Any, ...]]
) -> list[str]:
    """The settings that have no effect with any of the optimizers and schedules, or on these ranks."""
    ranks, per_node = study.topology.ranks, study.topology.ranks_per_node
    shape = TrainingShape(
        num_ranks=ranks,
        num_nodes=None if per_node is None else ranks // per_node,
        num_epochs=size[1] if size[0] == "epochs" else None,
    )
    idle = {*registry.method(study.method).without_effect(own, shape), *_APPLIED}
    chosen = {name: searched.get(name) or (optimizer[name],) for name in ("optimizer", "schedule")}
    idle |= {name for name in optimizer if not acts_with_any(name, chosen)}
    if optimizer["lr_warmup"] == 0 and "lr_warmup" not in searched:
        idle.add("warmup_lr")
    return sorted(idle - searched.keys())
