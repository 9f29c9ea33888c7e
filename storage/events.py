"""The events in a journal: one type per event, with explicit writing and reading.

A trial's lines are trial_started, then progress, then trial_ended; trial_lost ends a trial whose process is gone. The
names of events and their fields are the format on disk: renaming a class or attribute must not change them. A field
may be added if `from_line` has a default for lines without it; any other change needs a new VERSION. A line needs the
fields that resuming or the store needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

Line = dict[str, Any]
TrialKey = tuple[int, int]

# What a ledger tells apart, and its figures.
LEDGER_FIELDS = ("operation", "scope", "payload_bytes", "overlapped", "count", "wire_bytes", "seconds_waited")

# Version 1 had no `journal` line. Its other lines are read as those of version 2.
VERSION = 2


class MalformedLine(ValueError):
    """A line of a known event that lacks a field, or has a field of the wrong type."""


@dataclass(frozen=True, kw_only=True)
class Event(ABC):
    """One line of a journal.

    Attributes:
        time: the time of writing, in seconds since the epoch; set by the writer.
    """

    name: ClassVar[str]
    time: float = 0.0

    @abstractmethod
    def to_line(self) -> Line:
        """The fields on disk, without the event's name and time."""

    @classmethod
    @abstractmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line. Raises KeyError, TypeError or ValueError if it is invalid."""


@dataclass(frozen=True, kw_only=True)
class JournalOpened(Event):
    """The first line of a journal: the version of its format."""

    name: ClassVar[str] = "journal"
    version: int = VERSION

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"version": self.version}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(time=line.get("time", 0.0), version=_integer(line, "version"))


@dataclass(frozen=True, kw_only=True)
class StudyStarted(Event):
    """The launcher starts or resumes a study, with its current definition."""

    name: ClassVar[str] = "study_started"
    definition: dict[str, Any] | None
    num_trials: int | None

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"definition": self.definition, "num_trials": self.num_trials}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(time=_time(line), definition=line.get("definition"), num_trials=line.get("num_trials"))


@dataclass(frozen=True, kw_only=True)
class StudyEnded(Event):
    """The launcher ends a study: complete, stopped or failed, with the reason."""

    name: ClassVar[str] = "study_ended"
    state: str
    reason: str | None

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"state": self.state, "reason": self.reason}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(time=_time(line), state=line["state"], reason=line.get("reason"))


@dataclass(frozen=True, kw_only=True)
class Restarted(Event):
    """The launcher restarts the ranks, because they died."""

    name: ClassVar[str] = "restarted"
    reason: str

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"reason": self.reason}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(time=_time(line), reason=line["reason"])


@dataclass(frozen=True, kw_only=True)
class RankPlaced(Event):
    """The placement of a worker's rank."""

    name: ClassVar[str] = "host"
    world_rank: int
    island: int
    worker: int
    rank: int
    node: int
    hostname: str
    device: str
    threads: int
    process: int
    processor: str | None = None
    cores: int | None = None
    oversubscribed: bool = False

    def to_line(self) -> Line:
        """The fields on disk."""
        return {
            "world_rank": self.world_rank,
            "island": self.island,
            "worker": self.worker,
            "rank": self.rank,
            "node": self.node,
            "hostname": self.hostname,
            "device": self.device,
            "threads": self.threads,
            "process": self.process,
            "processor": self.processor,
            "cores": self.cores,
            "oversubscribed": self.oversubscribed,
        }

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            world_rank=_integer(line, "world_rank"),
            island=_integer(line, "island"),
            worker=_integer(line, "worker"),
            rank=line["rank"],
            node=line["node"],
            hostname=line["hostname"],
            device=line["device"],
            threads=line["threads"],
            process=line["process"],
            processor=line.get("processor"),
            cores=line.get("cores"),
            oversubscribed=bool(line.get("oversubscribed", line.get("is_crowded", False))),
        )


@dataclass(frozen=True, kw_only=True)
class TrialEvent(Event):
    """An event of one attempt at a trial."""

    number: int
    attempt: int

    @property
    def key(self) -> TrialKey:
        """The trial's number and attempt."""
        return self.number, self.attempt


