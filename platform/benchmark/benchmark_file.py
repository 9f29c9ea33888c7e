"""The benchmark file: methods and workloads, how each method is tuned on each workload, and how that is confirmed.

Every part of a benchmark is a study of its own: of a workload, a method, a stage (tune or confirm) and a repeat. All
methods get the same sampler, budget, ranks and shared optimizer space; their own spaces come on top.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationInfo, field_validator, model_validator

from atoll.platform.benchmark import bundled
from atoll.platform.study import registry
from atoll.platform.study.fields import Space, Strict
from atoll.platform.study.objectives import Objective
from atoll.platform.study.pruning import Pruning
from atoll.platform.study.samplers import Sampler, default_sampler, with_name
from atoll.platform.study.study import Study
from atoll.storage import yamlfile

Stage = Literal["tune", "confirm"]
# Trial n of a study trains with seed + n: repeats, and tuning and confirmation, must not share seeds.
SEEDS_PER_REPEAT = 1_000_000
FIRST_CONFIRMATION_SEED = 500_000
# A study's name joins three of them with dots, and has at most 100 characters.
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,27}")
LABEL_WORDS = "up to 28 letters, digits, dashes and underscores, a letter or digit first"


class MethodEntry(Strict):
    """A method, and what is searched of it beside its own space; one method may enter several times."""

    method: str
    name: str = Field(default="", description="what tables call it; the method's name unless given")
    space: Space = Field(default_factory=dict, description="changes of its space, as in a study file")
    constraints: list[str] = Field(default_factory=list)
    ranks: int | None = Field(
        default=None, ge=1, description="in place of the benchmark's: a comparator on fewer ranks"
    )
    untuned: bool = Field(default=False, description="only its default configuration, to show what tuning is worth")


class WorkloadEntry(Strict):
    """A workload, with its target and epochs, and what all methods search on it."""

    workload: str
    name: str = Field(default="", description="what tables call it; the workload's name unless given")
    target: float | None = Field(default=None, gt=0, description="of its metric; its own unless given")
    epochs: int | None = Field(default=None, ge=1, description="per trial; its own unless given")
    space: Space = Field(default_factory=dict, description="changes of every method's space")
    variant_of: str | None = Field(default=None, description="the base workload whose held-out variant it is")


class Tuning(Strict):
    """What every method gets on every workload."""

    trials: int | None = Field(
        default=None, ge=1, le=FIRST_CONFIRMATION_SEED, description="budget: trials; 20 unless a budget is given"
    )
    busy_seconds: float | None = Field(default=None, gt=0, description="budget: seconds inside trials, of all workers")
    repeats: int = Field(default=1, ge=1, description="independent tunings")
    islands: int = Field(default=1, ge=1)
    workers: int = Field(default=1, ge=1, description="per island; they train at the same time")
    sampler: Annotated[Sampler, BeforeValidator(with_name)] = Field(default_factory=lambda: default_sampler(1))
    objective: str | None = Field(default=None, description="what is tuned; the workload's metric unless given")
    pruning: Pruning | None = None

    @model_validator(mode="before")
    @classmethod
    def _some_budget(cls, content: object) -> object:
        if isinstance(content, dict) and content.get("trials") is None and content.get("busy_seconds") is None:
            return content | {"trials": 20}
        return content


class Confirming(Strict):
    """How what tuning found is measured."""

    best: int = Field(default=1, ge=1, description="how many of the best configurations are trained again")
    seeds: int = Field(default=5, ge=1, description="how often each, with seeds that tuning did not use")


def _entry(key: str) -> BeforeValidator:
    return BeforeValidator(lambda one: {key: one} if isinstance(one, str) else one)


@dataclass(frozen=True)
class Part:
    """One study of a benchmark."""

    workload: WorkloadEntry
    method: MethodEntry
    stage: Stage
    repeat: int

    @property
    def name(self) -> str:
        """What the part is called in its benchmark."""
        return f"{self.workload.name}.{self.method.name}.{self.stage}-{self.repeat}"


class Benchmark(Strict):
    """Methods x workloads x repeats."""

    name: str
    description: str = ""
    methods: list[Annotated[MethodEntry, _entry("method")]] = Field(min_length=1)
    workloads: list[Annotated[WorkloadEntry, _entry("workload")]] = Field(min_length=1)
    tuning: Tuning = Field(default_factory=Tuning)
    confirmation: Confirming = Field(default_factory=Confirming)
    ranks: int = Field(default=2, ge=1, description="ranks that train together")
    ranks_per_node: int | None = Field(default=None, ge=1, description="of those, how many count as one node")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, description="torch threads per rank")
    space: Space = Field(default_factory=dict, description="changes of the optimizer space, for all methods alike")
    seed: int = Field(default=0, ge=0, le=2**30)
    trial_timeout: float | None = Field(default=None, gt=0)
    data: str | None = Field(default=None, description="folder of the data files; ATOLL_DATA unless given")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not LABEL.fullmatch(name):
            raise ValueError(f"a benchmark's name has {LABEL_WORDS}; got {name!r}")
        return name

    @field_validator("data")
    @classmethod
    def _from_file(cls, path: str | None, info: ValidationInfo) -> str | None:
        folder = Path((info.context or {}).get("folder", "."))
        return None if path is None else str((folder / Path(path).expanduser()).resolve())

    @field_validator("methods", "workloads")
    @classmethod
    def _named(cls, entries: list[Any], info: ValidationInfo) -> list[Any]:
        """Let every entry have a name and an absolute place; no two may have the same one."""
        context = info.context or {}
        kind = {"methods": "method", "workloads": "workload"}[str(info.field_name)]
        named = []
        for entry in entries:
            given = getattr(entry, kind)
            located = registry.absolute(given, Path(context.get("folder", ".")))
            if context.get("inside"):
                registry.check_inside(located, Path(context["folder"]))
            (registry.check_method if kind == "method" else registry.check_workload)(located)
            label = entry.name or given.rpartition(":")[2]
            if not LABEL.fullmatch(label):
                raise ValueError(f"{kind} {given!r} needs a `name` of {LABEL_WORDS}; got {label!r}")
            named.append(entry.model_copy(update={kind: located, "name": label}))
        labels = [entry.name for entry in named]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"names must differ; give those that enter twice a name: {', '.join(twice)}")
        return named

    @model_validator(mode="after")
    def _fit_together(self) -> Benchmark:
        bases = [entry.name for entry in self.workloads if entry.variant_of is None]
        taken: dict[str, str] = {}
        for entry in self.workloads:
            base = entry.variant_of
            if base is None:
                continue
            if base not in bases:
                raise ValueError(f"{entry.name} is a variant of {base}, which must be one of {', '.join(bases)}")
            if base in taken:
                raise ValueError(f"{base} has one variant at most; got {taken[base]} and {entry.name}")
            taken[base] = entry.name
        for method in self.methods:
            ranks = self.ranks_of(method)
            if self.ranks_per_node and ranks > self.ranks_per_node and ranks % self.ranks_per_node:
                raise ValueError(
                    f"{method.name}: ranks_per_node ({self.ranks_per_node}) must divide its ranks; got {ranks}"
                )
        return self

    def ranks_of(self, method: MethodEntry) -> int:
        """How many ranks train together."""
        return method.ranks or self.ranks

    def parts(self) -> Iterator[Part]:
        """All studies, in the order in which they run: tuning first, methods in turns."""
        for stage in ("tune", "confirm"):
            for workload in self.workloads:
                for repeat in range(self.tuning.repeats):
                    for method in self.methods:
                        yield Part(workload, method, stage, repeat)

    def study(self, part: Part, folder: Path, configurations: Sequence[dict[str, JsonValue]] = ()) -> Study:
        """The study of a part; of a confirmation, of these configurations.

        Raises:
            ValueError: for what the study cannot be, with the part's name.
        """
        try:
            return Study.model_validate(self._content(part, folder) | self._of_stage(part, configurations))
        except ValueError as error:
            raise ValueError(f"{part.name}: {error}") from None

    def _content(self, part: Part, folder: Path) -> dict[str, Any]:
        dropped = set(registry.whole_space(part.method.method).exclude)
        shared = {name: value for name, value in self.space.items() if name not in dropped}
        space = shared | part.workload.space | part.method.space
        return {
            "name": f"{self.name}.{part.name}",
            "folder": str(folder / part.name),
            "workload": part.workload.workload,
            "method": part.method.method,
            "target": part.workload.target,
            "epochs": part.workload.epochs,
            "space": {name: dump(value) for name, value in space.items()},
            "constraints": part.method.constraints,
            "trial_timeout": self.trial_timeout,
            "data": self.data,
        }

    def _of_stage(self, part: Part, configurations: Sequence[dict[str, JsonValue]]) -> dict[str, Any]:
        ranks = self.ranks_of(part.method)
        per_node = None if self.ranks_per_node is None else min(ranks, self.ranks_per_node)
        topology: dict[str, Any] = {"ranks": ranks, "ranks_per_node": per_node}
        topology |= {"device": self.device, "threads": self.threads}
        seed = self.seed + SEEDS_PER_REPEAT * part.repeat
        if part.stage == "confirm":
            # One worker, so that nothing else trains beside it, and a sampler that thinks of nothing.
            return {
                "confirm": {"configurations": list(configurations), "seeds": self.confirmation.seeds},
                "seed": seed + FIRST_CONFIRMATION_SEED,
                "sampler": {"name": "random"},
                "topology": topology,
            }
        tuning = self.tuning
        objectives = None if tuning.objective is None else [Objective(name=tuning.objective).model_dump()]
        return {
            "trials": 1 if part.method.untuned else tuning.trials,
            "busy_seconds": None if part.method.untuned else tuning.busy_seconds,
            "seed": seed,
            "sampler": tuning.sampler.model_dump(),
            "objectives": objectives,
            "pruning": None if tuning.pruning is None else tuning.pruning.model_dump(),
            "topology": topology | {"islands": tuning.islands, "workers": tuning.workers},
        }


def dump(value: Any) -> Any:
    """A space's value as a study file has it."""
    return value.model_dump() if isinstance(value, Strict) else value


def load(
    file: str, scale: str | None = None, changes: dict[str, Any] | None = None, *, inside: bool = False
) -> Benchmark:
    """The benchmark in a file, or the bundled one of that name, with `changes`.

    `scale` names one of the file's own reduced forms.

    Raises:
        FileError: for a file that is not there or no benchmark, or a scale that it does not have.
    """
    found = yamlfile.locate(bundled.BENCHMARKS, "benchmark", file)

    def scaled(content: dict[str, Any]) -> dict[str, Any]:
        scales = content.pop("scales", None) or {}
        if scale is not None:
            if scale not in scales:
                raise yamlfile.FileError(f"{found}: has no scale {scale!r}; it has {', '.join(scales) or 'none'}")
            content = merged(content, scales[scale])
        return content | (changes or {})

    return yamlfile.load(found, Benchmark, inside=inside, change=scaled)


def merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`content` with `changes`, dictionary by dictionary; lists, ranges and choices are replaced."""
    result = copy.deepcopy(content)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        is_range = both and not value.keys().isdisjoint(("low", "high", "choices"))
        result[key] = merged(result[key], value) if both and not is_range else copy.deepcopy(value)
    return result
