"""The benchmark file: methods, workloads, and how to tune each method on each workload and confirm the results.

Each part of a benchmark (workload, method, stage (tune or confirm), repeat) is a separate study. All methods get the
same sampler, budget, number of ranks and shared optimizer space, plus their own spaces.
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
from atoll.platform.benchmark.entries import (
    FIRST_CONFIRMATION_SEED,
    Confirming,
    MethodEntry,
    Tuning,
    WorkloadEntry,
)
from atoll.platform.study import registry
from atoll.platform.study.configuration import located
from atoll.platform.study.fields import Space, Strict
from atoll.platform.study.judged import TRAINED
from atoll.platform.study.study import Study
from atoll.searchspaces.optimizer import acts_with_any
from atoll.storage import yamlfile

Stage = Literal["tune", "confirm"]
# Trial n of a study trains with seed + n. Repeats must not share seeds.
SEEDS_PER_REPEAT = 1_000_000
# A study's name consists of three labels joined with dots, and has at most 100 characters.
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,27}")
LABEL_WORDS = "1 to 28 letters, digits, dashes and underscores, starting with a letter or digit"


def _entry(key: str) -> BeforeValidator:
    return BeforeValidator(lambda entry: {key: entry} if isinstance(entry, str) else entry)


@dataclass(frozen=True)
class Part:
    """One study of a benchmark."""

    workload: WorkloadEntry
    method: MethodEntry
    stage: Stage
    repeat: int

    @property
    def name(self) -> str:
        """The part's name within its benchmark."""
        return f"{self.workload.name}.{self.method.name}.{self.stage}-{self.repeat}"


