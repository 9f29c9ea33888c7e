"""The tables. Times are seconds since the epoch, UTC; durations are seconds; sizes are bytes."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, Text, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The declarative base. Texts have no length: SQLite would ignore one, and PostgreSQL refuse a longer text."""

    # SQLite assigns keys only if their type is spelled INTEGER.
    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON,
        list[Any]: JSON,
        float: Float(53),
        int: BigInteger().with_variant(Integer, "sqlite"),
    }


class BenchmarkRow(Base):
    """A benchmark: its studies refer to it once they have started."""

    __tablename__ = "benchmark"

    id: Mapped[int] = mapped_column(primary_key=True, doc="identifies the row")
    name: Mapped[str] = mapped_column(unique=True, doc="its name")
    uid: Mapped[str] = mapped_column(doc="identifies its files: the same as in its folder")
    folder: Mapped[str] = mapped_column(Text, doc="its folder, an absolute path on the host that started it")
    definition: Mapped[dict[str, Any]] = mapped_column(doc="the benchmark file with all defaults")
    num_studies: Mapped[int] = mapped_column(doc="number of its studies, started or not")
    started: Mapped[float] = mapped_column(doc="when it was started; seconds since the epoch")


class StudyRow(Base):
    """One search, or one set of confirmation trainings."""

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True, doc="identifies the row")
    name: Mapped[str] = mapped_column(unique=True, doc="its name; readers may change it in the dashboard")
    state: Mapped[str] = mapped_column(doc="running, complete, stopped or failed; running, too, if its launcher died")
    workload: Mapped[str] = mapped_column(doc="the workload, as in the study file, with an absolute path")
    method: Mapped[str] = mapped_column(doc="the method, likewise")
    metric: Mapped[str] = mapped_column(doc="name of the objective; of the first one if there are several")
    direction: Mapped[str] = mapped_column(doc="minimize or maximize: that of `metric`")
    target: Mapped[float | None] = mapped_column(doc="value of the workload's metric that counts as solved")
    num_trials: Mapped[int | None] = mapped_column(doc="budget in trials; null if the budget is in seconds only")
    definition: Mapped[dict[str, Any]] = mapped_column(doc="the study file with all defaults")
    folder: Mapped[str] = mapped_column(Text, doc="its folder, an absolute path on the host that started it")
    uid: Mapped[str | None] = mapped_column(doc="identifies its files: the same as in its folder")
    started: Mapped[float] = mapped_column(doc="when it was started first; seconds since the epoch")
    finished: Mapped[float | None] = mapped_column(
        doc="when it ended last; seconds since the epoch; null while it runs"
    )
    reason: Mapped[str | None] = mapped_column(Text, doc="why it stopped or failed, or which rule of stop ended it")
    objectives: Mapped[list[Any] | None] = mapped_column(
        doc="names and directions of all objectives if there are several"
    )
    curve_metric: Mapped[str | None] = mapped_column(
        doc="the workload's metric, which every report has, even if it is not an objective"
    )
    num_refused: Mapped[int] = mapped_column(
        server_default="0", doc="number of infeasible proposals, which were not trained"
    )
    benchmark_id: Mapped[int | None] = mapped_column(
        ForeignKey("benchmark.id", ondelete="CASCADE"), index=True, doc="the benchmark that it is a part of"
    )
    stage: Mapped[str | None] = mapped_column(doc="in a benchmark: tune or confirm")
    repeat: Mapped[int | None] = mapped_column(doc="in a benchmark: the index of the tuning, from 0")
    method_label: Mapped[str | None] = mapped_column(doc="in a benchmark: its name of the method")
    workload_label: Mapped[str | None] = mapped_column(doc="in a benchmark: its name of the workload")
    archived: Mapped[bool] = mapped_column(server_default=false(), doc="whether it is listed on request only")

    @property
    def is_imported(self) -> bool:
        """Whether it was searched elsewhere: it has no files, and cannot be resumed."""
        return self.definition.get("imported_from") is not None

    @property
    def all_objectives(self) -> list[dict[str, Any]]:
        """Each objective's name and direction, also if there is one."""
        return list(self.objectives or [{"name": self.metric, "direction": self.direction}])


