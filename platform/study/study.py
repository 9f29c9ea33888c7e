"""The study file: one validated model of all of a search's settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

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

from atoll.platform.study import on_trial as live
from atoll.platform.study import registry
from atoll.platform.study.checkpoint import Checkpointing
from atoll.platform.study.configuration import MAX_SEED, check_length, check_observe, located
from atoll.platform.study.fields import Space, Strict
from atoll.platform.study.function import check_call, of_function
from atoll.platform.study.interval import Interval
from atoll.platform.study.judged import judgeable
from atoll.platform.study.launcher import located as located_launcher
from atoll.platform.study.learn_from import LearnFrom
from atoll.platform.study.loader import Loader
from atoll.platform.study.migration import Migration
from atoll.platform.study.objectives import Direction, Objective, named
from atoll.platform.study.pruning import Pruning
from atoll.platform.study.samplers import (
    SEVERAL_OBJECTIVES,
    Evolution,
    Genetic,
    Pbt,
    Sampler,
    breeds,
    default_sampler,
    members,
    takes_one_objective,
    with_name,
)
from atoll.platform.study.stop import Stop
from atoll.platform.study.topology import Shape, TopologyError, share_out
from atoll.platform.study.walltime import Walltime

BUDGETS = ("trials", "seconds", "busy_seconds")
MAX_RANKS = 10_000_000
MAX_SEEDS = 100_000
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Topology(Strict):
    """Islands of workers of ranks: islands x workers x ranks MPI ranks in total."""

    islands: int = Field(default=1, ge=1, le=MAX_RANKS, description="number of islands")
    workers: int | list[int] | None = Field(
        default=None, description="workers per island: one number, or one per island. Default: 1"
    )
    ranks: int = Field(default=1, ge=1, le=MAX_RANKS, description="ranks per worker; a trial trains on one worker")
    world: int | None = Field(
        default=None,
        ge=1,
        le=MAX_RANKS,
        description="total number of ranks, instead of `workers`; distributed evenly over the islands",
    )
    ranks_per_node: int | None = Field(default=None, ge=1, description="ranks per (virtual) node. Default: by host")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="device on which ranks train")
    threads: int | None = Field(default=None, ge=1, description="torch threads per rank. Default: cores / ranks")
    bind: Literal["none", "cores"] = Field(
        default="none",
        description="cores binds each rank to its own share of the cores that the ranks of a host may use, where there "
        "are enough; none leaves it to the launcher, as other jobs may use the same cores. --resume may change it",
    )

    @field_validator("workers")
    @classmethod
    def _at_least_one(cls, workers: int | list[int] | None) -> int | list[int] | None:
        sizes = [1 if workers is None else workers] if not isinstance(workers, list) else workers
        if not sizes or min(sizes) < 1:
            raise ValueError(f"workers must be at least 1 on every island; got {workers}")
        return workers

    @model_validator(mode="after")
    def _possible(self) -> Topology:
        if isinstance(self.workers, list) and len(self.workers) != self.islands:
            raise ValueError(f"workers must list one number per island ({self.islands}); got {len(self.workers)}")
        if self.world is not None and self.workers is not None:
            raise ValueError("give either world or workers, not both")
        if self.ranks_per_node and self.ranks % self.ranks_per_node:
            raise ValueError(f"ranks ({self.ranks}) must be divisible by ranks_per_node; got {self.ranks_per_node}")
        workers = sum(self.workers) if isinstance(self.workers, list) else (self.workers or 1) * self.islands
        if self.world is None and workers * self.ranks > MAX_RANKS:
            raise ValueError(
                f"islands x workers x ranks must be at most {MAX_RANKS} ranks; got {workers} workers of {self.ranks}"
            )
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
    best: int = Field(
        default=1, ge=1, description="number of best configurations to take from each study and from the file"
    )
    file: str | None = Field(default=None, description="configuration file from `atoll export`")


class Confirmation(Strict):
    """Configurations to train instead of searching, and to measure on the test data after every epoch."""

    configurations: list[dict[str, JsonValue]] = Field(min_length=1, description="the searched hyperparameters of each")
    seeds: int = Field(
        default=5, ge=1, le=MAX_SEEDS, description="number of trainings of each; the seeds are seed, seed + 1, ..."
    )
    compared: str | None = Field(
        default=None,
        description="a value to be minimized by which a benchmark compares them. Default: the metric on test data",
    )
    target: float | None = Field(default=None, description="the target of that value. Default: none")

    def trials(self) -> list[dict[str, JsonValue]]:
        """The configuration of each trial, by trial number: all configurations in turn, once per seed."""
        return [configuration for _ in range(self.seeds) for configuration in self.configurations]


class Study(Strict):
    """One search: a workload, a method, a space, a sampler, a budget and a topology."""

    name: str = Field(description="name of the study in the store, and of its folder")
    workload: str = Field(
        description="a registered name, an entry point, or file.py:Class. With `objective`, which sets it: absent"
    )
    method: str = Field(
        description="a registered name, an entry point, or file.py:Class. With `objective`, which sets it: absent"
    )
    objective: str | None = Field(
        default=None,
        description="file.py:function, a function of a trial that is called in place of a training: it gets the "
        "hyperparameters of `space`, and returns a number or a mapping of names to numbers. Default: a training",
    )
    direction: Direction | dict[str, Direction] | None = Field(
        default=None,
        description="with `objective`: minimize or maximize the number that it returns, or one direction for each of "
        "the returned values that are objectives, such as {loss: minimize, memory: minimize}. Default: minimize",
    )
    trials: int | None = Field(
        default=None, ge=1, description="budget: number of trials. Default: 40 if there is no other budget"
    )
    seconds: float | None = Field(
        default=None, gt=0, description="budget: seconds of searching, after which no trial starts"
    )
    busy_seconds: float | None = Field(
        default=None,
        gt=0,
        description="budget: worker-seconds (seconds in trials, summed over workers), after which no trial starts",
    )
    grace: float | None = Field(
        default=None,
        ge=0,
        description="seconds that running trials get after `seconds` have elapsed. Default: no limit",
    )
    trial_timeout: float | None = Field(
        default=None, gt=0, description="seconds after which a trial is stopped and counts as failed. Default: no limit"
    )
    isolate: Literal["restore", "process"] = Field(
        default="restore",
        description="what keeps one trial from the next: restore puts back the known state of the rank's process after "
        "each trial; process trains each trial in a fresh process of the rank (on Linux, without GPUs), so that "
        "nothing passes and a crash fails its trial only. The results are the same",
    )
    stop_grace: float = Field(
        default=30.0, gt=0, description="seconds from a stop request until the ranks are terminated"
    )
    walltime: Walltime | None = Field(
        default=None,
        description="time limit of each launcher: seconds, or a text such as '4:00:00'. By stop_grace before it trials "
        "write checkpoints and stop, and no trial starts that cannot end. Default: the batch system's, if it tells",
    )
    heartbeat_timeout: float = Field(
        default=600.0, gt=0, description="seconds without progress after which a rank counts as dead"
    )
    max_restarts: int = Field(default=10, ge=0, description="how often the launcher restarts the ranks after they died")
    keep_going: bool = Field(
        default=False,
        description="search on if the first trials (as many as workers, at least 3) all fail alike. Default: stop, as "
        "failed",
    )
    check: bool = Field(
        default=True,
        description="take one batch through the workload before the ranks start, and refuse a study that cannot train",
    )
    epochs: int | None = Field(
        default=None, ge=1, description="epochs per trial; --resume may increase it. Default: the workload's"
    )
    steps: int | None = Field(
        default=None, ge=1, description="steps per trial, instead of epochs; --resume may increase it"
    )
    report_every: Interval | None = Field(
        default=None,
        description="interval of a trial's reports, which pruning judges: such as 500 steps, 2 epochs or 10 minutes. "
        "Default: 1 epoch, and for a training of less than an epoch its end",
    )
    evaluate_every: Interval | None = Field(
        default=None, description="shortest interval of evaluations, which reports make. Default: every report"
    )
    objective_from: Literal["last", "best"] = Field(
        default="last", description="the report whose metric is a trial's objective: the last one, or the best one"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="early stopping: evaluations without a better metric that end a trial, as complete. Default: never",
    )
    checkpoint: Checkpointing | None = Field(
        default=None,
        description="every: interval at which a trial's state is written to the study's folder, from which an "
        "interrupted trial continues; keep: none, last, best or all, what stays when a trial has ended; weights: none, "
        "best or all, the trials whose trained model stays. Default: none",
    )
    loader: Loader | None = Field(
        default=None,
        description="how each rank loads a data set: workers (processes), prefetch (batches each loads ahead), start "
        "(fork, spawn or forkserver), pin_memory. Default: by the rank itself",
    )
    target: float | None = Field(default=None, description="target value of the metric. Default: the workload's")
    seed: int = Field(
        default=0, ge=0, le=MAX_SEED, description="trial n trains with seed + n; samplers are seeded with it"
    )
    topology: Topology = Field(default_factory=Topology, description="islands, workers and ranks. Default: one of each")
    objectives: list[Objective] | None = Field(
        default=None,
        min_length=1,
        description="names, {NAME: direction}, or of a prediction {NAME: {cluster, nodes}}: any values that the trials "
        "report. Default: the workload's metric",
    )
    # After the objectives, because its default depends on them.
    sampler: Annotated[
        Annotated[Sampler, Tag("one")] | Annotated[list[Sampler], Tag("each")],
        Discriminator(lambda sampler: "each" if isinstance(sampler, list) else "one"),
    ] = Field(
        default_factory=lambda data: default_sampler(len(data.get("objectives") or [])),
        description="one for all islands, or a list with one per island. Default: mixed; with several objectives, "
        "evolution",
    )
    migration: Migration = Field(default_factory=Migration, description="exchange of individuals between islands")
    pruning: Pruning | None = Field(default=None, description="rule for stopping trials early. Default: never")
    stop: Stop | None = Field(
        default=None,
        description="rules that end the search before its budget is used up, one or several: target, plateau, regret; "
        "--resume may change it. Default: the budget alone",
    )
    space: Space = Field(
        default_factory=dict,
        description="per hyperparameter: a fixed value, {low, high, log, step} or {choices}; add a type if ambiguous",
    )
    constraints: list[str] = Field(
        default_factory=list, description="constraints between hyperparameters, such as S <= B"
    )
    default_first: bool = Field(default=True, description="evaluate the default configuration as trial 0")
    warm_start: WarmStart | None = Field(
        default=None,
        description="configurations from earlier studies or a file, evaluated next; they count towards the budget",
    )
    learn_from: list[LearnFrom] | None = Field(
        default=None,
        min_length=1,
        description="earlier results that samplers are told without training them again: a table's file, "
        "{study: NAME}, or a list of these; they use no budget",
    )
    confirm: Confirmation | None = Field(
        default=None, description="configurations to train with several seeds, instead of a search"
    )
    data: str | None = Field(default=None, description="folder with the data files. Default: ATOLL_DATA")
    observe: int | None = Field(
        default=None,
        ge=1,
        description="record how much each layer changed over this many epochs, and its rank and traffic; costs one SVD "
        "per layer and epoch. Default: off",
    )
    evaluate_train: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="record evaluated_train_loss: at each evaluation, the loss of the evaluated network on this share "
        "of the training data, in evaluation mode, the same quantity for every method; costs a forward pass of the "
        "share. Default: off",
    )
    launcher: str | None = Field(
        default=None,
        description="the command that starts MPI jobs, with its options, such as `srun --mpi=pmix` or "
        "`mpiexec --map-by ppr:4:node`; ATOLL_MPIEXEC comes before it, and --resume may change it. Default: the "
        "mpiexec of the MPI library that mpi4py loads",
    )
    store: str | None = Field(default=None, description="the store's URL. Default: ATOLL_STORE, or sqlite:///atoll.db")
    folder: str | None = Field(default=None, description="folder for the study's files. Default: atoll-studies/NAME")
    on_trial: live.OnTrial = Field(
        default_factory=list,
        description="where trials are shown while the study runs: tensorboard:DIR, mlflow:URI, a command that runs "
        "after each trial, {command, timeout, folder}, or a list of these; --resume may change it. Default: nowhere",
    )

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

    @model_validator(mode="before")
    @classmethod
    def _of_function(cls, content: object) -> object:
        """With `objective`: the names in place of workload and method, and the objectives of `direction`."""
        if not isinstance(content, dict):
            return content
        if content.get("objective") is None:
            if content.get("direction") is not None:
                raise ValueError("direction is that of `objective`, which is absent; a workload has its own")
            return content
        return content | of_function(content)

    @field_validator("sampler", mode="before")
    @classmethod
    def _name_samplers(cls, sampler: object) -> object:
        return [with_name(member) for member in sampler] if isinstance(sampler, list) else with_name(sampler)

    @field_validator("learn_from", mode="before")
    @classmethod
    def _listed(cls, sources: object) -> object:
        return [sources] if isinstance(sources, str | dict) else sources

    @field_validator("objectives", mode="before")
    @classmethod
    def _name_objectives(cls, objectives: object) -> object:
        if not isinstance(objectives, list):
            return objectives
        return [named(entry) for entry in objectives]

    @model_validator(mode="after")
    def _trains_or_calls(self) -> Study:
        if self.calls_function:
            check_call(self)
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Study:
        islands = self.topology.islands
        if isinstance(self.sampler, list) and len(self.sampler) != islands:
            raise ValueError(f"sampler must list one sampler per island ({islands}); got {len(self.sampler)}")
        if self.isolate == "process" and self.topology.device == "cuda":
            raise ValueError(
                "isolate: process trains without GPUs, so topology.device must be cpu (or auto where there are none); "
                "got cuda. With GPUs, use isolate: restore"
            )
        check_length(self.epochs, self.steps)
        check_observe(self.observe, self.report_every, self.evaluate_every)
        self._check_objective_from()
        self._check_confirmation()
        self._check_pauses()
        self.migration.check(islands)
        self._check_replacement()
        for island, sampler in enumerate(self.samplers()):
            size = self.population(island)
            for member in members(sampler):
                if isinstance(member, Evolution | Genetic) and member.mating == "multiple" and member.parents > size:
                    raise ValueError(f"parents must be at most the population ({size}); got {member.parents}")
        several = self.objectives is not None and len(self.objectives) > 1
        if several and self.pruning is not None:
            raise ValueError(f"pruning needs a single objective; got {len(self.objectives or [])}: omit pruning")
        unable = next((name for sampler in self.samplers() if (name := takes_one_objective(sampler))), None)
        if several and unable is not None:
            raise ValueError(
                f"sampler {unable} supports one objective only; for several, use one of {', '.join(SEVERAL_OBJECTIVES)}"
            )
        if self.pruning is not None and self.objectives is not None and not self.calls_function:
            known = judgeable(registry.workload(self.workload), trained=self.evaluate_train is not None)
            if (name := self.objectives[0].name) not in known:
                raise ValueError(
                    "pruning compares the objective's value in every report, so it must be one of "
                    f"{', '.join(known)}; got {name}"
                )
        return self

    def _check_pauses(self) -> None:
        if self.pauses_trials and not self.writes_checkpoints:
            what, instead = "pruning.promotion", "omit promotion"
            if self.population_based is not None:
                what, instead = "sampler pbt", "use another sampler"
            raise ValueError(
                f"{what} continues trials from their checkpoints, so it needs `checkpoint`, such as "
                f"{{every: 5 epochs}}: add it, or {instead}"
            )
        if isinstance(self.sampler, list) and any(isinstance(sampler, Pbt) for sampler in self.sampler):
            raise ValueError("pbt has one population on all islands: name it once, `sampler: {name: pbt}`")
        if self.population_based is None:
            return
        if self.checkpoint is not None and self.checkpoint.keep in ("best", "all"):
            raise ValueError(
                f"members of pbt take one another's states, so checkpoint.keep must be none or last; got "
                f"{self.checkpoint.keep}"
            )
        given = [name for name in ("pruning", "confirm", "learn_from") if getattr(self, name) is not None]
        if given:
            raise ValueError(f"pbt decides by itself who goes on, and starts anew: omit {', '.join(given)}")

    def _check_replacement(self) -> None:
        samplers = self.samplers()
        if self.migration.replace != "none" and not any(map(breeds, samplers)):
            names = ", ".join(dict.fromkeys(sampler.name for sampler in samplers))
            raise ValueError(
                "migration.replace needs a sampler that breeds (evolution, propulate, or mixed with one of them): the "
                f"others learn from all trials; got {self.migration.replace} with {names}"
            )

    def _check_objective_from(self) -> None:
        named = [objective.name for objective in self.objectives or []]
        if self.objective_from == "last" or not named:
            return
        metric = registry.workload(self.workload).metric
        if any(name not in (metric, "validation_error") for name in named):
            raise ValueError(
                f"objective_from: best needs the objective {metric} or validation_error; got {', '.join(named)}"
            )

    def _check_confirmation(self) -> None:
        if self.confirm is None:
            return
        if self.trials != (number := len(self.confirm.trials())):
            raise ValueError(
                f"trials must be {number} (configurations x seeds of confirm) or absent; got {self.trials}"
            )
        others = ("seconds", "busy_seconds", "pruning", "stop", "warm_start", "learn_from")
        if conflicting := [name for name in others if getattr(self, name) is not None]:
            raise ValueError(f"confirm trains every configuration to the end; omit {', '.join(conflicting)}")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                "a name must have 1 to 100 letters, digits, dots, dashes and underscores, and start with a letter or "
                "digit"
            )
        return name

    @field_validator("workload", "method", "objective")
    @classmethod
    def _known(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None:
            return None
        context = info.context or {}
        name = registry.absolute(name, Path(context.get("folder", ".")))
        if context.get("inside"):
            registry.check_inside(name, Path(context["folder"]))
        checks = {"workload": registry.check_workload, "method": registry.check_method}
        checks.get(str(info.field_name), registry.check_function)(name)
        return name

    @field_validator("stop")
    @classmethod
    def _fits_objectives(cls, stop: Stop | None, info: ValidationInfo) -> Stop | None:
        if stop is not None and "objectives" in info.data and "workload" in info.data:
            named = [objective.name for objective in info.data["objectives"] or []]
            stop.check(named or [registry.workload(info.data["workload"]).metric])
        return stop

    @field_validator("space")
    @classmethod
    def _own(cls, space: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return located(space, info.context)

    @field_validator("warm_start")
    @classmethod
    def _warm_file(cls, warm_start: WarmStart | None, info: ValidationInfo) -> WarmStart | None:
        if warm_start is None or warm_start.file is None:
            return warm_start
        path = Path((info.context or {}).get("folder", ".")) / Path(warm_start.file).expanduser()
        return warm_start.model_copy(update={"file": str(path.resolve())})

    @field_validator("launcher")
    @classmethod
    def _starts(cls, launcher: str | None, info: ValidationInfo) -> str | None:
        context = info.context or {}
        folder, inside = Path(context.get("folder", ".")), bool(context.get("inside"))
        return None if launcher is None else located_launcher(launcher, folder, inside=inside)

    @field_validator("on_trial")
    @classmethod
    def _live(cls, targets: list[str | live.Command], info: ValidationInfo) -> list[str | live.Command]:
        context = info.context or {}
        return live.located(targets, Path(context.get("folder", ".")), inside=bool(context.get("inside")))

    @field_validator("data", "folder")
    @classmethod
    def _from_file(cls, path: str | None, info: ValidationInfo) -> str | None:
        """Resolve a relative path from the study file's folder."""
        if path is None:
            return None
        return str((Path((info.context or {}).get("folder", ".")) / Path(path).expanduser()).resolve())

    def samplers(self) -> list[Sampler]:
        """The sampler of each island."""
        return self.sampler if isinstance(self.sampler, list) else [self.sampler] * self.topology.islands

    @property
    def calls_function(self) -> bool:
        """Whether trials call a function of the user's, and train nothing by themselves."""
        return self.objective is not None

    @property
    def writes_checkpoints(self) -> bool:
        """Whether trials write their state while they train."""
        return self.checkpoint is not None and self.checkpoint.every is not None

    @property
    def keeps_weights(self) -> bool:
        """Whether trained models stay."""
        return self.checkpoint is not None and self.checkpoint.weights != "none"

    @property
    def keeps_only_incumbents_weights(self) -> bool:
        """Whether the trained models of incumbents stay, and those of other trials do not."""
        return self.checkpoint is not None and self.checkpoint.weights == "best"

    @property
    def pauses_trials(self) -> bool:
        """Whether trials pause at rungs, and some of them continue later."""
        return self.population_based is not None or (self.pruning is not None and self.pruning.promotion)

    @property
    def population_based(self) -> Pbt | None:
        """The settings of population-based training; None with other samplers."""
        return self.sampler if isinstance(self.sampler, Pbt) else None

    @property
    def members(self) -> int:
        """How many members a population has in training at once."""
        settings = self.population_based
        if settings is not None and settings.population is not None:
            return settings.population
        return min(32, self.trials or 16)

    def population(self, island: int) -> int:
        """The size of an island's breeding population, or of its sampler's generation."""
        population: int | None = getattr(self.samplers()[island], "population", None)
        if population is not None:
            return population
        return min(32, max(4, (self.trials or 128) // self.topology.islands // 4))


__all__ = ["Study", "Topology", "TopologyError"]