class Benchmark(Strict):
    """Methods x workloads x repeats."""

    name: str = Field(description="name of the benchmark in the store, and of its folder")
    description: str = Field(default="", description="for its report")
    methods: list[Annotated[MethodEntry, _entry("method")]] = Field(
        min_length=1, description="the compared methods: names, or mappings"
    )
    workloads: list[Annotated[WorkloadEntry, _entry("workload")]] = Field(
        min_length=1, description="what they train: names, or mappings"
    )
    tuning: Tuning = Field(default_factory=Tuning, description="the search on each workload, for each method")
    confirmation: Confirming = Field(
        default_factory=Confirming, description="the trainings of the best configurations, on test data"
    )
    ranks: int = Field(default=2, ge=1, description="number of ranks that train together")
    ranks_per_node: int | None = Field(default=None, ge=1, description="ranks per (virtual) node. Default: by host")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="device on which ranks train")
    threads: int | None = Field(default=None, ge=1, description="torch threads per rank")
    space: Space = Field(default_factory=dict, description="changes of the optimizer space, for all methods")
    seed: int = Field(default=0, ge=0, le=2**30, description="from which the seeds of all trials follow")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="early stopping: evaluations without a better metric that end a training. Default: never",
    )
    evaluate_train: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the training data on which the evaluated network's loss is measured at each evaluation, "
        "as evaluated_train_loss. Default: none",
    )
    trial_timeout: float | None = Field(
        default=None, gt=0, description="seconds after which a trial is stopped and counts as failed. Default: no limit"
    )
    data: str | None = Field(default=None, description="folder with the data files. Default: ATOLL_DATA")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not LABEL.fullmatch(name):
            raise ValueError(f"a benchmark's name must have {LABEL_WORDS}; got {name!r}")
        return name

    @field_validator("data")
    @classmethod
    def _from_file(cls, path: str | None, info: ValidationInfo) -> str | None:
        folder = Path((info.context or {}).get("folder", "."))
        return None if path is None else str((folder / Path(path).expanduser()).resolve())

    @field_validator("space")
    @classmethod
    def _own(cls, space: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return located(space, info.context)

    @field_validator("methods", "workloads")
    @classmethod
    def _named(cls, entries: list[Any], info: ValidationInfo) -> list[Any]:
        """Give each entry a name, which must be unique, and an absolute location."""
        context = info.context or {}
        kind = {"methods": "method", "workloads": "workload"}[str(info.field_name)]
        named = []
        for entry in entries:
            written = getattr(entry, kind)
            code = registry.absolute(written, Path(context.get("folder", ".")))
            space = located(entry.space, context)
            if context.get("inside"):
                registry.check_inside(code, Path(context["folder"]))
            (registry.check_method if kind == "method" else registry.check_workload)(code)
            label = entry.name or written.rpartition(":")[2]
            if not LABEL.fullmatch(label):
                raise ValueError(f"{kind} {written!r} needs a `name` of {LABEL_WORDS}; got {label!r}")
            update = {kind: code, "name": label, "space": space}
            if isinstance(entry, MethodEntry):
                update["by_workload"] = {name: located(changes, context) for name, changes in entry.by_workload.items()}
            named.append(entry.model_copy(update=update))
        labels = [entry.name for entry in named]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"names must be unique; set a different `name` for each of: {', '.join(twice)}")
        return named

    @model_validator(mode="after")
    def _compares_one_quantity(self) -> Benchmark:
        compared = [entry.name for entry in self.workloads if entry.other_value is not None]
        if compared and self.evaluate_train is None:
            raise ValueError(
                f"methods on {', '.join(compared)} are compared by {TRAINED}, which is measured with evaluate_train "
                "only: set it, such as evaluate_train: 1"
            )
        objective, methods = self.tuning.objective, sorted({entry.method for entry in self.methods})
        if objective is not None and objective.name == "train_loss" and len(methods) > 1:
            raise ValueError(
                "tuning.objective: train_loss is what each method reports while it trains, in training mode or after "
                f"its epoch, and no common quantity of {', '.join(methods)}: use {TRAINED}, with evaluate_train: 1"
            )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Benchmark:
        bases = [entry.name for entry in self.workloads if entry.variant_of is None]
        taken: dict[str, str] = {}
        for entry in self.workloads:
            base = entry.variant_of
            if base is None:
                continue
            if base not in bases:
                raise ValueError(f"variant_of of {entry.name} must be one of {', '.join(bases) or 'none'}; got {base}")
            if base in taken:
                raise ValueError(f"{base} must have at most one variant; got {taken[base]} and {entry.name}")
            taken[base] = entry.name
        labels = [entry.name for entry in self.workloads]
        for method in self.methods:
            if unknown := sorted(method.by_workload.keys() - set(labels)):
                raise ValueError(
                    f"`by_workload` of {method.name} must name workloads of this file, {', '.join(labels)}; got "
                    f"{', '.join(unknown)}"
                )
            ranks = self.ranks_of(method)
            if self.ranks_per_node and ranks > self.ranks_per_node and ranks % self.ranks_per_node:
                raise ValueError(
                    f"{method.name}: ranks must be divisible by ranks_per_node ({self.ranks_per_node}); got {ranks}"
                )
        return self

    def only(self, names: Sequence[str]) -> Benchmark:
        """A part of it: some of its workloads.

        Raises:
            ValueError: if it has no such workload, or a variant's base is missing.
        """
        labels = [entry.name for entry in self.workloads]
        if unknown := [name for name in names if name not in labels]:
            raise ValueError(
                f"--only must name workloads of {self.name}, {', '.join(labels)}; got {', '.join(unknown)}"
            )
        kept = [entry for entry in self.workloads if entry.name in names]
        if orphans := [
            f"{entry.name} of {entry.variant_of}" for entry in kept if entry.variant_of not in (None, *names)
        ]:
            raise ValueError(f"--only must name a variant's base, too; got only the variant {', '.join(orphans)}")
        methods = [
            entry.model_copy(update={"by_workload": {w: s for w, s in entry.by_workload.items() if w in names}})
            for entry in self.methods
        ]
        return self.model_copy(update={"workloads": kept, "methods": methods})

    def ranks_of(self, method: MethodEntry) -> int:
        """The number of ranks that train together."""
        return method.ranks or self.ranks

    def parts(self) -> Iterator[Part]:
        """All parts in the order in which they run: tuning first, methods in turn."""
        for stage in ("tune", "confirm"):
            for workload in self.workloads:
                for repeat in range(self.tuning.repeats):
                    for method in self.methods:
                        yield Part(workload, method, stage, repeat)

    def study(self, part: Part, folder: Path, configurations: Sequence[dict[str, JsonValue]] = ()) -> Study:
        """The study of a part; a confirmation trains `configurations`.

        Raises:
            ValueError: if the study is invalid; the message starts with the part's name.
        """
        try:
            return Study.model_validate(self._content(part, folder) | self._of_stage(part, configurations))
        except ValueError as error:
            raise ValueError(f"{part.name}: {error}") from None

    def _content(self, part: Part, folder: Path) -> dict[str, Any]:
        whole = registry.whole_space(part.method.method)
        own = part.workload.space | part.method.space | part.method.by_workload.get(part.workload.name, {})
        chosen = {name: _choices(value) for name, value in (dict(whole.fixed) | self.space | own).items()}
        # Other entries have optimizers on which a shared range acts.
        shared = {
            name: value
            for name, value in self.space.items()
            if name not in whole.exclude and acts_with_any(name, chosen)
        }
        space = shared | own
        return {
            "name": f"{self.name}.{part.name}",
            "folder": str(folder / part.name),
            "workload": part.workload.workload,
            "method": part.method.method,
            "target": part.workload.target if part.workload.other_value is None else None,
            "epochs": part.method.epochs or part.workload.epochs,
            "patience": self.patience,
            "evaluate_train": self.evaluate_train,
            "space": {name: dump(value) for name, value in space.items()},
            "constraints": part.method.constraints,
            "trial_timeout": self.trial_timeout,
            "keep_going": True,  # a method all of whose trials fail is a result, and spends the budget of the others
            "data": self.data,
        }

    def _of_stage(self, part: Part, configurations: Sequence[dict[str, JsonValue]]) -> dict[str, Any]:
        ranks = self.ranks_of(part.method)
        per_node = None if self.ranks_per_node is None else min(ranks, self.ranks_per_node)
        topology: dict[str, Any] = {"ranks": ranks, "ranks_per_node": per_node}
        topology |= {"device": self.device, "threads": self.threads}
        seed = self.seed + SEEDS_PER_REPEAT * part.repeat
        if part.stage == "confirm":
            # One worker, so that nothing else trains at the same time, and a sampler with no overhead.
            confirm: dict[str, Any] = {"configurations": list(configurations), "seeds": self.confirmation.seeds}
            if (compared := part.workload.other_value) is not None:
                confirm |= {"compared": compared, "target": part.workload.target}
            return {
                "confirm": confirm,
                "seed": seed + FIRST_CONFIRMATION_SEED,
                "sampler": {"name": "random"},
                "topology": topology,
            }
        tuning = self.tuning
        objectives = None if tuning.objective is None else [tuning.objective.model_dump()]
        return {
            "trials": 1 if part.method.untuned else tuning.trials,
            "busy_seconds": None if part.method.untuned else tuning.busy_seconds,
            "seed": seed,
            "sampler": tuning.sampler.model_dump(),
            "objectives": objectives,
            "pruning": None if tuning.pruning is None else tuning.pruning.model_dump(),
            "topology": topology | {"islands": tuning.islands, "workers": tuning.workers},
        }


