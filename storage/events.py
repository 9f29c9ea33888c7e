"""The events in a journal: one type per event, with its fields on disk.

A trial's lines are trial_started, then progress, then trial_ended; trial_lost ends a trial whose process is gone. The
names of events and fields are the format on disk: an attribute with another name on disk says so (`_on_disk`). A field
may be added if it has a default for lines without it; any other change needs a new VERSION.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

Line = dict[str, Any]
TrialKey = tuple[int, int]

# What a ledger tells apart, and its figures.
LEDGER_FIELDS = ("operation", "scope", "payload_bytes", "overlapped", "count", "wire_bytes", "seconds_waited")

OF_THE_WRITER = ("time", "elapsed")

# The beginning of a trial's note on what it has changed in its process.
CHANGED = "the trial changed"

# Version 1 had no `journal` line; version 2 no launches, checksums and elapsed seconds. All three are read alike.
VERSION = 3


class MalformedLine(ValueError):
    """A line of a known event that lacks a field, or has a field of the wrong type."""


def _on_disk(name: str, default: Any) -> Any:
    """A field whose attribute has another name than the field on disk."""
    return Field(default=default, validation_alias=name, serialization_alias=name)


class Event(BaseModel):
    """One line of a journal. Fields that it does not know are ignored.

    Attributes:
        time: the time of writing, in seconds since the epoch; set by the writer.
        elapsed: seconds since the writer opened its file, by a monotonic clock; set by the writer.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)

    name: ClassVar[str]
    time: float = 0.0
    elapsed: float | None = None

    def to_line(self) -> Line:
        """The fields on disk, without the event's name and those that the writer sets."""
        fields = ((name, field) for name, field in type(self).model_fields.items() if name not in OF_THE_WRITER)
        return {field.serialization_alias or name: getattr(self, name) for name, field in fields}


class JournalOpened(Event):
    """The first line of a journal.

    Attributes:
        version: the version of its format.
        launch: the launch of the study that it belongs to.
        ends: in the launcher's journal, the sizes at which it closes the journals of earlier launches, by file name.
    """

    name: ClassVar[str] = "journal"
    version: int
    launch: int = 1
    ends: Mapping[str, int] = {}


class StudyStarted(Event):
    """The launcher starts or resumes a study, with its current definition and the version of its provenance."""

    name: ClassVar[str] = "study_started"
    definition: dict[str, Any] | None = None
    num_trials: int | None = None
    provenance: int | None = None


class ProvenanceRecorded(Event):
    """The launcher records what is searched and measured from now on: the first version, or one after a change.

    Attributes:
        version: counts from 1.
        sha256: the hash of the record.
        record: the study's space, code, data, libraries and environment.
        changes: the differences to the version before.
    """

    name: ClassVar[str] = "provenance"
    version: int
    sha256: str
    record: dict[str, Any]
    changes: list[str] = []


class StudyChanged(Event):
    """A change of the study's definition takes effect, as `atoll change` has asked.

    Attributes:
        number: counts the study's changes from 1.
        requested: when it was asked for, in seconds since the epoch.
        settings: each changed setting's name, its values before and after, and the change in words.
        first_trial: the number after those of all trials that had started; lower ones that had not have it, too.
        definition, num_trials: the study's from now on.
        outside: earlier results that the changed space does not hold, by reason; samplers are not told them.
        provenance: the version of the study's provenance from now on.
    """

    name: ClassVar[str] = "study_changed"
    number: int
    requested: float
    settings: list[dict[str, Any]]
    first_trial: int
    definition: dict[str, Any]
    num_trials: int | None = None
    outside: Mapping[str, int] = {}
    provenance: int | None = None


class StudyEnded(Event):
    """The launcher ends a study: complete, stopped or failed, with the reason."""

    name: ClassVar[str] = "study_ended"
    state: str
    reason: str | None = None


class Restarted(Event):
    """The launcher restarts the ranks, because they died."""

    name: ClassVar[str] = "restarted"
    reason: str


