"""The study file: one validated model of everything a search can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atoll.platform.study import registry
from atoll.platform.study.configuration import (
    MAX_SEED,
    Configuration,
    complete_hyperparameters,
    split_hyperparameters,
    versions,
)
from atoll.platform.study.fields import Space, Strict, distribution
from atoll.platform.study.migration import Migration
from atoll.platform.study.objectives import Objective, resolve
from atoll.platform.study.pruning import Pruning
from atoll.platform.study.samplers import (
    SEVERAL_OBJECTIVES,
    Genetic,
    Sampler,
    default_sampler,
    members,
    takes_one_objective,
    with_name,
)
from atoll.platform.study.topology import Shape, TopologyError, share_out

if TYPE_CHECKING:
    from atoll.platform.workloads.workload import Workload
    from atoll.searchspaces.space import Infeasibility, SearchSpace

BUDGETS = ("trials", "seconds", "busy_seconds")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Topology(Strict):
    """Islands of workers of ranks; the world has islands x workers x ranks ranks."""

    islands: int = Field(default=1, ge=1, description="islands")
    workers: int | list[int] | None = Field(
        default=None, description="workers per island, one number or one for each island; 1 unless given"
    )
    ranks: int = Field(default=1, ge=1, description="ranks per worker; a trial trains on one worker")
    world: int | None = Field(
        default=None, ge=1, description="ranks in all, in place of `workers`: shared out over the islands evenly"
    )
    ranks_per_node: int | None = Field(
        default=None, ge=1, description="ranks of a worker that count as one node; by host unless given"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where ranks train")
    threads: int | None = Field(default=None, ge=1, description="torch threads per rank; cores / ranks unless given")

    @field_validator("workers")
    @classmethod
    def _at_least_one(cls, workers: int | list[int] | None) -> int | list[int] | None:
        sizes = [1 if workers is None else workers] if not isinstance(workers, list) else workers
        if not sizes or min(sizes) < 1:
            raise ValueError(f"every island needs at least 1 worker; got {workers}")
        return workers

    @model_validator(mode="after")
    def _possible(self) -> Topology:
        if isinstance(self.workers, list) and len(self.workers) != self.islands:
            raise ValueError(f"workers names {len(self.workers)} islands; islands is {self.islands}")
        if self.world is not None and self.workers is not None:
            raise ValueError("give either world or workers, not both")
        if self.ranks_per_node and self.ranks % self.ranks_per_node:
            raise ValueError(f"ranks ({self.ranks}) must be divisible by ranks_per_node; got {self.ranks_per_node}")
        self.shape()
        return self

    def shape(self) -> Shape:
        """Workers per island and ranks per worker."""
        if self.world is not None:
            return share_out(self.world, self.islands, self.ranks)
        sizes = self.workers if isinstance(self.workers, list) else [self.workers or 1] * self.islands
        return Shape(tuple(sizes), self.ranks)


class WarmStart(Strict):
    """Configurations that are evaluated first."""

    studies: list[str] = Field(default_factory=list, description="names of earlier studies in the store")
    best: int = Field(default=1, ge=1, description="how many of the best of each study, and of the file")
    file: str | None = Field(default=None, description="configurations, as `atoll export` writes them")


class Confirmation(Strict):
    """Configurations that are trained in place of a search, and measured on the test data after every epoch."""

    configurations: list[dict[str, JsonValue]] = Field(min_length=1, description="their searched hyperparameters")
    seeds: int = Field(default=5, ge=1, description="how often each is trained; the seeds are seed, seed + 1, ...")

    def trials(self) -> list[dict[str, JsonValue]]:
        """What is trained, in the order of the trials' numbers: all configurations in turns."""
        return [configuration for _ in range(self.seeds) for configuration in self.configurations]


