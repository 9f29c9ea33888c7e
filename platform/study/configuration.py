"""A configuration: everything that a reproducible training needs. `atoll export` writes it, `atoll train` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from atoll.communication import mpi_library
from atoll.methods.common.own import Kind, is_own
from atoll.platform.study import registry
from atoll.platform.study.checkpoint import Checkpointing
from atoll.platform.study.interval import Every, Interval
from atoll.platform.study.loader import Loader
from atoll.platform.study.provenance_record import DataFiles
from atoll.storage import names, yamlfile

if TYPE_CHECKING:
    from atoll.methods.common.optimizers import OptimizerSettings

# Seeds of epochs and ranks are multiples of it by about a million, and torch's seeds have 63 bits.
MAX_SEED = 2**40
Scalar = JsonValue  # a hyperparameter's value
Schedule = dict[str, dict[int, Scalar]]  # values of hyperparameters by the step from which they hold
OWN: tuple[Kind, ...] = ("optimizer", "schedule")  # hyperparameters that may name code of the user


def located(values: dict[str, Any], context: Mapping[str, Any] | None) -> dict[str, Any]:
    """A space's or a configuration's values, with absolute paths of optimizers and schedules in files of the user's.

    Raises:
        UnknownName: if the context says that code must be inside its folder, and a file is not.
    """
    folder, inside = Path((context or {}).get("folder", ".")), bool((context or {}).get("inside"))

    def one(value: Any) -> Any:
        if hasattr(value, "choices"):
            return value.model_copy(update={"choices": [one(choice) for choice in value.choices]})
        return registry.check_own(value, folder, inside=inside)

    return values | {kind: one(values[kind]) for kind in OWN if kind in values}


def check_length(epochs: int | None, steps: int | None) -> None:
    """Raise ValueError if both lengths are given."""
    if epochs is not None and steps is not None:
        raise ValueError(f"a training has a length in epochs or in steps; got epochs {epochs} and steps {steps}")


def check_observe(observe: int | None, report_every: Every | None, evaluate_every: Every | None) -> None:
    """Raise ValueError if layers are to be observed, which is after epochs, and evaluations come at other times."""
    others = [every for every in (report_every, evaluate_every) if every not in (None, Every(1, "epochs"))]
    if observe is not None and others:
        raise ValueError(
            "observe compares layers after every epoch, so report_every and evaluate_every must be absent or 1 epochs; "
            f"got {', '.join(map(str, others))}"
        )


class Configuration(BaseModel):
    """A workload, a method, all hyperparameters, and the training's environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: str
    method: str
    hyperparameters: dict[str, Scalar] = Field(default_factory=dict)
    schedule: Schedule | None = Field(
        default=None,
        description="values of hyperparameters that change in mid-training, by the step from which they hold: "
        "{learning_rate: {0: 0.1, 300: 0.05}}; `hyperparameters` has the last ones. Default: none changes",
    )
    epochs: int | None = Field(default=None, ge=1, description="number of epochs. Default: the workload's")
    steps: int | None = Field(default=None, ge=1, description="number of steps, instead of epochs")
    report_every: Interval | None = Field(default=None, description="interval of reports. Default: 1 epochs")
    evaluate_every: Interval | None = Field(
        default=None, description="shortest interval of evaluations, which reports make. Default: every report"
    )
    objective_from: Literal["last", "best"] = Field(
        default="last", description="the report whose metric is the objective"
    )
    patience: int | None = Field(
        default=None, ge=1, description="evaluations without a better metric that end the training. Default: never"
    )
    checkpoint: Checkpointing | None = Field(default=None, description="checkpoints. Default: none")
    loader: Loader | None = Field(default=None, description="how a data set is loaded. Default: by the rank itself")
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    ranks: int = Field(default=1, ge=1)
    ranks_per_node: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1, description="torch threads per rank")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: str | None = Field(default=None, description="folder with the data files")
    observe: int | None = Field(
        default=None, ge=1, description="record how much each layer changed over this many epochs"
    )
    evaluate_train: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the training data on which the evaluated network's loss is measured. Default: none",
    )
    versions: dict[str, str] = Field(default_factory=dict)
    origin: dict[str, Any] = Field(default_factory=dict)

    def at(self, step: int) -> dict[str, Scalar]:
        """The hyperparameters that hold from step `step` on, after so many completed steps.

        Example:
            >>> configuration = Configuration.model_construct(
            ...     hyperparameters={"learning_rate": 0.05, "momentum": 0.9},
            ...     schedule={"learning_rate": {0: 0.1, 300: 0.05}},
            ... )
            >>> configuration.at(299), configuration.at(300)["learning_rate"]
            ({'learning_rate': 0.1, 'momentum': 0.9}, 0.05)
        """
        if self.schedule is None:
            return self.hyperparameters
        past = history(self.hyperparameters, self.schedule, step + 1)
        return {name: values[max(values)] for name, values in past.items()}

    def changes(self) -> list[int]:
        """The steps at which hyperparameters change, ascending."""
        return sorted({step for values in (self.schedule or {}).values() for step in values if step})

    @property
    def calls_function(self) -> bool:
        """Whether a function of the user's is called, and nothing is trained by atoll."""
        return self.method == names.FUNCTION

    @model_validator(mode="after")
    def _one_length(self) -> Configuration:
        check_length(self.epochs, self.steps)
        check_observe(self.observe, self.report_every, self.evaluate_every)
        return self

    @model_validator(mode="after")
    def _schedule_ends_with_the_hyperparameters(self) -> Configuration:
        for name, values in (self.schedule or {}).items():
            if 0 not in values or min(values) < 0:
                raise ValueError(f"schedule.{name} needs values from step 0 on; got {', '.join(map(str, values))}")
            if name not in self.hyperparameters or values[max(values)] != self.hyperparameters[name]:
                raise ValueError(
                    f"hyperparameters.{name} must be the last value of schedule.{name}, {values[max(values)]!r}; got "
                    f"{self.hyperparameters.get(name)!r}"
                )
        if self.schedule and self.calls_function:
            raise ValueError("schedule is for trainings by atoll; a function reads its hyperparameters once: omit it")
        return self

    @field_validator("workload", "method")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        folder = Path((info.context or {}).get("folder", "."))
        name = registry.absolute(name, folder)
        if (info.context or {}).get("inside"):
            registry.check_inside(name, folder)
        (registry.check_workload if info.field_name == "workload" else registry.check_method)(name)
        return name

    @field_validator("hyperparameters")
    @classmethod
    def _own(cls, hyperparameters: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        return located(hyperparameters, info.context)


def history(
    hyperparameters: Mapping[str, Scalar], schedule: Mapping[str, Mapping[Any, Scalar]] | None, until: int
) -> Schedule:
    """All values that hyperparameters have had in the first `until` steps of a training, at least one each.

    Args:
        hyperparameters: the last ones.
        schedule: see `Configuration`; its steps may be text, as in JSON.
        until: a number of steps.
    """
    known = numbered(schedule or {})
    return {
        name: {step: v for step, v in known.get(name, {0: value}).items() if step < max(until, 1)}
        for name, value in hyperparameters.items()
    }


def numbered(schedule: Mapping[str, Mapping[Any, Scalar]]) -> Schedule:
    """A schedule whose steps are numbers; in JSON they are text."""
    return {name: {int(step): value for step, value in values.items()} for name, values in schedule.items()}


class CodeFile(BaseModel):
    """A file of user code, as it was when a trial was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    sha256: str


class ExportedConfiguration(Configuration):
    """A configuration in a file: its paths are relative to the file, and it tells the code and data of its trial."""

    code: list[CodeFile] = Field(default_factory=list)
    data_files: dict[str, DataFiles] = Field(default_factory=dict)

    @field_validator("code")
    @classmethod
    def _absolute(cls, code: list[CodeFile], info: ValidationInfo) -> list[CodeFile]:
        folder = Path((info.context or {}).get("folder", "."))
        return [file.model_copy(update={"path": str((folder / file.path).resolve())}) for file in code]

    def configuration(self) -> Configuration:
        """The configuration alone."""
        return Configuration.model_construct(**{name: getattr(self, name) for name in Configuration.model_fields})


def read_configurations(file: Path, *, inside: bool = False) -> list[ExportedConfiguration]:
    """The configurations of a file from `atoll export`, at least one. Raises FileError.

    Args:
        file: the file.
        inside: whether the code that it names must be in its folder.
    """
    content = yamlfile.read(yamlfile.text_of(file), str(file))
    if not isinstance(content, dict) or "configurations" not in content:
        return [yamlfile.load(file, ExportedConfiguration, inside=inside)]
    entries = content["configurations"]
    return [
        yamlfile.validate(entry, ExportedConfiguration, source=str(file), folder=file.parent, inside=inside)
        for entry in entries
    ]


def versions() -> dict[str, str]:
    """The versions of the installed packages that a result depends on, and of the MPI library that this rank uses."""
    library = mpi_library.loaded()
    return dict(_installed()) if library is None else _installed() | {names.MPI: library}


@cache
def _installed() -> dict[str, str]:
    installed = {}
    for package in ("atoll", "torch", "numpy", "mpi4py", "propulate"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def complete_hyperparameters(
    method_name: str, workload_name: str, hyperparameters: dict[str, Scalar]
) -> dict[str, Scalar]:
    """The hyperparameters, completed with the defaults of method, optimizer and workload.

    A default of None stands for a value that the method derives, and is left out; the learning rate is the optimizer's.
    """
    if method_name == names.FUNCTION:
        return hyperparameters
    from atoll.methods.common.optimizers import default_rate

    method = registry.method(method_name)
    known = _names(method.Hyperparameters, registry.workload_class(workload_name).Hyperparameters)
    defaults = {name: default for name, default in known.defaults.items() if default not in (MISSING, None)}
    complete = defaults | dict(method.optimizer_defaults) | hyperparameters
    if hyperparameters.get("global_batch_size") and "batch_size" not in hyperparameters:
        del complete["batch_size"]
    return {"learning_rate": default_rate(complete["optimizer"])} | complete


@dataclass(frozen=True)
class _Names:
    """The names of hyperparameters, and the defaults of all in the order method, workload, optimizer."""

    of_method: frozenset[str]
    of_workload: frozenset[str]
    of_optimizer: frozenset[str]
    defaults: Mapping[str, Any]


@cache
def _names(of_method: type, of_workload: type) -> _Names:
    """The names by dataclass; cached, because every trial asks."""
    from atoll.methods.common.optimizers import OptimizerSettings

    defaults = [
        {field.name: field.default for field in fields(kind)} for kind in (of_method, of_workload, OptimizerSettings)
    ]
    method, workload, optimizer = (frozenset(some) for some in defaults)
    return _Names(method, workload, optimizer, defaults[0] | defaults[1] | defaults[2])


def check_configuration(configuration: Configuration) -> None:
    """Check the hyperparameters of a training at its start and at each of their changes; see `split_hyperparameters`.

    Raises:
        ValueError: also for a change of what cannot change in mid-training.
    """
    from atoll.methods.common import optimizers

    own_optimizer = str(configuration.hyperparameters.get("optimizer", "sgd"))
    mutable = [*registry.method(configuration.method).mutable, *optimizers.mutable(own_optimizer)]
    if fixed := sorted((configuration.schedule or {}).keys() - set(mutable)):
        raise ValueError(
            f"schedule cannot change {', '.join(fixed)} in mid-training; with {configuration.method} it can change "
            f"{', '.join(mutable)}"
        )
    for step in (0, *configuration.changes()):
        split_hyperparameters(configuration.method, configuration.workload, configuration.at(step), configuration.ranks)


def _check_types(defaults: Mapping[str, Any], given: dict[str, Any]) -> None:
    """Raise ValueError for a value whose type is not its default's; an integer is accepted as a float.

    A default of None belongs to a float that the method can derive.
    """
    for name, value in given.items():
        expected = float if defaults[name] is None else type(defaults[name])
        if defaults[name] is not MISSING and type(value) is not expected and (expected, type(value)) != (float, int):
            raise ValueError(f"{name} must be of type {expected.__name__}; got {value!r}")


def split_hyperparameters(
    method_name: str, workload_name: str, hyperparameters: Mapping[str, Scalar], num_ranks: int
) -> tuple[Any, OptimizerSettings, Any]:
    """Split one flat dictionary into the method's, the optimizer's and the workload's validated hyperparameters.

    Raises:
        ValueError: for an unknown name (the message lists the valid ones) or a value out of range.
        NotApplicable: if the method cannot train this way, such as on `num_ranks` ranks.
    """
    from atoll.methods.common.optimizers import OptimizerSettings

    method = registry.method(method_name)
    of_method, of_network = method.Hyperparameters, registry.workload_class(workload_name).Hyperparameters
    known = _names(of_method, of_network)
    own, shared, of_workload = known.of_method, known.of_optimizer, known.of_workload
    given: dict[str, Any] = dict(hyperparameters)
    unknown = sorted(given.keys() - known.defaults.keys())
    if unknown:
        also = f", {', '.join(sorted(of_workload))} of the workload" if of_workload else ""
        raise ValueError(
            f"{method_name} has no hyperparameter {', '.join(unknown)}; valid are {', '.join(sorted(own)) or 'none'} "
            f"of the method{also}, and {', '.join(sorted(shared))} of the optimizer"
        )
    _check_types(known.defaults, given)
    settings = dict(method.optimizer_defaults) | {name: value for name, value in given.items() if name in shared}
    if given.get("global_batch_size") and "batch_size" in given:
        raise ValueError(
            f"batch_size (samples per rank) and global_batch_size (of all ranks) exclude each other; got "
            f"{given['batch_size']} and {given['global_batch_size']}"
        )
    values = of_method(**{name: value for name, value in given.items() if name in own})
    num_training = max(1, num_ranks - method.num_servers(values))
    of_optimizer = OptimizerSettings(**settings).for_ranks(num_training)
    split = values, of_optimizer
    method.check(*split, num_ranks)
    for kind in OWN:
        if is_own(kind, name := getattr(of_optimizer, kind)):
            registry.own(kind, name, registry.workload(workload_name))
    return (*split, of_network(**{name: value for name, value in given.items() if name in of_workload}))