class LauncherJoined(Event):
    """A launcher joins a study that others search, with ranks of its own; the first lines of its journal.

    Attributes:
        launcher: its first launch.
        hostname, process: where it runs.
        num_ranks, num_workers: those that it brings.
    """

    name: ClassVar[str] = "joined"
    launcher: int
    hostname: str
    process: int
    num_ranks: int
    num_workers: int


class LauncherLeft(Event):
    """A launcher has left a study that others go on with, or was found dead by one of them.

    Attributes:
        launcher: its first launch.
        reason: why.
    """

    name: ClassVar[str] = "left"
    launcher: int
    reason: str


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
    oversubscribed: bool = Field(False, validation_alias=AliasChoices("oversubscribed", "is_crowded"))  # of version 1
    started_as: int | None = None


class HeardEvent(Event):
    """A line that may tell what its writer has heard, proposed and judged since the last such line.

    Attributes:
        heard: a text that `platform/search/heard.py` writes and reads; empty if there is nothing to tell.
    """

    heard: str = ""

    def to_line(self) -> Line:
        """The fields on disk; without what was heard if it is nothing."""
        line = super().to_line()
        if not self.heard:
            del line["heard"]
        return line


class WorkerFinished(HeardEvent):
    """A worker's root leaves the search, which has ended or stopped; its elapsed seconds count towards the budget."""

    name: ClassVar[str] = "worker_finished"


class TrialEvent(Event):
    """An event of one attempt at a trial."""

    number: int
    attempt: int

    @property
    def key(self) -> TrialKey:
        """The trial's number and attempt."""
        return self.number, self.attempt


class TrialStarted(TrialEvent, HeardEvent):
    """A worker starts a trial.

    Attributes:
        generation: the number of trials that the worker has started before.
        hyperparameters: the searched and fixed ones; `configuration` has all, and everything else that training needs.
        proposal: the origin of the hyperparameters.
        provenance: the version of the record of code, data and libraries.
        home: the island that bred it, if it continues an attempt that has a result. Default: the worker's.
        change: the number of the study's last change, whose space its proposal is in. Default: none.
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
    proposal: dict[str, Any] = {}
    provenance: int | None = None
    home: int | None = None
    change: int = 0

    def to_line(self) -> Line:
        """The fields on disk; without the change of a study that has not changed."""
        line = super().to_line()
        if not self.change:
            del line["change"]
        return line


class ProgressReported(TrialEvent):
    """A trial's report; NaN and infinite numbers are None, and so is what was not evaluated or measured."""

    name: ClassVar[str] = "progress"
    step: int
    epoch: int
    seconds: float
    train_loss: float | None
    validation_loss: float | None
    metric: float | None
    learning_rate: float | None
    wire_bytes: float | None
    metrics: Mapping[str, float | None] = {}


