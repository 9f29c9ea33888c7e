"""A study with what its names stand for: workload, method, space and objectives, resolved once and passed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.methods.method import Method
from atoll.platform.study import objectives, registry
from atoll.platform.study.configuration import (
    Configuration,
    complete_hyperparameters,
    split_hyperparameters,
    versions,
)
from atoll.platform.study.fields import Strict, distribution
from atoll.platform.study.objectives import Objective
from atoll.platform.study.study import Study
from atoll.platform.workloads.workload import Workload
from atoll.searchspaces.space import Parameter, SearchSpace


@dataclass(frozen=True)
class Plan:
    """A study, resolved.

    Attributes:
        study: the schema.
        workload: with the study's target.
        method: its class.
        space: what is searched, with the study's changes.
        objectives: with their directions; the first is the one that is compared if there is one only.
    """

    study: Study
    workload: Workload
    method: type[Method[Any]]
    space: SearchSpace
    objectives: tuple[Objective, ...]

    @classmethod
    def of(cls, study: Study) -> Plan:
        """Resolve a study.

        Raises:
            ValueError: for a name that stands for nothing, a range that cannot be, or objectives that no trial reports.
        """
        workload = workload_of(study)
        return cls(
            study=study,
            workload=workload,
            method=registry.method(study.method),
            space=search_space(study),
            objectives=objectives.resolve(study.objectives, workload),
        )

    @property
    def aim(self) -> tuple[str, str]:
        """The first objective's name and direction."""
        first = self.objectives[0]
        return first.name, str(first.direction)

    @property
    def data(self) -> Path | None:
        """The folder of the data files, if the study names one."""
        return Path(self.study.data) if self.study.data else None

    def infeasibility(self, hyperparameters: dict[str, Any]) -> str | None:
        """Why hyperparameters of the space must not be trained; None if they may."""
        if (violated := self.space.violated(hyperparameters)) is not None:
            return f"it violates {violated}"
        study = self.study
        try:
            split_hyperparameters(study.method, study.workload, hyperparameters, study.topology.ranks)
        except ValueError as error:
            return str(error)
        return None

    def configuration(self, hyperparameters: dict[str, Any], number: int, threads: int, device: str) -> Configuration:
        """The configuration of trial `number`; the hyperparameters must be feasible."""
        study = self.study
        return Configuration.model_construct(
            workload=study.workload,
            method=study.method,
            hyperparameters=complete_hyperparameters(study.method, study.workload, hyperparameters),
            epochs=study.epochs or self.workload.epochs,
            # Configurations that are confirmed have the same seeds.
            seed=study.seed + (number if study.confirm is None else number // len(study.confirm.configurations)),
            ranks=study.topology.ranks,
            ranks_per_node=study.topology.ranks_per_node,
            threads=threads,
            device="cuda" if device.startswith("cuda") else "cpu",
            data=study.data,
            observe=study.observe,
            versions=versions(),
        )

    def pruning_rule(self) -> tuple[str, bool]:
        """The pruning rule, and whether trials may be ended while their loss falls. Default: the method's own."""
        assert self.study.pruning is not None
        defaults: dict[str, Any] = {"rule": "asha", "while_falling": True} | dict(self.method.pruning)
        given = {"rule": self.study.pruning.rule, "while_falling": self.study.pruning.while_falling}
        both = defaults | {name: value for name, value in given.items() if value is not None}
        return both["rule"], both["while_falling"]


def workload_of(study: Study) -> Workload:
    """The workload, with the study's target."""
    workload = registry.workload(study.workload)
    workload.target = workload.target if study.target is None else study.target
    return workload


def search_space(study: Study) -> SearchSpace:
    """The method's space and the shared optimizer space, with the study's changes.

    The study may fix or search any other hyperparameter of the method or of the optimizer, too.

    Raises:
        ValueError: for a name that neither method nor optimizer has, or a range that cannot be.
    """
    space = registry.whole_space(study.method, study.workload).unfix(study.space)
    known = set(space.names())
    extra = {name: value for name, value in study.space.items() if name not in known}
    changes = {name: distribution(value) for name, value in study.space.items() if name in known}
    fixed = tuple((name, value) for name, value in extra.items() if not isinstance(value, Strict))
    defaults = complete_hyperparameters(study.method, study.workload, {})
    searched = tuple(
        Parameter.of_study(name, distribution(value), defaults.get(name))
        for name, value in extra.items()
        if isinstance(value, Strict)
    )
    space = space.override(changes) + SearchSpace(searched, fixed)
    space = space.constrained(study.constraints)
    if study.default_first and study.confirm is None and (violated := space.violated(space.default())) is not None:
        raise ValueError(
            f"the default configuration violates the constraint {violated!r}: {space.default()}; change the space, "
            "or set default_first to false"
        )
    for hyperparameters in space.extremes():
        if space.violated(hyperparameters) is None:
            split_hyperparameters(study.method, study.workload, hyperparameters, study.topology.ranks)
    if not space.parameters and study.confirm is None:
        raise ValueError("space fixes every hyperparameter: there is nothing to search; use `atoll train`")
    return space