class TrialRow(Base):
    """One training of one configuration.

    A trial that was lost, or that continues after it had a result, has a next attempt,
    which is a row of its own.
    """

    __tablename__ = "trial"
    __table_args__ = (
        UniqueConstraint("study_id", "number", "attempt"),
        Index("trial_by_objective", "study_id", "state", "objective"),
        Index("trial_by_id", "study_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, doc="identifies the row")
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), doc="its study")
    number: Mapped[int] = mapped_column(doc="counts the study's trials, from 0")
    attempt: Mapped[int] = mapped_column(doc="counts the attempts at the number, from 0")
    island: Mapped[int] = mapped_column(doc="the island of its worker, from 0")
    worker: Mapped[int] = mapped_column(doc="its worker, counted over all islands, from 0")
    generation: Mapped[int] = mapped_column(doc="number of trials that the worker had started before")
    state: Mapped[str] = mapped_column(
        doc="running, complete, pruned (a paused one, too), failed, lost (its ranks ended before it did), or "
        "continued: a result that the next attempt replaces"
    )
    seed: Mapped[int] = mapped_column(doc="the seed of the training: the study's plus `number`")
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(doc="the searched and fixed hyperparameters, by name")
    configuration: Mapped[dict[str, Any]] = mapped_column(
        doc="everything that trains it again: what `atoll export` writes"
    )
    objective: Mapped[float | None] = mapped_column(doc="value of the study's `metric`; null unless complete")
    metrics: Mapped[dict[str, Any] | None] = mapped_column(
        doc="other final measurements by name; `seconds_compute`, `seconds_waiting` and `seconds_data` are parts of "
        "the training time, means over ranks, in seconds"
    )
    seconds: Mapped[float | None] = mapped_column(
        doc="training time of the worker's root, without evaluation, in seconds"
    )
    wire_bytes: Mapped[float | None] = mapped_column(doc="bytes sent by all of its ranks in training")
    peak_memory: Mapped[float | None] = mapped_column(doc="largest resident memory of one of its ranks, in bytes")
    host: Mapped[str | None] = mapped_column(doc="host of the worker's root")
    started: Mapped[float] = mapped_column(doc="when it started; seconds since the epoch")
    finished: Mapped[float | None] = mapped_column(doc="when it ended; seconds since the epoch")
    reason: Mapped[str | None] = mapped_column(Text, doc="why it was pruned, failed or lost, at most 2,000 characters")
    traceback: Mapped[str | None] = mapped_column(Text, doc="the failed rank's traceback, at most 20,000 characters")
    objectives: Mapped[list[Any] | None] = mapped_column(
        doc="values of all objectives, in the order of the study's, if there are several"
    )
    proposal: Mapped[dict[str, Any] | None] = mapped_column(
        doc="the origin of the hyperparameters: operator, parents, the source of each gene, and the time to propose"
    )
    oversubscribed: Mapped[bool | None] = mapped_column(
        doc="whether its ranks shared cores or a GPU, so that its times are not comparable"
    )
    note: Mapped[str | None] = mapped_column(Text, doc="a reader's annotation, from the dashboard")
    provenance: Mapped[int | None] = mapped_column(
        doc="version of the study's provenance; null if the trial is older than these records"
    )
    notes: Mapped[list[Any] | None] = mapped_column(
        doc="remarks of the method, and what the trial changed in its process"
    )


class ProgressRow(Base):
    """A trial's report, by default after every epoch."""

    __tablename__ = "progress"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True, doc="its trial")
    step: Mapped[int] = mapped_column(primary_key=True, doc="completed steps")
    epoch: Mapped[int] = mapped_column(doc="completed epochs")
    seconds: Mapped[float] = mapped_column(
        doc="training time so far of the worker's root, without evaluation, in seconds"
    )
    train_loss: Mapped[float | None] = mapped_column(
        doc="mean training loss since the report before, over all ranks; null if not finite"
    )
    validation_loss: Mapped[float | None] = mapped_column(
        doc="loss on the validation data; null if not evaluated or not finite"
    )
    metric: Mapped[float | None] = mapped_column(
        doc="the workload's metric on the validation data; null if not evaluated or not finite"
    )
    learning_rate: Mapped[float | None] = mapped_column(
        doc="learning rate of the last step; null if a function was called"
    )
    wire_bytes: Mapped[float | None] = mapped_column(
        doc="bytes sent so far by all of its ranks; null if a function was called"
    )
    metrics: Mapped[dict[str, Any] | None] = mapped_column(
        doc="further metrics of workload, method and observers, by name; in a confirmation, those on the test data "
        "start with test_"
    )


class LedgerRow(Base):
    """A trial's traffic, summed over its ranks, by operation, scope, size of one call, and overlap."""

    __tablename__ = "ledger"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True, doc="its trial")
    operation: Mapped[str] = mapped_column(primary_key=True, doc="the operation, such as all_reduce or send")
    scope: Mapped[str] = mapped_column(primary_key=True, doc="node: between ranks of one node; global: otherwise")
    payload_bytes: Mapped[int] = mapped_column(
        primary_key=True, doc="size of one call's tensor in its communication dtype, in bytes"
    )
    overlapped: Mapped[bool] = mapped_column(primary_key=True, doc="whether the calls were non-blocking")
    count: Mapped[int] = mapped_column(doc="number of calls")
    wire_bytes: Mapped[float] = mapped_column(doc="bytes sent")
    seconds_waited: Mapped[float] = mapped_column(doc="seconds that ranks waited for these calls")


class TraceRow(Base):
    """The step trace of one rank of a trial, for projections."""

    __tablename__ = "schedule"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True, doc="its trial")
    rank: Mapped[int] = mapped_column(primary_key=True, doc="the rank in its worker")
    content: Mapped[dict[str, Any]] = mapped_column(
        doc="the trace: patterns of events, their times in seconds, and their order"
    )