@dataclass(frozen=True, kw_only=True)
class TrialStarted(TrialEvent):
    """A worker starts a trial.

    Attributes:
        generation: the number of trials that the worker has started before.
        hyperparameters: the searched and fixed ones; `configuration` has all, and everything else that training needs.
        proposal: the origin of the hyperparameters.
    """

    name: ClassVar[str] = "trial_started"
    island: int
    worker: int
    generation: int = 0
    seed: int
    host: str | None = None
    oversubscribed: bool | None = None
    hyperparameters: dict[str, Any]
    configuration: dict[str, Any]
    proposal: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> Line:
        """The fields on disk."""
        return {
            "number": self.number,
            "attempt": self.attempt,
            "island": self.island,
            "worker": self.worker,
            "generation": self.generation,
            "seed": self.seed,
            "host": self.host,
            "oversubscribed": self.oversubscribed,
            "hyperparameters": self.hyperparameters,
            "configuration": self.configuration,
            "proposal": self.proposal,
        }

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            attempt=_integer(line, "attempt"),
            island=_integer(line, "island"),
            worker=_integer(line, "worker"),
            generation=line.get("generation") or 0,
            seed=_integer(line, "seed"),
            host=line.get("host"),
            oversubscribed=line.get("oversubscribed"),
            hyperparameters=_mapping(line, "hyperparameters"),
            configuration=_mapping(line, "configuration"),
            proposal=line.get("proposal") or {},
        )


@dataclass(frozen=True, kw_only=True)
class ProgressReported(TrialEvent):
    """A trial's report after an epoch; NaN and infinite numbers are None."""

    name: ClassVar[str] = "progress"
    step: int
    epoch: int
    seconds: float
    train_loss: float | None
    validation_loss: float | None
    metric: float | None
    learning_rate: float | None
    wire_bytes: float
    metrics: dict[str, float] = field(default_factory=dict)

    def to_line(self) -> Line:
        """The fields on disk."""
        return {
            "number": self.number,
            "attempt": self.attempt,
            "step": self.step,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "metric": self.metric,
            "learning_rate": self.learning_rate,
            "wire_bytes": self.wire_bytes,
            "metrics": self.metrics,
        }

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            attempt=_integer(line, "attempt"),
            step=line["step"],
            epoch=line["epoch"],
            seconds=line["seconds"],
            train_loss=line["train_loss"],
            validation_loss=line["validation_loss"],
            metric=line["metric"],
            learning_rate=line["learning_rate"],
            wire_bytes=line["wire_bytes"],
            metrics=line.get("metrics") or {},
        )


@dataclass(frozen=True, kw_only=True)
class TrialEnded(TrialEvent):
    """A trial ends: complete, pruned, failed, or lost because the search was stopped.

    Attributes:
        objectives: all objectives if there are several.
        curve: a pruned trial's metric by epoch.
        traces: the ranks' step traces, for projections; `schedules` on disk.
        worker_seconds: the worker's time for the trial; `busy_seconds` on disk.
    """

    name: ClassVar[str] = "trial_ended"
    state: str
    objective: float | None = None
    objectives: list[float | None] | None = None
    metrics: dict[str, float] | None = None
    seconds: float | None = None
    wire_bytes: float | None = None
    ledger: list[dict[str, Any]] = field(default_factory=list)
    peak_memory: float | None = None
    reason: str | None = None
    traceback: str | None = None
    notes: list[str] = field(default_factory=list)
    curve: dict[int, float] | None = None
    traces: list[dict[str, Any]] = field(default_factory=list)
    worker_seconds: float = 0.0

    def to_line(self) -> Line:
        """The fields on disk."""
        line: Line = {
            "number": self.number,
            "attempt": self.attempt,
            "state": self.state,
            "objective": self.objective,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "wire_bytes": self.wire_bytes,
            "ledger": self.ledger,
            "peak_memory": self.peak_memory,
            "reason": self.reason,
            "traceback": self.traceback,
            "notes": self.notes,
            "curve": self.curve,
            "schedules": self.traces,
            "busy_seconds": self.worker_seconds,
        }
        return line if self.objectives is None else line | {"objectives": self.objectives}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        curve = line.get("curve")
        traces = line.get("schedules") or []
        for trace in traces:
            _integer(trace, "rank")
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            attempt=_integer(line, "attempt"),
            state=line["state"],
            objective=line.get("objective"),
            objectives=line.get("objectives"),
            metrics=line.get("metrics"),
            seconds=line.get("seconds"),
            wire_bytes=line.get("wire_bytes"),
            ledger=[{name: entry[name] for name in LEDGER_FIELDS} for entry in line.get("ledger") or []],
            peak_memory=line.get("peak_memory"),
            reason=line.get("reason"),
            traceback=line.get("traceback"),
            notes=line.get("notes") or [],
            curve=None if curve is None else {int(epoch): value for epoch, value in curve.items()},
            traces=traces,
            worker_seconds=float(line.get("busy_seconds") or 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class TrialLost(TrialEvent):
    """The launcher ends a trial whose process is gone; the trial is requeued.

    Attributes:
        suspected: whether its worker may have died because of it; `blamed` on disk.
    """

    name: ClassVar[str] = "trial_lost"
    reason: str
    suspected: bool = False

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"number": self.number, "attempt": self.attempt, "reason": self.reason, "blamed": self.suspected}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            attempt=_integer(line, "attempt"),
            reason=line["reason"],
            suspected=bool(line.get("blamed")),
        )


