"""The batch system of a cluster: what job scripts for it contain."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

System = Literal["slurm", "pbs", "torque", "lsf"]
Launcher = Literal["atoll", "srun", "mpiexec"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+,/-]*")
_SPAN = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)|(?P<number>\d+) ?(?P<unit>[smhd])"
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """The seconds of a time limit.

    Raises:
        ValueError: unless it is like one of the examples.

    Example:
        >>> seconds("4:00:00"), seconds("1-00:00:00"), seconds("90m"), seconds("45 s")
        (14400, 86400, 5400, 45)
        >>> seconds("4:00")
        Traceback (most recent call last):
        ValueError: a time limit must be [days-]hours:minutes:seconds such as 4:00:00, or 45s, 90m, 4h, 2d; got '4:00'
    """
    found = _SPAN.fullmatch(text.strip())
    parts = {} if found is None else {name: value for name, value in found.groupdict().items() if value is not None}
    if "number" in parts:
        total = int(parts["number"]) * _UNITS[parts["unit"]]
    else:
        total = sum(int(parts.get(name, 0)) * _UNITS[name[0]] for name in ("days", "hours", "minutes", "seconds"))
    if total == 0:
        raise ValueError(
            f"a time limit must be [days-]hours:minutes:seconds such as 4:00:00, or 45s, 90m, 4h, 2d; got {text[:60]!r}"
        )
    return total


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"must be one line of printable characters; got {text[:60]!r}")
    return text


def _plain(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"must have letters, digits and _.:@+,/- only, and not start with a dash; got {text[:60]!r}")
    return text


Line = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_one_line)]
Word = Annotated[str, Field(max_length=200), AfterValidator(_plain)]


class Batch(BaseModel):
    """The section `batch` of a cluster file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    system: System = Field(description="slurm, pbs (PBS Pro and OpenPBS), torque or lsf")
    partition: Word | None = Field(
        default=None,
        validation_alias=AliasChoices("partition", "queue"),
        description="partition of Slurm, or queue of the others; `queue` is the same key. Default: the site's",
    )
    account: Word | None = Field(default=None, description="account, or project, to charge. Default: the site's")
    time: str = Field(default="1:00:00", description="time limit of a job, unless --time sets it")
    stop_seconds: int = Field(
        default=120, ge=1, le=86400, description="seconds before the time limit at which the search is asked to stop"
    )
    cores_per_node: int | None = Field(
        default=None, ge=1, le=4096, description="cores of a node, shared by its ranks. Default: not requested"
    )
    gpus_per_node: int = Field(default=0, ge=0, le=64, description="GPUs of a node; each rank has one to itself")
    modules: tuple[Word, ...] = Field(default=(), description="environment modules to load, in order")
    setup: tuple[Line, ...] = Field(
        default=(), description="lines of shell that run in each job after the modules, as they are"
    )
    environment: dict[str, Line] = Field(default={}, description="variables to export; values are quoted")
    venv: Line | None = Field(
        default=None, description="folder of the virtual environment with atoll. Default: that of `atoll submit`"
    )
    launcher: Launcher = Field(
        default="atoll",
        description="atoll: atoll starts mpiexec, and restarts ranks that die; srun or mpiexec: the script starts the "
        "ranks, for sites where only that works",
    )
    launcher_options: tuple[Line, ...] = Field(
        default=(), description="further arguments of srun or mpiexec, each quoted"
    )
    options: tuple[Line, ...] = Field(
        default=(), description="further options for the batch system, one a line, such as --constraint=a100"
    )

    @field_validator("time")
    @classmethod
    def _time(cls, time: str) -> str:
        seconds(time)
        return time

    @field_validator("environment")
    @classmethod
    def _names(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"a variable's name must have letters, digits and underscores; got {name[:60]!r}")
        return environment

    @field_validator("options")
    @classmethod
    def _dashes(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not option.startswith("-"):
                raise ValueError(f"an option must start with a dash; got {option[:60]!r}")
        return options

    @model_validator(mode="after")
    def _fits_the_system(self) -> Batch:
        if self.launcher == "srun" and self.system != "slurm":
            raise ValueError(f"launcher srun needs system slurm; with {self.system}, use atoll or mpiexec")
        return self