class TrialEnded(TrialEvent, HeardEvent):
    """A trial ends: complete, pruned, failed, or lost because the search was stopped.

    Attributes:
        curve: a pruned trial's metric, or the other objective that pruning compares, by epoch, or by step if reports
            came within epochs.
        traces: the ranks' step traces, for projections.
        worker_seconds: the worker's time for the trial.
        objectives: all objectives if there are several.
    """

    name: ClassVar[str] = "trial_ended"
    state: str
    objective: float | None = None
    metrics: Mapping[str, float | None] | None = None
    seconds: float | None = None
    wire_bytes: float | None = None
    ledger: list[dict[str, Any]] = []
    peak_memory: float | None = None
    reason: str | None = None
    traceback: str | None = None
    notes: list[str] = []
    curve: Mapping[Annotated[int, Field(strict=False)], float | None] | None = None  # JSON's keys are strings
    traces: list[dict[str, Any]] = _on_disk("schedules", default=[])
    worker_seconds: float = _on_disk("busy_seconds", default=0.0)
    objectives: list[float | None] | None = None

    @field_validator("ledger")
    @classmethod
    def _has_all_figures(cls, ledger: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in ledger:
            if missing := [name for name in LEDGER_FIELDS if name not in entry]:
                raise ValueError(f"an entry of the ledger needs {', '.join(missing)}")
        return [{name: entry[name] for name in LEDGER_FIELDS} for entry in ledger]

    @field_validator("traces")
    @classmethod
    def _is_of_a_rank(cls, traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for trace in traces:
            if not isinstance(trace.get("rank"), int):
                raise ValueError(f"a trace needs its rank, an integer; it has {', '.join(trace)}")
        return traces

    def to_line(self) -> Line:
        """The fields on disk; without objectives if there is one only."""
        line = super().to_line()
        if self.objectives is None:
            del line["objectives"]
        return line


class TrialLost(TrialEvent):
    """The launcher ends a trial whose process is gone; the trial is requeued.

    Attributes:
        suspected: whether its worker may have died because of it.
        step: of its newest checkpoint.
    """

    name: ClassVar[str] = "trial_lost"
    reason: str
    suspected: bool = _on_disk("blamed", default=False)
    step: int = 0


class Proposed(HeardEvent):
    """A candidate was prepared for a trial that has not started; a resumed search evaluates it.

    Attributes:
        change: the number of the study's last change, whose space it is in. Default: none.
    """

    name: ClassVar[str] = "proposed"
    number: int
    hyperparameters: dict[str, Any]
    proposal: dict[str, Any]
    change: int = 0


class ProposalRefused(Event):
    """A sampler made an infeasible proposal, with the reason."""

    name: ClassVar[str] = "refused"
    number: int
    hyperparameters: dict[str, Any] = {}
    reason: str | None = None
    genes: dict[str, Any]
    attributes: dict[str, Any]


class RegretBounded(Event):
    """A bound of the incumbent's regret was computed, for the rule `regret` of `stop`.

    Attributes:
        bound: in the objective's unit; None if there is none, as numbers were too large or a matrix was singular.
        incumbent: the objective of the incumbent.
        num_trials: the complete trials that it was computed from.
        length: the unit and number of those trials' length; None for a function's.
        seconds: the computing time.
    """

    name: ClassVar[str] = "regret_bounded"
    bound: float | None
    incumbent: float
    num_trials: int
    length: list[str | int] | None = None
    seconds: float | None = None


class StopRuleMet(Event):
    """A rule of the study's `stop` is met: no further trial starts.

    Attributes:
        rule: target, plateau or regret.
        settings: the rule with its settings, with which it was met; it stands as long as they are the study's.
        length: the unit and number of the length of the trials that have met it; None for a function's.
        reason: in words.
        trial: the number of the trial that has met it, if it is one.
        num_trials: the trials that had ended.
    """

    name: ClassVar[str] = "stop_rule_met"
    rule: str
    settings: dict[str, Any] = {}
    length: list[str | int] | None = None
    reason: str
    trial: int | None = None
    num_trials: int = 0


class Migrated(Event):
    """An individual was sent from one island to another.

    Attributes:
        steps: its number of migrations before. Default: lines in the order of their times count them.
    """

    name: ClassVar[str] = "migrated"
    number: int
    from_island: int
    to_island: int
    steps: int | None = None


EVENTS: Mapping[str, type[Event]] = {
    kind.name: kind
    for kind in (
        JournalOpened,
        StudyStarted,
        StudyChanged,
        ProvenanceRecorded,
        StudyEnded,
        Restarted,
        LauncherJoined,
        LauncherLeft,
        RankPlaced,
        WorkerFinished,
        TrialStarted,
        ProgressReported,
        TrialEnded,
        TrialLost,
        Proposed,
        ProposalRefused,
        Migrated,
        RegretBounded,
        StopRuleMet,
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
    if "time" not in line and kind is not JournalOpened:  # a later version's line may have anything but its version
        raise MalformedLine(_lacks(kind, "time", line))
    try:
        return kind.model_validate(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing" and field not in line:
            raise MalformedLine(_lacks(kind, field, line)) from None
        got = reprlib.repr(first["input"])
        raise MalformedLine(f"a line of {kind.name} cannot be read: {field}: {first['msg']}; got {got}") from None


def _lacks(kind: type[Event], field: str, line: Line) -> str:
    return f"a line of {kind.name} needs the field '{field}'; it has {', '.join(line)}"


def as_line(event: Event) -> Line:
    """The whole line of an event: its name, its time, its fields."""
    return {"event": event.name, "time": event.time, **event.to_line()}
