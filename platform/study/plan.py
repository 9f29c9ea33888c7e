"""A study with its names resolved, once: workload and method, or a function; space and objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from atoll.analysis.scaling import batch_size
from atoll.platform.study import objectives, predicted, registry
from atoll.platform.study.configuration import (
    Configuration,
    complete_hyperparameters,
    split_hyperparameters,
    versions,
)
from atoll.platform.study.fields import KnownRange, Searched, distribution
from atoll.platform.study.interval import Every
from atoll.platform.study.judged import Judged
from atoll.platform.study.objectives import Objective, Subject
from atoll.platform.study.study import Study
from atoll.searchspaces import encoding
from atoll.searchspaces.optimizer import EFFECTS, conditioned
from atoll.searchspaces.prior import Prior
from atoll.searchspaces.space import Parameter, SearchSpace

if TYPE_CHECKING:  # both import torch, which browsing results must not need
    from atoll.methods.method import Method
    from atoll.platform.workloads.workload import Workload


Length = tuple[str, int]  # the unit, epochs or steps, and their number


@dataclass(frozen=True)
class Training:
    """What the trials of a study train, and how."""

    workload: Workload
    method: type[Method[Any]]


@dataclass(frozen=True)
class Plan:
    """A study, resolved.

    Attributes:
        study: the validated study file.
        subject: what its trials measure: the workload, with the study's target, or the value of a function.
        training: what they train; None if they call a function.
        space: the search space, with the study's changes.
        objectives: the objectives with their directions.
    """

    study: Study
    subject: Subject
    training: Training | None
    space: SearchSpace
    objectives: tuple[Objective, ...]

    @classmethod
    def of(cls, study: Study) -> Plan:
        """Resolve a study.

        Raises:
            ValueError: for an unknown name, an invalid range, or an objective that no trial reports.
        """
        if study.calls_function:
            registry.function(study.workload)
            resolved, returned = objectives.of_function(study.objectives or (), study.target)
            return cls(study=study, subject=returned, training=None, space=_space_of_study(study), objectives=resolved)
        workload, method = workload_of(study), registry.method(study.method)
        plan = cls(
            study=study,
            subject=workload,
            training=Training(workload, method),
            space=search_space(study),
            objectives=objectives.resolve(
                study.objectives,
                workload,
                method,
                _reporting(study),
                study.topology.ranks,
                study.topology.ranks_per_node,
            ),
        )
        if study.pruning is not None and study.pruning.promotion and (rule := plan.pruning_rule()[0]) != "asha":
            raise ValueError(f"promotion needs the rule asha; got {rule}, the default of {study.method}: name the rule")
        if study.population_based is not None:
            plan._check_population_based()
        return plan

    def _check_population_based(self) -> None:
        """Raise ValueError if members could not change, or would be compared by another value than the metric."""
        if not self.mutable:
            searched = ", ".join(parameter.name for parameter in self.space.parameters)
            raise ValueError(
                f"pbt changes hyperparameters in mid-training, and none that is searched may change; searched are "
                f"{searched}: search one such as learning_rate, or use another sampler"
            )
        self._check_pbt_interval()
        name, _ = self.aim
        if name not in (self.subject.metric, "validation_error"):
            raise ValueError(f"pbt compares members by {self.subject.metric}, so the objective must be it; got {name}")

    @property
    def aim(self) -> tuple[str, str]:
        """The first objective's name and direction."""
        first = self.objectives[0]
        return first.name, str(first.direction)

    @cached_property
    def judged(self) -> Judged:
        """The value of reports by which trials are judged in mid-training."""
        return Judged.of(*self.aim, self.subject.metric, self.subject.direction)

    @cached_property
    def mutable(self) -> list[str]:
        """The searched hyperparameters that may change in mid-training."""
        from atoll.methods.common import optimizers

        if self.training is None:
            return []
        searched = (p.distribution for p in self.space.parameters if p.name == "optimizer")
        known = [choice for d in searched if isinstance(d, CategoricalDistribution) for choice in d.choices]
        known += [value for name, value in self.space.fixed if name == "optimizer"]
        of_optimizer = set.intersection(*(set(optimizers.mutable(str(name))) for name in known or ["sgd"]))
        names = {*self.training.method.mutable, *of_optimizer}
        return [parameter.name for parameter in self.space.parameters if parameter.name in names]

    @cached_property
    def pbt_interval(self) -> Every:
        """The interval at which members of a population are compared. Default: a tenth of a training."""
        settings, length = self.study.population_based, self.length
        assert settings is not None
        assert length is not None
        unit, number = length
        return settings.every or Every(max(1, round(number / 10)), "steps" if unit == "steps" else "epochs")

    def _check_pbt_interval(self) -> None:
        """Raise ValueError if members would not pause as often as asked for."""
        assert self.length is not None
        every, (unit, number) = self.pbt_interval, self.length
        if every.unit == unit and every.number >= number:
            raise ValueError(f"pbt compares members within trainings, which have {number} {unit}; got every {every}")
        reports = self.study.evaluate_every or self.study.report_every or Every(1, "epochs")
        if reports.unit != every.unit or reports.number > every.number:
            raise ValueError(
                f"pbt compares members every {every}, when they are evaluated, which is every {reports}: set "
                f"report_every to at most {every}"
            )

    @property
    def data(self) -> Path | None:
        """The folder of the data files, if the study names one."""
        return Path(self.study.data) if self.study.data else None

    def infeasibility(self, hyperparameters: dict[str, Any]) -> str | None:
        """The reason why hyperparameters of the space are infeasible; None if they are feasible."""
        if (violated := self.space.violated(hyperparameters)) is not None:
            return f"it violates {violated}"
        study = self.study
        if self.training is None:
            return None
        try:
            of_method, *_ = split_hyperparameters(study.method, study.workload, hyperparameters, study.topology.ranks)
        except ValueError as error:
            return str(error)
        return self._why_not_projected(hyperparameters, of_method)

    def _why_not_projected(self, hyperparameters: dict[str, Any], of_method: Any) -> str | None:
        """The reason why the times of a configuration cannot be predicted."""
        if self.training is None or not self.predicts:
            return None
        method = self.training.method
        ranks = self.study.topology.ranks
        whole = complete_hyperparameters(self.study.method, self.study.workload, hyperparameters)
        samples = batch_size(whole, ranks - method.num_servers(of_method))
        return next(
            (
                reason
                for objective in self.objectives
                if objective.projection is not None
                and (reason := predicted.infeasibility(objective.projection, method, of_method, ranks, samples))
            ),
            None,
        )

    def notes(self) -> list[str]:
        """What the user should know of the objectives: which are predictions, and which one pruning compares."""
        ranks, name = self.study.topology.ranks, self.judged.name
        told = [predicted.note(o.name, o.projection, ranks) for o in self.objectives if o.projection is not None]
        if self.study.pruning is not None and name is not None:
            told.append(f"pruning compares {name}, the objective, not {self.subject.metric}")
        return told

    @property
    def predicts(self) -> bool:
        """Whether an objective is a prediction."""
        return any(objective.projection is not None for objective in self.objectives)

    @property
    def length(self) -> Length | None:
        """The length of each training; None if trials call a function."""
        return None if self.training is None else length(self.study.epochs, self.study.steps, self.training.workload)

    def configuration(self, hyperparameters: dict[str, Any], number: int, threads: int, device: str) -> Configuration:
        """The configuration of trial `number`; the hyperparameters must be feasible."""
        study, (unit, number_of) = self.study, self.length or (None, 0)
        return Configuration.model_construct(
            workload=study.workload,
            method=study.method,
            hyperparameters=complete_hyperparameters(study.method, study.workload, hyperparameters),
            schedule=None,
            epochs=number_of if unit == "epochs" else None,
            steps=number_of if unit == "steps" else None,
            report_every=study.report_every,
            evaluate_every=study.evaluate_every,
            objective_from=study.objective_from,
            patience=study.patience,
            checkpoint=study.checkpoint,
            loader=study.loader,
            # All confirmed configurations share the same seeds.
            seed=study.seed + (number if study.confirm is None else number // len(study.confirm.configurations)),
            ranks=study.topology.ranks,
            ranks_per_node=study.topology.ranks_per_node,
            threads=threads,
            device="cuda" if device.startswith("cuda") else "cpu",
            data=study.data,
            observe=study.observe,
            evaluate_train=study.evaluate_train,
            versions=versions(),
            origin={},  # written out, as pydantic takes longer to find a default than for all else
        )

    def pruning_rule(self) -> tuple[str, bool]:
        """The pruning rule, and whether trials may be stopped while their loss decreases. Default: the method's."""
        assert self.study.pruning is not None
        of_method = {} if self.training is None else dict(self.training.method.pruning)
        defaults: dict[str, Any] = {"rule": "asha", "while_falling": True} | of_method
        settings = {"rule": self.study.pruning.rule, "while_falling": self.study.pruning.while_falling}
        both = defaults | {name: value for name, value in settings.items() if value is not None}
        return both["rule"], both["while_falling"]


def _reporting(study: Study) -> list[str]:
    """The settings of the study on account of which its trials report more."""
    settings = {
        "checkpoint": study.writes_checkpoints,
        "observe": study.observe is not None,
        "evaluate_train": study.evaluate_train is not None,
    }
    return [name for name, is_set in settings.items() if is_set]


def length(epochs: int | None, steps: int | None, workload: Workload) -> Length:
    """A training's length: the given one, else the workload's."""
    steps = steps or (None if epochs else workload.steps)
    return ("steps", steps) if steps else ("epochs", epochs or workload.epochs)


def workload_of(study: Study) -> Workload:
    """The workload, with the study's target."""
    workload = registry.workload(study.workload)
    workload.target = workload.target if study.target is None else study.target
    return workload


def search_space(study: Study) -> SearchSpace:
    """The method's space and the shared optimizer space, with the study's changes.

    The study may also fix or search any other hyperparameter of the method or of the optimizer.

    Raises:
        ValueError: for a name that neither the method nor the optimizer has, or an invalid range.
    """
    named = study.space.get("optimizer")
    optimizers = [str(named)] if isinstance(named, str) else [str(value) for value in getattr(named, "choices", ())]
    space = registry.whole_space(study.method, study.workload, optimizers).unfix(study.space)
    if "global_batch_size" in study.space and "batch_size" not in study.space:
        space = replace(space, parameters=tuple(p for p in space.parameters if p.name != "batch_size"))
    known = set(space.names())
    extra = {name: value for name, value in study.space.items() if name not in known}
    _check_ranges(extra)
    changes = {
        name: distribution(value)
        for name, value in study.space.items()
        if name in known and not isinstance(value, KnownRange)
    }
    fixed = tuple((name, value) for name, value in extra.items() if not isinstance(value, Searched))
    defaults = complete_hyperparameters(study.method, study.workload, {})
    searched = tuple(
        Parameter.of_study(name, distribution(value), defaults.get(name))
        for name, value in extra.items()
        if isinstance(value, Searched)
    )
    space = _as_studied(_extended(space.override(changes), searched, fixed), study)
    for hyperparameters in space.extremes():
        if space.violated(hyperparameters) is None:
            split_hyperparameters(study.method, study.workload, hyperparameters, study.topology.ranks)
    return space


def _space_of_study(study: Study) -> SearchSpace:
    """The space of a function: all that the study names."""
    _check_ranges(study.space)
    given = {name: distribution(value) for name, value in study.space.items()}
    searched = {name for name, value in study.space.items() if isinstance(value, Searched)}
    space = SearchSpace(
        tuple(Parameter.of_function(name, given[name]) for name in given if name in searched),
        fixed=tuple((name, value) for name, value in given.items() if name not in searched),
    )
    return _as_studied(space, study)


def _as_studied(space: SearchSpace, study: Study) -> SearchSpace:
    """The space with the study's conditions, constraints and priors.

    Raises:
        ValueError: for a prior outside of its range; if the default configuration violates a constraint, or nothing is
            searched.
    """
    conditions = {name: value.condition for name, value in study.space.items() if isinstance(value, Searched)}
    space = space.conditional({name: condition for name, condition in conditions.items() if condition is not None})
    space = space.constrained(study.constraints)
    space = replace(space, parameters=tuple(_with_prior(p, study.space.get(p.name)) for p in space.parameters))
    if study.default_first and study.confirm is None and (violated := space.violated(space.default())) is not None:
        raise ValueError(
            f"the default configuration must satisfy the constraint {violated!r}; got {space.default()}: change the "
            "space, or set default_first: false"
        )
    is_one_default = study.trials == 1 and study.default_first  # as of a benchmark's untuned entry
    if not space.parameters and study.confirm is None and not is_one_default:
        raise ValueError("space must leave a hyperparameter to search; all are fixed: use `atoll train`")
    return space


def _check_ranges(entries: Mapping[str, Any]) -> None:
    """What nobody else has a range for needs one in the study."""
    for name, value in entries.items():
        if isinstance(value, KnownRange):
            raise ValueError(f"space.{name} must have low and high, or choices, as nothing else has a range for it")


def _with_prior(parameter: Parameter, entry: object) -> Parameter:
    """The parameter with the prior of the study, if there is one."""
    setting = entry.prior if isinstance(entry, Searched) else None
    if setting is None:
        return parameter
    mode = encoding.nearest(parameter.distribution, parameter.default) if setting.mode is None else setting.mode
    if not parameter.contains(mode):
        raise ValueError(f"the prior's mode of {parameter.name} must be {parameter.domain()}; got {mode!r}")
    return replace(parameter, prior=Prior(mode, setting.sigma))


def _extended(space: SearchSpace, searched: Iterable[Parameter], fixed: Iterable[tuple[str, Any]]) -> SearchSpace:
    """The space with what only the study names; settings that act on some optimizers only are searched for these."""
    values: dict[str, Sequence[Any]] = {}
    for name, value in (*space.fixed, *fixed):
        values[name] = [value]
    for parameter in space.parameters:
        if isinstance(parameter.distribution, CategoricalDistribution):
            values[parameter.name] = parameter.distribution.choices
    known: dict[str, Sequence[Any]] = {n: values[n] for n in ("optimizer", "schedule") if n in values}
    searched = list(searched)
    active = conditioned(searched, known)
    if idle := sorted({p.name for p in searched} - {p.name for p in active}):
        name, where = EFFECTS[idle[0]]
        raise ValueError(
            f"{', '.join(idle)} would be searched without effect: {idle[0]} acts if {name} is "
            f"{' or '.join(map(str, where))}; got {' or '.join(map(str, known[name]))}"
        )
    return replace(space, parameters=(*space.parameters, *active), fixed=(*space.fixed, *fixed))
