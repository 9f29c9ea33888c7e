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
    """A benchmark of `num_studies` studies, of which the started ones refer to it."""

    __tablename__ = "benchmark"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    uid: Mapped[str]
    folder: Mapped[str] = mapped_column(Text)
    definition: Mapped[dict[str, Any]]
    num_studies: Mapped[int]
    started: Mapped[float]


class StudyRow(Base):
    """One search. Its state is running, complete, stopped or failed.

    `curve_metric` is the workload's metric, which every report has, even if it is not an objective. `objectives` has
    names and directions if there are several; metric and direction are then those of the first. `num_refused` counts
    infeasible proposals. For a benchmark's study, `stage` is tune or confirm, `repeat` is the index of the tuning, and
    the labels are the benchmark's names of method and workload. `archived` studies are listed on request.
    """

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    workload: Mapped[str]
    method: Mapped[str]
    metric: Mapped[str]
    direction: Mapped[str]
    target: Mapped[float | None]
    num_trials: Mapped[int | None]
    definition: Mapped[dict[str, Any]]
    folder: Mapped[str] = mapped_column(Text)
    uid: Mapped[str | None]
    started: Mapped[float]
    finished: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(Text)
    objectives: Mapped[list[Any] | None]
    curve_metric: Mapped[str | None]
    num_refused: Mapped[int] = mapped_column(server_default="0")
    benchmark_id: Mapped[int | None] = mapped_column(ForeignKey("benchmark.id", ondelete="CASCADE"), index=True)
    stage: Mapped[str | None]
    repeat: Mapped[int | None]
    method_label: Mapped[str | None]
    workload_label: Mapped[str | None]
    archived: Mapped[bool] = mapped_column(server_default=false())


class TrialRow(Base):
    """One evaluated configuration; `number` counts within the study, `attempt` counts from 0.

    A trial that was lost, or that continues after it had a result, has a next attempt. States: running, complete,
    pruned (a paused one, too), failed, lost, and continued: a result that the next attempt replaces.

    `proposal` is its origin: operator, parents, the source of each gene, and the time to propose it. `oversubscribed`:
    its ranks shared cores or a GPU, so its times are not comparable. `note`: a reader's annotation. `notes`: remarks of
    the method, and what the trial has changed in its process. `provenance`: the version of the study's provenance; null
    if it is older than these records.
    """

    __tablename__ = "trial"
    __table_args__ = (
        UniqueConstraint("study_id", "number", "attempt"),
        Index("trial_by_objective", "study_id", "state", "objective"),
        Index("trial_by_id", "study_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"))
    number: Mapped[int]
    attempt: Mapped[int]
    island: Mapped[int]
    worker: Mapped[int]
    generation: Mapped[int]
    state: Mapped[str]
    seed: Mapped[int]
    hyperparameters: Mapped[dict[str, Any]]
    configuration: Mapped[dict[str, Any]]
    objective: Mapped[float | None]
    metrics: Mapped[dict[str, Any] | None]
    seconds: Mapped[float | None]
    wire_bytes: Mapped[float | None]
    peak_memory: Mapped[float | None]
    host: Mapped[str | None]
    started: Mapped[float]
    finished: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)
    objectives: Mapped[list[Any] | None]
    proposal: Mapped[dict[str, Any] | None]
    oversubscribed: Mapped[bool | None]
    note: Mapped[str | None] = mapped_column(Text)
    provenance: Mapped[int | None]
    notes: Mapped[list[Any] | None]


class ProgressRow(Base):
    """A trial's report after an epoch."""

    __tablename__ = "progress"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    seconds: Mapped[float]
    train_loss: Mapped[float | None]
    validation_loss: Mapped[float | None]
    metric: Mapped[float | None]
    learning_rate: Mapped[float]
    wire_bytes: Mapped[float]
    metrics: Mapped[dict[str, Any] | None]


class LedgerRow(Base):
    """A trial's traffic, summed over its ranks, by operation, scope, size of one call, and overlap."""

    __tablename__ = "ledger"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True)
    operation: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    payload_bytes: Mapped[int] = mapped_column(primary_key=True)
    overlapped: Mapped[bool] = mapped_column(primary_key=True)
    count: Mapped[int]
    wire_bytes: Mapped[float]
    seconds_waited: Mapped[float]


class TraceRow(Base):
    """The step trace of one rank of a trial, for projections: patterns of events, their times, and their order."""

    __tablename__ = "schedule"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]


class ProjectionRow(Base):
    """A *prediction*, never a measurement: a trial's times on a described cluster, with the assumptions.

    `compute_seconds` and `exposed_seconds` (waiting for communication) are per step. The values to the target are null
    if the trial missed it or there is none. `grows`: whether the method scales with the number of ranks. `description`
    is the cluster's.
    """

    __tablename__ = "projection"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True)
    cluster: Mapped[str] = mapped_column(primary_key=True)
    scaling: Mapped[str] = mapped_column(primary_key=True)
    num_nodes: Mapped[int] = mapped_column(primary_key=True)
    num_ranks: Mapped[int]
    grows: Mapped[bool]
    step_seconds: Mapped[float]
    compute_seconds: Mapped[float]
    exposed_seconds: Mapped[float]
    epoch_seconds: Mapped[float]
    steps_to_target: Mapped[float | None]
    seconds_to_target: Mapped[float | None]
    assumptions: Mapped[list[Any]]
    description: Mapped[dict[str, Any]]


class MigrationRow(Base):
    """The migration of an individual from one island to another."""

    __tablename__ = "migration"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True)
    time: Mapped[float]
    number: Mapped[int]
    from_island: Mapped[int]
    to_island: Mapped[int]


class HostRow(Base):
    """The placement of a study's rank; a resumed study has one row per rank and start."""

    __tablename__ = "host"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True)
    time: Mapped[float]
    world_rank: Mapped[int]
    island: Mapped[int]
    worker: Mapped[int]
    rank: Mapped[int]
    node: Mapped[int]
    hostname: Mapped[str]
    process: Mapped[int]
    device: Mapped[str]
    threads: Mapped[int]
    processor: Mapped[str | None]
    cores: Mapped[int | None]


class ProvenanceRow(Base):
    """What a study searched and measured, from `time` on: space, user code, data, libraries and environment.

    Versions count from 1; `changes` are a version's differences to the one before.
    """

    __tablename__ = "provenance"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[float]
    sha256: Mapped[str]
    record: Mapped[dict[str, Any]]
    changes: Mapped[list[Any]]


class JournalOffset(Base):
    """The number of bytes of a journal that are in the database; updated in the transaction that adds the rows."""

    __tablename__ = "journal_offset"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    file: Mapped[str] = mapped_column(primary_key=True)
    offset: Mapped[int]
    num_skipped: Mapped[int]
    num_quarantined: Mapped[int] = mapped_column(server_default="0")