class ProjectionRow(Base):
    """A *prediction*, never a measurement: a trial's times on a described cluster, from `atoll project`."""

    __tablename__ = "projection"

    trial_id: Mapped[int] = mapped_column(
        ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True, doc="the measured trial"
    )
    cluster: Mapped[str] = mapped_column(primary_key=True, doc="name of the cluster")
    scaling: Mapped[str] = mapped_column(
        primary_key=True, doc="weak: the batch per rank stays; strong: the global batch stays"
    )
    num_nodes: Mapped[int] = mapped_column(primary_key=True, doc="number of nodes")
    num_ranks: Mapped[int] = mapped_column(doc="number of ranks on all nodes")
    grows: Mapped[bool] = mapped_column(doc="whether the method runs on any number of ranks")
    step_seconds: Mapped[float] = mapped_column(doc="seconds of a step")
    compute_seconds: Mapped[float] = mapped_column(doc="seconds of a step's computing")
    exposed_seconds: Mapped[float] = mapped_column(doc="seconds of a step's waiting for communication")
    epoch_seconds: Mapped[float] = mapped_column(doc="seconds of an epoch")
    steps_to_target: Mapped[float | None] = mapped_column(
        doc="steps to the target; null if the trial missed it or there is none"
    )
    seconds_to_target: Mapped[float | None] = mapped_column(doc="seconds to the target; null likewise")
    assumptions: Mapped[list[Any]] = mapped_column(doc="the assumptions, in words")
    description: Mapped[dict[str, Any]] = mapped_column(doc="the cluster: nodes, GPUs, latencies and bandwidths")


class MigrationRow(Base):
    """The migration of an individual from one island to another."""

    __tablename__ = "migration"

    id: Mapped[int] = mapped_column(primary_key=True, doc="identifies the row")
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True, doc="its study")
    time: Mapped[float] = mapped_column(doc="when it was sent; seconds since the epoch")
    number: Mapped[int] = mapped_column(doc="the individual's trial number")
    from_island: Mapped[int] = mapped_column(doc="the island that sent it")
    to_island: Mapped[int] = mapped_column(doc="the island that received it")


class HostRow(Base):
    """The placement of a study's rank; a resumed study has one row per rank and start."""

    __tablename__ = "host"

    id: Mapped[int] = mapped_column(primary_key=True, doc="identifies the row")
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True, doc="its study")
    time: Mapped[float] = mapped_column(doc="when the rank was placed; seconds since the epoch")
    world_rank: Mapped[int] = mapped_column(doc="the rank in the whole search")
    island: Mapped[int] = mapped_column(doc="its island, from 0")
    worker: Mapped[int] = mapped_column(doc="its worker, counted over all islands, from 0")
    rank: Mapped[int] = mapped_column(doc="the rank in its worker; 0 is the root")
    node: Mapped[int] = mapped_column(doc="its node as the methods see it: the host, or a virtual node")
    hostname: Mapped[str] = mapped_column(doc="its host")
    process: Mapped[int] = mapped_column(doc="its process id")
    device: Mapped[str] = mapped_column(doc="cpu or cuda:N")
    threads: Mapped[int] = mapped_column(doc="number of torch threads")
    processor: Mapped[str | None] = mapped_column(doc="name of its GPU or processor")
    cores: Mapped[int | None] = mapped_column(doc="number of cores that it may use")


class ProvenanceRow(Base):
    """What a study searched and measured, from `time` on."""

    __tablename__ = "provenance"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True, doc="its study")
    version: Mapped[int] = mapped_column(primary_key=True, doc="counts from 1")
    time: Mapped[float] = mapped_column(doc="since when it holds; seconds since the epoch")
    sha256: Mapped[str] = mapped_column(doc="hash of the record")
    record: Mapped[dict[str, Any]] = mapped_column(doc="space, code, data, libraries and environment")
    changes: Mapped[list[Any]] = mapped_column(doc="differences to the version before, in words")


class ChangeRow(Base):
    """A change of a study's definition by `atoll change`, from `time` on."""

    __tablename__ = "change"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True, doc="its study")
    number: Mapped[int] = mapped_column(primary_key=True, doc="counts from 1")
    requested: Mapped[float] = mapped_column(doc="when it was asked for; seconds since the epoch")
    time: Mapped[float] = mapped_column(doc="since when it is in effect; seconds since the epoch")
    first_trial: Mapped[int] = mapped_column(
        doc="the number after those of all trials that had started; lower ones that had not have the change, too"
    )
    settings: Mapped[list[Any]] = mapped_column(
        doc="each changed setting's name, its values before and after, and the change in words"
    )
    outside: Mapped[dict[str, Any]] = mapped_column(
        doc="number of earlier results that the changed space does not hold, by reason; samplers are not told them"
    )


class JournalOffset(Base):
    """How much of a journal is in the database; updated in the transaction that adds the rows."""

    __tablename__ = "journal_offset"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True, doc="its study")
    file: Mapped[str] = mapped_column(primary_key=True, doc="name of the journal")
    offset: Mapped[int] = mapped_column(doc="number of its bytes that are recorded")
    num_skipped: Mapped[int] = mapped_column(doc="number of lines that could not be read")
    num_quarantined: Mapped[int] = mapped_column(server_default="0", doc="number of lines that the database refused")