def _choices(value: Any) -> Sequence[Any]:
    """The values that a space's entry names: one, or several choices."""
    return getattr(value, "choices", None) or (value,)


def dump(value: Any) -> Any:
    """A space's value in the form of a study file."""
    return value.model_dump() if isinstance(value, Strict) else value


def load(
    file: str, scale: str | None = None, changes: dict[str, Any] | None = None, *, inside: bool = False
) -> Benchmark:
    """Load a benchmark file, or the bundled benchmark of that name, with `changes`.

    `scale` names a reduced version that the file defines.

    Raises:
        FileError: if the file is missing or invalid, or does not define the scale.
    """
    path = yamlfile.locate(bundled.BENCHMARKS, "benchmark", file)

    def scaled(content: dict[str, Any]) -> dict[str, Any]:
        scales = content.pop("scales", None) or {}
        if scale is not None:
            if scale not in scales:
                raise yamlfile.FileError(
                    f"{path}: the scale must be one of {', '.join(scales) or 'none'}; got {scale!r}"
                )
            content = merged(content, scales[scale])
        return content | (changes or {})

    return yamlfile.load(path, Benchmark, inside=inside, change=scaled)


def merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`content` with `changes` merged in recursively; lists, ranges and choices are replaced."""
    result = copy.deepcopy(content)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        is_range = both and not value.keys().isdisjoint(("low", "high", "choices"))
        result[key] = merged(result[key], value) if both and not is_range else copy.deepcopy(value)
    return result