class Study(Strict):
    """One search: a workload, a method, a space, a sampler, a budget and a topology."""

    name: str = Field(description="the study's name in the store, and its folder's")
    workload: str = Field(description="a registered name, an entry point, or file.py:Class")
    method: str = Field(description="a registered name, an entry point, or file.py:Class")
    trials: int | None = Field(
        default=None, ge=1, description="budget: trials to evaluate; 40 unless a budget is given"
    )
    seconds: float | None = Field(
        default=None, gt=0, description="budget: seconds of searching; then no new trial starts"
    )
    busy_seconds: float | None = Field(
        default=None,
        gt=0,
        description="budget: seconds inside trials, summed over workers; then no new trial starts",
    )
    grace: float | None = Field(
        default=None,
        ge=0,
        description="seconds that trials in flight get once `seconds` are over; no limit unless given",
    )
    trial_timeout: float | None = Field(
        default=None, gt=0, description="seconds after which a trial is stopped and counts as failed"
    )
    stop_grace: float = Field(
        default=30.0, gt=0, description="seconds from a request to stop until the ranks are ended"
    )
    heartbeat_timeout: float = Field(
        default=600.0, gt=0, description="seconds without progress after which a rank counts as dead"
    )
    max_restarts: int = Field(default=10, ge=0, description="how often the launcher starts ranks that died again")
    epochs: int | None = Field(
        default=None, ge=1, description="passes over the data per trial; the workload's own unless given"
    )
    target: float | None = Field(
        default=None, description="the metric that counts as reached; the workload's own unless given"
    )
    seed: int = Field(
        default=0, ge=0, le=MAX_SEED, description="trial n trains with seed + n; islands breed with this seed"
    )
    topology: Topology = Field(default_factory=Topology)
    objectives: list[Objective] | None = Field(
        default=None, min_length=1, description="names, or {name, direction}; the workload's metric unless given"
    )
    # After the objectives, as its default looks at them.
    sampler: Annotated[
        Annotated[Sampler, Tag("one")] | Annotated[list[Sampler], Tag("each")],
        Discriminator(lambda sampler: "each" if isinstance(sampler, list) else "one"),
    ] = Field(
        default_factory=lambda data: default_sampler(len(data.get("objectives") or [])),
        description="one for all islands, or a list with one for each; mixed, for several objectives propulate, unless "
        "given",
    )
    migration: Migration = Field(default_factory=Migration, description="how islands exchange individuals")
    pruning: Pruning | None = Field(default=None, description="when trials are ended early; never unless given")
    space: Space = Field(
        default_factory=dict,
        description="per hyperparameter: a fixed value, or {low, high, log, step} or {choices}, with a type if unclear",
    )
    constraints: list[str] = Field(
        default_factory=list, description="what must hold between hyperparameters, such as S <= B"
    )
    default_first: bool = Field(default=True, description="whether trial 0 is the default configuration")
    warm_start: WarmStart | None = Field(
        default=None, description="configurations of earlier studies or of a file, evaluated next; they use up budget"
    )
    confirm: Confirmation | None = Field(
        default=None, description="configurations to train with several seeds, in place of a search"
    )
    data: str | None = Field(default=None, description="folder of the data files; ATOLL_DATA unless given")
    observe: int | None = Field(
        default=None,
        ge=1,
        description="compare each layer with itself this many epochs before, and record ranks and traffic; costs an "
        "SVD per layer and epoch; off unless given",
    )
    store: str | None = Field(
        default=None, description="the store's URL; ATOLL_STORE or sqlite:///atoll.db unless given"
    )
    folder: str | None = Field(default=None, description="where the study's files go; atoll-studies/NAME unless given")

    @model_validator(mode="before")
    @classmethod
    def _some_budget(cls, content: object) -> object:
        if not isinstance(content, dict) or any(content.get(kind) is not None for kind in BUDGETS):
            return content
        try:
            confirmed = Confirmation.model_validate(content["confirm"])
        except (KeyError, ValidationError):
            return content | {"trials": 40}
        return content | {"trials": len(confirmed.trials())}

    @field_validator("sampler", mode="before")
    @classmethod
    def _name_samplers(cls, sampler: object) -> object:
        return [with_name(one) for one in sampler] if isinstance(sampler, list) else with_name(sampler)

    @field_validator("objectives", mode="before")
    @classmethod
    def _name_objectives(cls, objectives: object) -> object:
        if not isinstance(objectives, list):
            return objectives
        return [{"name": one} if isinstance(one, str) else one for one in objectives]

    @model_validator(mode="after")
    def _fit_together(self) -> Study:
        islands = self.topology.islands
        if isinstance(self.sampler, list) and len(self.sampler) != islands:
            raise ValueError(f"sampler lists {len(self.sampler)} islands; topology.islands is {islands}")
        self._check_confirmation()
        self.migration.check(islands)
        for island, sampler in enumerate(self.samplers()):
            size = self.population(island)
            for one in members(sampler):
                if isinstance(one, Genetic) and one.mating == "multiple" and one.parents > size:
                    raise ValueError(f"parents must be at most the population, {size} here; got {one.parents}")
        several = self.objectives is not None and len(self.objectives) > 1
        if several and self.pruning is not None:
            raise ValueError("pruning compares one objective; with several ones, leave it out")
        unable = next((name for sampler in self.samplers() if (name := takes_one_objective(sampler))), None)
        if several and unable is not None:
            raise ValueError(
                f"sampler {unable} takes one objective; for several ones take one of {', '.join(SEVERAL_OBJECTIVES)}"
            )
        if self.pruning is not None and self.objectives is not None:
            metric = registry.workload(self.workload).metric
            if self.objectives[0].name not in (metric, "validation_error"):
                raise ValueError(f"pruning compares the metric {metric}; the objective is {self.objectives[0].name}")
        return self

    def _check_confirmation(self) -> None:
        if self.confirm is None:
            return
        if self.trials != (number := len(self.confirm.trials())):
            raise ValueError(f"confirm trains {number} times; leave trials out, or let it be that; got {self.trials}")
        others = ("seconds", "busy_seconds", "pruning", "warm_start")
        if given := [name for name in others if getattr(self, name) is not None]:
            raise ValueError(f"confirm trains every configuration to its end; leave {', '.join(given)} out")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                "a name has up to 100 letters, digits, dots, dashes and underscores, a letter or digit first"
            )
        return name

    @field_validator("workload", "method")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        context = info.context or {}
        name = registry.absolute(name, Path(context.get("folder", ".")))
        if context.get("inside"):
            registry.check_inside(name, Path(context["folder"]))
        (registry.check_workload if info.field_name == "workload" else registry.check_method)(name)
        return name

    @field_validator("warm_start")
    @classmethod
    def _warm_file(cls, warm_start: WarmStart | None, info: ValidationInfo) -> WarmStart | None:
        if warm_start is None or warm_start.file is None:
            return warm_start
        path = Path((info.context or {}).get("folder", ".")) / Path(warm_start.file).expanduser()
        return warm_start.model_copy(update={"file": str(path.resolve())})

    @field_validator("data", "folder")
    @classmethod
    def _from_file(cls, path: str | None, info: ValidationInfo) -> str | None:
        """A relative path is seen from the study file."""
        if path is None:
            return None
        return str((Path((info.context or {}).get("folder", ".")) / Path(path).expanduser()).resolve())

    def problem(self) -> Workload:
        """The workload, with the study's target."""
        made = registry.workload(self.workload)
        made.target = made.target if self.target is None else self.target
        return made

    def aim(self) -> tuple[str, str]:
        """What is optimised first, and in which direction."""
        first = resolve(self.objectives, self.problem())[0]
        return first.name, str(first.direction)

    def search_space(self) -> SearchSpace:
        """The method's space and the shared optimizer space, with the study's changes.

        The study may fix or search any other hyperparameter of the method or of the optimizer too.

        Raises:
            ValueError: for a name that neither method nor optimizer has, or a range that cannot be.
        """
        from atoll.searchspaces.space import Parameter, SearchSpace

        space = registry.whole_space(self.method, self.workload).unfix(self.space)
        known = set(space.names())
        extra = {name: value for name, value in self.space.items() if name not in known}
        changes = {name: distribution(value) for name, value in self.space.items() if name in known}
        fixed = tuple((name, value) for name, value in extra.items() if not isinstance(value, Strict))
        defaults = complete_hyperparameters(self.method, self.workload, {})
        searched = tuple(
            Parameter.of_study(name, distribution(value), defaults.get(name))
            for name, value in extra.items()
            if isinstance(value, Strict)
        )
        space = space.override(changes) + SearchSpace(searched, fixed)
        space = space.constrained(self.constraints)
        if self.default_first and self.confirm is None and (violated := space.violated(space.default())) is not None:
            raise ValueError(
                f"the default configuration violates the constraint {violated!r}: {space.default()}; change the space, "
                "or set default_first to false"
            )
        for hyperparameters in space.extremes():
            if space.violated(hyperparameters) is None:
                split_hyperparameters(self.method, self.workload, hyperparameters, self.topology.ranks)
        if not space.parameters and self.confirm is None:
            raise ValueError("space fixes every hyperparameter: there is nothing to search; use `atoll train`")
        return space

    def refusal(self, space: SearchSpace) -> Infeasibility:
        """What says why hyperparameters of `space` must not be trained, or None where they may."""

        def refuses(hyperparameters: dict[str, Any]) -> str | None:
            if (violated := space.violated(hyperparameters)) is not None:
                return f"it violates {violated}"
            try:
                split_hyperparameters(self.method, self.workload, hyperparameters, self.topology.ranks)
            except ValueError as error:
                return str(error)
            return None

        return refuses

    def configuration(self, hyperparameters: dict[str, Any], number: int, threads: int, device: str) -> Configuration:
        """The configuration of trial `number`, of what is valid already."""
        return Configuration.model_construct(
            workload=self.workload,
            method=self.method,
            hyperparameters=complete_hyperparameters(self.method, self.workload, hyperparameters),
            epochs=self.epochs or registry.workload(self.workload).epochs,
            # Configurations that are confirmed have the same seeds.
            seed=self.seed + (number if self.confirm is None else number // len(self.confirm.configurations)),
            ranks=self.topology.ranks,
            ranks_per_node=self.topology.ranks_per_node,
            threads=threads,
            device="cuda" if device.startswith("cuda") else "cpu",
            data=self.data,
            observe=self.observe,
            versions=versions(),
        )

    def samplers(self) -> list[Sampler]:
        """The sampler of every island."""
        return self.sampler if isinstance(self.sampler, list) else [self.sampler] * self.topology.islands

    def population(self, island: int) -> int:
        """The breeding population of an island, or the generation of its sampler."""
        given: int | None = getattr(self.samplers()[island], "population", None)
        if given is not None:
            return given
        return min(32, max(4, (self.trials or 128) // self.topology.islands // 4))

    def pruning_rule(self) -> tuple[str, bool]:
        """The rule, and whether trials may be ended while their loss falls; the method's own unless the study says."""
        assert self.pruning is not None
        defaults: dict[str, Any] = {"rule": "asha", "while_falling": True} | dict(registry.method(self.method).pruning)
        given = {"rule": self.pruning.rule, "while_falling": self.pruning.while_falling}
        both = defaults | {name: value for name, value in given.items() if value is not None}
        return both["rule"], both["while_falling"]


__all__ = ["Study", "Topology", "TopologyError"]