@dataclass(frozen=True, kw_only=True)
class Proposed(Event):
    """A candidate was prepared for a trial that has not started; a resumed search evaluates it."""

    name: ClassVar[str] = "proposed"
    number: int
    hyperparameters: dict[str, Any]
    proposal: dict[str, Any]

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"number": self.number, "hyperparameters": self.hyperparameters, "proposal": self.proposal}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            hyperparameters=_mapping(line, "hyperparameters"),
            proposal=_mapping(line, "proposal"),
        )


@dataclass(frozen=True, kw_only=True)
class ProposalRefused(Event):
    """A sampler made an infeasible proposal, with the reason."""

    name: ClassVar[str] = "refused"
    number: int
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    genes: dict[str, Any]
    attributes: dict[str, Any]

    def to_line(self) -> Line:
        """The fields on disk."""
        return {
            "number": self.number,
            "hyperparameters": self.hyperparameters,
            "reason": self.reason,
            "genes": self.genes,
            "attributes": self.attributes,
        }

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            hyperparameters=line.get("hyperparameters") or {},
            reason=line.get("reason"),
            genes=_mapping(line, "genes"),
            attributes=_mapping(line, "attributes"),
        )


@dataclass(frozen=True, kw_only=True)
class Migrated(Event):
    """An individual was sent from one island to another."""

    name: ClassVar[str] = "migrated"
    number: int
    from_island: int
    to_island: int

    def to_line(self) -> Line:
        """The fields on disk."""
        return {"number": self.number, "from_island": self.from_island, "to_island": self.to_island}

    @classmethod
    def from_line(cls, line: Line) -> Self:
        """Read a line."""
        return cls(
            time=_time(line),
            number=_integer(line, "number"),
            from_island=_integer(line, "from_island"),
            to_island=_integer(line, "to_island"),
        )


EVENTS: Mapping[str, type[Event]] = {
    kind.name: kind
    for kind in (
        JournalOpened,
        StudyStarted,
        StudyEnded,
        Restarted,
        RankPlaced,
        TrialStarted,
        ProgressReported,
        TrialEnded,
        TrialLost,
        Proposed,
        ProposalRefused,
        Migrated,
    )
}


def parse(line: Line) -> Event | None:
    """The event of a line; None if this version does not know the event.

    Raises:
        MalformedLine: for an invalid line of a known event.
    """
    kind = EVENTS.get(line["event"])
    if kind is None:
        return None
    try:
        return kind.from_line(line)
    except KeyError as error:
        raise MalformedLine(f"a line of {kind.name} needs the field {error}; it has {', '.join(line)}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise MalformedLine(f"a line of {kind.name} cannot be read: {error}") from None


def as_line(event: Event) -> Line:
    """The whole line of an event: its name, its time, its fields."""
    return {"event": event.name, "time": event.time, **event.to_line()}


def _time(line: Line) -> float:
    time = line["time"]
    if not isinstance(time, int | float):
        raise TypeError(f"time must be a number; it is {time!r}")
    return float(time)


def _integer(line: Line, name: str) -> int:
    value = line[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    return value


def _mapping(line: Line, name: str) -> dict[str, Any]:
    value = line[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be an object; got {value!r}")
    return value
