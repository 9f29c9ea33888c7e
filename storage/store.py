"""The store: all reads and writes of the database, apart from the queries of `browse.py`.

The recorder fills the database from the journals, so the database may be down while a search runs. SQLite is the
embedded default; PostgreSQL serves several people or hosts.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    StatementError,
)
from sqlalchemy.orm import Session, aliased, sessionmaker

from atoll.storage.events import Event, Line, TrialEnded, TrialKey, TrialLost, TrialStarted, as_line
from atoll.storage.files import FILE_MODE, rights
from atoll.storage.journal import Chunk
from atoll.storage.models import (
    Base,
    BenchmarkRow,
    ChangeRow,
    HostRow,
    JournalOffset,
    LedgerRow,
    MigrationRow,
    ProgressRow,
    ProjectionRow,
    ProvenanceRow,
    StudyRow,
    TraceRow,
    TrialRow,
)
from atoll.storage.read_only import copy_of, reading_url
from atoll.storage.rows import Rows, rows_of
from atoll.storage.text import shortened, storable
from atoll.storage.urls import absolute, parse, shown
from atoll.storage.writable import store_problem

MAX_NAME = 200
DEFAULT_URL = "sqlite:///atoll.db"
SCHEMA_VERSION = "0012"
READABLE_VERSION = "0010"  # the oldest schema that can be read as it is
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "lustre", "cifs", "smb3", "gpfs", "beegfs", "fuse.sshfs", "ceph", "9p"}


class StoreError(Exception):
    """The store cannot do what was asked; the message says why and how to help it."""


_upgrading = threading.Lock()
# Alembic's own, with the name of the newest migration.
_VERSION_TABLE = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True, nullable=False)
)

# Drivers raise these, besides the database's own errors, for a value that does not fit its column.
UNFIT = (OverflowError, ValueError, TypeError, RecursionError)
REFUSALS = (StatementError, *UNFIT)
# PostgreSQL's states for a missing table or column, or missing rights: not the line's fault.
_UNDEFINED = {"42P01", "42703", "42501", "3F000"}


class Overtaken(Exception):
    """Another recorder has recorded lines of this journal in the meantime."""


class Contradicted(Exception):
    """The journals start a trial that the database holds, or end it as lost: they lost lines that were recorded."""


@dataclass(frozen=True)
class Rejected:
    """A journal line that the database refuses."""

    file: str
    event: Line
    reason: str


@dataclass(frozen=True)
class StudySummary:
    """A study with the number of its trials by state, and its incumbent's objective."""

    study: StudyRow
    counts: dict[str, int]
    best: float | None

    @property
    def num_ended(self) -> int:
        """The number of trials that used up budget."""
        return sum(self.counts.get(state, 0) for state in ("complete", "pruned", "failed"))


class Store:
    """Studies and trials in a database: threads may share it, and a call takes effect in one transaction or not at all.

    Every call opens a session of its own and closes it before it returns. The rows that it returns are detached: they
    keep what was read, can be used after the store is closed, and do not follow later changes. If a call raises, its
    transaction is rolled back. Forked processes must not share a store: open one in each.

    Args:
        url: `sqlite:///file.db` or the file's name, or `postgresql://user@host/database`, which psycopg opens.
        create: create missing tables, and upgrade an older schema after copying a SQLite file.
        read_only: only read an existing store, without any change of its files, its schema or its journal mode. Of a
            SQLite file with an older schema, a temporary copy is upgraded and read.

    Raises:
        StoreError: if the URL is invalid, the store does not exist, or its schema is newer than this atoll. Later, for
            names that the store does not hold and changes that it refuses. The database's own failures, such as a lost
            connection, are raised as SQLAlchemy's errors.

    Example:
        >>> import pathlib, tempfile
        >>> from atoll import Store
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = Store(f"sqlite:///{folder.name}/atoll.db")
        >>> study = {"name": "first", "state": "running", "workload": "digits_mlp", "method": "ddp"}
        >>> study |= {"metric": "accuracy", "direction": "maximize", "definition": {}}
        >>> store.add_study(study | {"folder": folder.name, "started": 0.0})
        1
        >>> [summary.study.name for summary in store.studies()]
        ['first']
        >>> store.trials(store.study("first"))
        []
        >>> store.study("second")
        Traceback (most recent call last):
        ...
        atoll.storage.store.StoreError: ... does not hold a study named 'second'; it holds first
        >>> store.close()
        >>> folder.cleanup()
    """

    def __init__(self, url: str | URL = DEFAULT_URL, *, create: bool = True, read_only: bool = False) -> None:
        self.url = _parse(url)
        self._copied: tempfile.TemporaryDirectory[str] | None = None
        self._where = absolute(self.url)
        self._check_there(create and not read_only)
        self.engine = _reading_engine(self._where) if read_only else _engine(self._where)
        if read_only:
            self._check_readable()
        else:
            self._upgrade(create)
        self._session = sessionmaker(self.engine, expire_on_commit=False)
        self._opened = file_id(self._where)
        self._log = _log_id(self._where)

    def __str__(self) -> str:
        return shown(self.url)

    def _check_there(self, create: bool) -> None:
        file = self._where.database
        if self.url.get_backend_name() != "sqlite" or file in (None, "", ":memory:"):
            return
        if Path(str(file)).is_dir():
            raise StoreError(f"the store {self} must be a file; it is a folder")
        if not create and not Path(str(file)).exists():
            raise StoreError(
                f"there is no store at {self}; `atoll search` creates one, --store or ATOLL_STORE selects another"
            )
        if not str(file).startswith("file:"):
            self._check_allowed(Path(str(file)))
        if create:
            Path(str(file)).absolute().parent.mkdir(parents=True, exist_ok=True)
            _make_file(Path(str(file)), FILE_MODE & rights())

    def _check_allowed(self, file: Path) -> None:
        try:
            with suppress(FileNotFoundError):
                file.open("rb").close()
        except PermissionError:
            raise StoreError(
                f"the store {self} cannot be read by this user: its owner shares it with `chmod g+r`; or name another "
                "one with --store or ATOLL_STORE"
            ) from None

    def _known_version(self) -> str | None:
        """The schema's version; None if there are no tables.

        Raises:
            StoreError: if it is newer than this atoll, or the file is no database, or damaged.
        """
        try:
            with self.engine.connect() as connection:
                version = _schema_version(connection)
        except DatabaseError as error:
            if isinstance(error, OperationalError) or self.url.get_backend_name() != "sqlite":
                raise
            raise StoreError(
                f"the store {self} is not a SQLite database, or is damaged ({error.orig}); name another one, or record "
                "each study's journals in a new one: `atoll record STUDY_FOLDER --store NEW.db`"
            ) from None
        if version is not None and version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self} has schema {version}; this atoll knows up to {SCHEMA_VERSION}: update atoll"
            )
        return version

    def _check_readable(self) -> None:
        """Make sure that the schema can be read, from an upgraded copy if need be."""
        try:
            version = self._known_version()
        except OperationalError as error:
            if self.url.get_backend_name() != "sqlite":
                raise
            if error.orig is not None and "disk I/O" in str(error.orig) and (problem := store_problem(self._where)):
                raise StoreError(f"{problem}: SQLite needs room for an index next to it, also to read it") from None
            raise StoreError(
                f"the store {self} cannot be read: {error.orig}; if there is a file {self.url.database}-wal, it holds "
                "the newest rows, so copy both into a folder that can be written, and read them there"
            ) from None
        if version is None:
            raise StoreError(f"the store {self} holds no studies")
        if version >= READABLE_VERSION:
            return
        if self.url.get_backend_name() != "sqlite":
            raise StoreError(
                f"the store {self} has schema {version}, and this atoll reads {READABLE_VERSION} or later; `atoll "
                "doctor` as a user who may change its tables upgrades it"
            )
        warnings.warn(f"{self} has the older schema {version}; a copy of its present state is read", stacklevel=3)
        self._copied = tempfile.TemporaryDirectory(prefix="atoll-store-")
        copy = copy_of(self.engine.url, Path(self._copied.name))
        self.engine.dispose()
        self.engine = _engine(copy)
        upgrade(self.engine)

    def _upgrade(self, create: bool) -> None:
        version = self._known_version()
        if version == SCHEMA_VERSION:
            return
        if version is None and not create:
            raise StoreError(f"the store {self} holds no studies")
        if version is None:
            _create(self.engine)
        else:
            _copy_before_upgrade(self._where, version)
            upgrade(self.engine)

    def session(self) -> Session:
        """A new session, for the queries of `browse.py`."""
        return self._session()

    def has_moved(self) -> bool:
        """Whether the SQLite file was deleted, or another file has taken its place."""
        if file_id(self._where) != self._opened:
            return True
        self._log = _log_id(self._where)
        return False

    def abandon(self) -> None:
        """Close all connections to a file that has moved, and remove the log that it left behind.

        SQLite would take that log for a part of the file which is in its place now.
        """
        self.close()
        if self._log is not None and _log_id(self._where) == self._log:
            _log_of(self._where).unlink(missing_ok=True)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if self._copied is not None:
            self._copied.cleanup()

    # Reading.

    def studies(self, study_id: int | None = None) -> list[StudySummary]:
        """All studies, the newest first, or one."""
        chosen = sa.true() if study_id is None else TrialRow.study_id == study_id
        counts = (
            sa.select(TrialRow.study_id, TrialRow.state, sa.func.count())
            .where(chosen)
            .group_by(TrialRow.study_id, TrialRow.state)
        )
        extremes = (
            sa.select(TrialRow.study_id, sa.func.min(TrialRow.objective), sa.func.max(TrialRow.objective))
            .where(TrialRow.state == "complete", chosen)
            .group_by(TrialRow.study_id)
        )
        rows = sa.select(StudyRow).order_by(StudyRow.started.desc())
        with self._session() as session:
            studies = session.scalars(rows if study_id is None else rows.where(StudyRow.id == study_id)).all()
            by_study: dict[int, dict[str, int]] = {}
            for study_id, state, count in session.execute(counts):
                by_study.setdefault(study_id, {})[state] = count
            best = {study_id: (low, high) for study_id, low, high in session.execute(extremes)}
        return [
            StudySummary(s, by_study.get(s.id, {}), best.get(s.id, (None, None))[s.direction == "maximize"])
            for s in studies
        ]

    def study(self, name: str | None = None, uid: str | None = None) -> StudyRow:
        """The study of that uid, else the one named `name`. Default: the newest. Raises StoreError if there is none."""
        query = sa.select(StudyRow).order_by(StudyRow.started.desc())
        with self._session() as session:
            study = session.scalars(query).first() if name is None else self._known(session, name, uid)
            names = session.scalars(sa.select(StudyRow.name).order_by(StudyRow.name)).all() if study is None else []
        if study is None:
            wanted = "a study" if name is None else f"a study named {name!r}"
            raise StoreError(f"{self} does not hold {wanted}; it holds {', '.join(names) or 'none'}")
        return study

    def benchmark(self, name: str | None = None) -> BenchmarkRow:
        """The benchmark named `name`. Default: the newest. Raises StoreError if there is none."""
        benchmarks = self.benchmarks()
        for benchmark in benchmarks:
            if name in (None, benchmark.name):
                return benchmark
        wanted = "a benchmark" if name is None else f"a benchmark named {name!r}"
        names = ", ".join(sorted(benchmark.name for benchmark in benchmarks))
        raise StoreError(f"{self} does not hold {wanted}; it holds {names or 'none'}")

    def subject(self, name: str) -> StudyRow | BenchmarkRow:
        """The benchmark, or else the study, named `name`. Raises StoreError if there is neither."""
        return next((row for row in self.benchmarks() if row.name == name), None) or self.study(name)

    def benchmarks(self) -> list[BenchmarkRow]:
        """All benchmarks, the newest first."""
        with self._session() as session:
            return list(session.scalars(sa.select(BenchmarkRow).order_by(BenchmarkRow.started.desc())))

    def studies_of(self, benchmark: BenchmarkRow) -> list[StudyRow]:
        """The studies of `benchmark` that have begun, in that order."""
        query = sa.select(StudyRow).where(StudyRow.benchmark_id == benchmark.id).order_by(StudyRow.started, StudyRow.id)
        with self._session() as session:
            return list(session.scalars(query))

    def leaderboard(self, study: StudyRow, top: int | None = None) -> list[TrialRow]:
        """The complete trials of `study`, the best first."""
        order = TrialRow.objective.desc() if study.direction == "maximize" else TrialRow.objective.asc()
        query = (
            sa.select(TrialRow)
            .where(TrialRow.study_id == study.id, TrialRow.state == "complete")
            .order_by(order.nulls_last(), TrialRow.number)
            .limit(top)
        )
        with self._session() as session:
            return list(session.scalars(query))

    def trials(self, study: StudyRow) -> list[TrialRow]:
        """All trials of `study`, by number and attempt."""
        query = sa.select(TrialRow).where(TrialRow.study_id == study.id).order_by(TrialRow.number, TrialRow.attempt)
        with self._session() as session:
            return list(session.scalars(query))

    def progress(self, trial_ids: Iterable[int]) -> list[ProgressRow]:
        """The progress reports of these trials, by trial and step."""
        query = sa.select(ProgressRow).where(ProgressRow.trial_id.in_(list(trial_ids)))
        with self._session() as session:
            return list(session.scalars(query.order_by(ProgressRow.trial_id, ProgressRow.step)))

    def ledger(self, trial_id: int) -> list[LedgerRow]:
        """The communication of one trial, by operation and size."""
        with self._session() as session:
            return list(session.scalars(sa.select(LedgerRow).where(LedgerRow.trial_id == trial_id)))

    def traces(self, trial_id: int) -> list[TraceRow]:
        """The step traces of one trial, by rank."""
        query = sa.select(TraceRow).where(TraceRow.trial_id == trial_id).order_by(TraceRow.rank)
        with self._session() as session:
            return list(session.scalars(query))

    def projections(self, trial_ids: Iterable[int]) -> list[ProjectionRow]:
        """The predictions for these trials, by cluster, scaling, nodes and trial."""
        query = sa.select(ProjectionRow).where(ProjectionRow.trial_id.in_(list(trial_ids)))
        order = (ProjectionRow.cluster, ProjectionRow.scaling, ProjectionRow.num_nodes, ProjectionRow.trial_id)
        with self._session() as session:
            return list(session.scalars(query.order_by(*order)))

    def migrations(self, study: StudyRow) -> list[MigrationRow]:
        """The migrations of `study`, by time."""
        query = sa.select(MigrationRow).where(MigrationRow.study_id == study.id).order_by(MigrationRow.time)
        with self._session() as session:
            return list(session.scalars(query))

    def hosts(self, study: StudyRow) -> list[HostRow]:
        """Where the ranks of `study` ran."""
        with self._session() as session:
            return list(session.scalars(sa.select(HostRow).where(HostRow.study_id == study.id).order_by(HostRow.id)))

    def provenances(self, study: StudyRow) -> list[ProvenanceRow]:
        """What `study` searched and measured, by version."""
        query = sa.select(ProvenanceRow).where(ProvenanceRow.study_id == study.id).order_by(ProvenanceRow.version)
        with self._session() as session:
            return list(session.scalars(query))

    def changes(self, study: StudyRow) -> list[ChangeRow]:
        """The changes of the definition of `study`; none in a store of before they were recorded."""
        query = sa.select(ChangeRow).where(ChangeRow.study_id == study.id).order_by(ChangeRow.number)
        with self._session() as session:
            if not sa.inspect(session.connection()).has_table(ChangeRow.__tablename__):
                return []
            return list(session.scalars(query))

    def num_measured(self, study: StudyRow) -> dict[int | None, int]:
        """The number of ended trials of each version of the provenance of `study`; None: before there were records."""
        ended = (TrialRow.study_id == study.id, TrialRow.state.in_(("complete", "pruned", "failed")))
        query = sa.select(TrialRow.provenance, sa.func.count()).where(*ended).group_by(TrialRow.provenance)
        with self._session() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    # Writing.

    def delete(self, row: StudyRow | BenchmarkRow) -> None:
        """Delete a study, or a benchmark with its studies, and all rows that belong to them."""
        table = type(row)
        with self._session.begin() as session:
            session.execute(sa.delete(table).where(table.id == row.id))

    def rename(self, study: StudyRow, name: str) -> None:
        """Rename a study, but not its files. Raises StoreError if the name is empty, too long or taken."""
        if not 0 < len(name) <= MAX_NAME or name != name.strip():
            raise StoreError(
                f"a study's name must have 1 to {MAX_NAME} characters without spaces at the ends; got {name!r}"
            )
        try:
            self._set(sa.update(StudyRow).where(StudyRow.id == study.id).values(name=name))
        except IntegrityError:
            raise StoreError(f"{self} already holds a study named {name!r}; choose another name") from None

    def archive(self, study: StudyRow, archived: bool) -> None:
        """Hide a study from lists, or show it again."""
        self._set(sa.update(StudyRow).where(StudyRow.id == study.id).values(archived=archived))

    def end(self, study: StudyRow, state: str, reason: str | None) -> None:
        """End a study whose journals cannot be written: its running trials are lost. A resumed one goes on as usual."""
        over = {"finished": time.time(), "reason": storable(reason)}
        running = sa.and_(TrialRow.study_id == study.id, TrialRow.state == "running")
        with self._session.begin() as session:
            session.execute(sa.update(TrialRow).where(running).values(state="lost", **over))
            session.execute(sa.update(StudyRow).where(StudyRow.id == study.id).values(state=state, **over))

    def annotate(self, trial: TrialRow, note: str | None) -> None:
        """Set a reader's note on a trial, or remove it."""
        self._set(sa.update(TrialRow).where(TrialRow.id == trial.id).values(note=note or None))

    def _set(self, change: sa.Update) -> None:
        with self._session.begin() as session:
            session.execute(change)

    def save_projections(
        self, trial_ids: Iterable[int], cluster: str, scaling: str, rows: Sequence[ProjectionRow]
    ) -> None:
        """Store predictions, replacing all former ones of these trials for a cluster of that name and scaling."""
        former = (
            ProjectionRow.trial_id.in_(list(trial_ids)),
            ProjectionRow.cluster == cluster,
            ProjectionRow.scaling == scaling,
        )
        with self._session.begin() as session:
            session.execute(sa.delete(ProjectionRow).where(*former))
            session.add_all(rows)

    def add_study(self, fields: Mapping[str, Any]) -> int:
        """Add a study, or find the one of the same name and folder; returns its id.

        Raises:
            StoreError: if the name belongs to a study of another folder.
        """
        with self._session.begin() as session:
            known = self._known(session, fields["name"], fields.get("uid"))
            if known is None:
                row = {name: value for name, value in fields.items() if name != "benchmark"}
                if (benchmark := fields.get("benchmark")) is not None:
                    row["benchmark_id"] = self._benchmark_id(session, benchmark)
                known = StudyRow(**row)
                session.add(known)
                session.flush()
            elif known.name == fields["name"] and (known.folder, known.uid) != (fields["folder"], fields.get("uid")):
                raise StoreError(self._name_taken(known))
            return known.id

    def add_whole(self, fields: Mapping[str, Any], lines: Sequence[Event]) -> int:
        """Add a study that was searched elsewhere, with the lines that its journals would have; returns its id.

        Raises:
            StoreError: if the name is taken, or the database refuses a value.
        """
        try:
            with self._session.begin() as session:
                known = StudyRow(**fields)
                session.add(known)
                session.flush()
                self._add(session, known.id, lines)
                return known.id
        except REFUSALS as error:
            self.check_name(fields["name"], fields["uid"])
            if not _is_refusal(error):
                raise
            raise StoreError(
                f"{self} cannot store the study {fields['name']}: {getattr(error, 'orig', error)}"
            ) from error

    def _known(self, session: Session, name: str, uid: str | None) -> StudyRow | None:
        """The study of that uid, even if it was renamed, else the one of that name."""
        of_uid = None if uid is None else session.scalars(sa.select(StudyRow).where(StudyRow.uid == uid)).first()
        return of_uid or session.scalars(sa.select(StudyRow).where(StudyRow.name == name)).first()

    def _benchmark_id(self, session: Session, fields: Mapping[str, Any]) -> int:
        """The id of a study's benchmark, which is added with its first study."""
        known = session.scalars(sa.select(BenchmarkRow).where(BenchmarkRow.name == fields["name"])).first()
        if known is None:
            known = BenchmarkRow(**fields)
            session.add(known)
            session.flush()
        self._check_benchmark(known, fields["uid"])
        return known.id

    def _check_benchmark(self, known: BenchmarkRow | None, uid: str | None) -> None:
        if known is not None and known.uid != uid:
            raise StoreError(
                f"{self} already holds a benchmark named {known.name!r}, with its files in {known.folder}; choose "
                f"another name, or remove that one with `atoll delete {known.name}`"
            )

    def check_benchmark_name(self, name: str, uid: str | None) -> None:
        """Raise StoreError if `name` belongs to another benchmark than the one with this uid."""
        with self._session() as session:
            self._check_benchmark(
                session.scalars(sa.select(BenchmarkRow).where(BenchmarkRow.name == name)).first(), uid
            )

    def _name_taken(self, study: StudyRow) -> str:
        if study.is_imported:
            return (
                f"{self} already holds a study named {study.name!r}, which was imported: it has no files, and cannot "
                f"be resumed. Choose another --name; `learn_from: {{study: {study.name}}}` tells its results to the "
                f"samplers of a new study, and `atoll delete {study.name}` removes it"
            )
        return (
            f"{self} already holds a study named {study.name!r}, with its files in {study.folder}, started "
            f"{time.strftime('%Y-%m-%d %H:%M:%S %Z', time.localtime(study.started))}; choose another --name, or remove "
            f"that study with `atoll delete {study.name}`"
        )

    def check_name(self, name: str, uid: str | None) -> None:
        """Raise StoreError if `name` belongs to another study than the one with this uid."""
        with self._session() as session:
            known = self._known(session, name, uid)
        if known is not None and known.uid != uid:
            raise StoreError(self._name_taken(known))

    def offsets(self, study_id: int) -> dict[str, int]:
        """For each journal of a study, the number of bytes that the database has."""
        query = sa.select(JournalOffset.file, JournalOffset.offset).where(JournalOffset.study_id == study_id)
        with self._session() as session:
            return {row.file: row.offset for row in session.execute(query)}

    def record(self, study_id: int, chunks: Mapping[str, Chunk]) -> list[Rejected]:
        """Record journal lines together with the journals' new offsets in one transaction, so each line exactly once.

        Returns:
            The lines that the database rejects for their content; they are counted and not tried again.

        Raises:
            Contradicted: if the journals have lost what the database holds; `rebuild` mends it.
        """
        try:
            with self._session.begin() as session:
                _move_offsets(session, study_id, chunks)
                _check_agreement(session, study_id, _events(chunks))
                self._add(session, study_id, _events(chunks))
        except REFUSALS as error:
            if not _is_refusal(error):
                raise
            with self._session.begin() as session:
                return self._record_one_by_one(session, study_id, chunks)
        return []

    def rebuild(self, study_id: int, all_chunks: Iterable[Mapping[str, Chunk]]) -> list[Rejected]:
        """Record a study anew from the beginning of its journals, in one transaction; readers' notes are kept.

        Predictions are deleted with their trials.

        Args:
            study_id: the study.
            all_chunks: the journals' lines, in the order of recording.

        Returns:
            The lines that the database rejects.
        """
        rejected: list[Rejected] = []
        of_study = TrialRow.study_id == study_id
        with self._session.begin() as session:
            noted = sa.select(TrialRow.number, TrialRow.attempt, TrialRow.note).where(
                of_study, TrialRow.note.is_not(None)
            )
            notes = list(session.execute(noted))
            for model in (TrialRow, MigrationRow, HostRow, ProvenanceRow, ChangeRow, JournalOffset):
                session.execute(sa.delete(model).where(model.study_id == study_id))
            session.execute(sa.update(StudyRow).where(StudyRow.id == study_id).values(num_refused=0))
            for chunks in all_chunks:
                try:
                    with session.begin_nested():
                        _move_offsets(session, study_id, chunks)
                        self._add(session, study_id, _events(chunks))
                except REFUSALS as error:
                    if not _is_refusal(error):
                        raise
                    rejected += self._record_one_by_one(session, study_id, chunks)
            for number, attempt, note in notes:
                is_trial = (of_study, TrialRow.number == number, TrialRow.attempt == attempt)
                session.execute(sa.update(TrialRow).where(*is_trial).values(note=note))
        return rejected

    def _record_one_by_one(self, session: Session, study_id: int, chunks: Mapping[str, Chunk]) -> list[Rejected]:
        rejected = []
        for file, chunk in chunks.items():
            row = _move_offset(session, study_id, file, chunk)
            for event in chunk.events:
                try:
                    with session.begin_nested():
                        self._add(session, study_id, [event])
                except REFUSALS as error:
                    if not _is_refusal(error):
                        raise
                    row.num_quarantined += 1
                    reason = str(getattr(error, "orig", error))
                    rejected.append(Rejected(file, as_line(event), reason))
                    if isinstance(event, TrialEnded):
                        self._add_end(session, study_id, event, reason)
        return rejected

    def _add_end(self, session: Session, study_id: int, event: TrialEnded, reason: str) -> None:
        """Add as much as the database accepts of a trial's end that it has rejected, and say so in its reason."""
        note = f"a part of this trial's end cannot be stored, and is in quarantine.jsonl: {shortened(reason, 200)}"
        reduced = event.model_copy(update={"ledger": [], "traces": [], "reason": _joined(event.reason, note)})
        bare = TrialEnded(
            time=event.time, number=event.number, attempt=event.attempt, state="failed", reason=_joined("", note)
        )
        for less in (reduced, bare):
            try:
                with session.begin_nested():
                    self._add(session, study_id, [less])
                return
            except REFUSALS as error:
                if not _is_refusal(error):
                    raise

    def _add(self, session: Session, study_id: int, lines: Sequence[Event]) -> None:
        """Add rows for `lines`."""
        batch = rows_of(study_id, lines)
        self._add_trials(session, study_id, batch)
        if batch.num_refused:
            more = {"num_refused": StudyRow.num_refused + batch.num_refused}
            session.execute(sa.update(StudyRow).where(StudyRow.id == study_id).values(**more))
        if batch.study:
            session.execute(sa.update(StudyRow).where(StudyRow.id == study_id).values(**batch.study))
        for model, entries in (
            (MigrationRow, batch.migrations),
            (HostRow, batch.hosts),
            (ProvenanceRow, batch.provenances),
            (ChangeRow, batch.changes),
        ):
            if entries:
                session.execute(sa.insert(model), entries)

    def _add_trials(self, session: Session, study_id: int, batch: Rows) -> None:
        ids: dict[TrialKey, int] = {}
        if batch.started:
            returned = session.execute(
                sa.insert(TrialRow).returning(TrialRow.number, TrialRow.attempt, TrialRow.id),
                list(batch.started.values()),
            )
            ids = {(number, attempt): id_ for number, attempt, id_ in returned}
        ids |= _known_ids(session, study_id, batch.keys() - ids.keys())
        progress = {(ids[key], row["step"]): row | {"trial_id": ids[key]} for key, row in batch.progress if key in ids}
        if progress:
            session.execute(sa.insert(ProgressRow), list(progress.values()))
        ended = [row | {"id": ids[key]} for key, row in batch.ended if key in ids]
        if ended:
            session.execute(sa.update(TrialRow), ended)
        _supersede(session, study_id, batch)
        for key, row in batch.lost:
            if key in ids:  # before version 3, a trial's end may come after its loss was reported
                running = sa.and_(TrialRow.id == ids[key], TrialRow.state == "running")
                session.execute(sa.update(TrialRow).where(running).values(**row))
        for model, of_trials in ((LedgerRow, batch.ledger), (TraceRow, batch.traces)):
            entries = [row | {"trial_id": ids[key]} for key, row in of_trials if key in ids]
            if entries:
                session.execute(sa.insert(model), entries)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate the schema to `revision` with Alembic."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "atoll.storage:migrations")
    with _exclusively(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _create(engine: Engine) -> None:
    """Create the tables of a new store: what the migrations lead to, without Alembic, which is slow to import."""
    with _exclusively(engine) as connection:
        if _schema_version(connection) is not None:  # another process has created them in the meantime
            return
        Base.metadata.create_all(connection, checkfirst=False)
        _VERSION_TABLE.create(connection)
        connection.execute(sa.insert(_VERSION_TABLE).values(version_num=SCHEMA_VERSION))


@contextmanager
def _exclusively(engine: Engine) -> Iterator[Connection]:
    """A transaction that locks the store, because several processes may open a new or an old one at once.

    Threads are locked as well: Alembic has one state per process.
    """
    with _upgrading, engine.begin() as connection:
        lock = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "SELECT pg_advisory_xact_lock(20070)"
        connection.exec_driver_sql(lock)
        yield connection


def _joined(reason: str | None, note: str) -> str:
    return str(storable(f"{reason} ({note})" if reason else note))


def _is_refusal(error: Exception) -> bool:
    """Whether the database rejects a line's content; any other error may be temporary."""
    if isinstance(error, IntegrityError | DataError):
        return True
    if isinstance(error, ProgrammingError | InterfaceError):
        state = getattr(error.orig, "sqlstate", None)
        if state is None:  # the driver's own word, on a value of a type that it does not know
            return any(words in str(error.orig) for words in ("binding parameter", "cannot adapt"))
        return state not in _UNDEFINED
    # SQLAlchemy wraps its own failure to convert a value.
    return isinstance(error.orig if isinstance(error, StatementError) else error, UNFIT)


def _copy_before_upgrade(url: URL, version: str) -> None:
    """Copy a SQLite file; databases of a server are backed up by their administrators."""
    if url.get_backend_name() == "sqlite" and url.database:
        copy = Path(f"{url.database}.schema-{version}")
        _make_file(copy, stat.S_IMODE(Path(url.database).stat().st_mode))
        with closing(sqlite3.connect(url.database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)


def _make_file(path: Path, mode: int) -> None:
    """Make an empty file for SQLite, which itself would not let the group write, whatever the umask."""
    if not str(path).startswith("file:"):  # SQLite's own kind of address
        with suppress(OSError):  # it is there, or SQLite says what is wrong
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def _parse(url: str | URL) -> URL:
    try:
        return parse(url) if isinstance(url, str) else url
    except ValueError as error:
        raise StoreError(str(error)) from None


def _reading_engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return _engine(url)
    engine = sa.create_engine(reading_url(url))

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA busy_timeout=5000")

    _replace_connections_to_moved_files(engine, url)
    return engine


def _engine(url: URL) -> Engine:
    try:
        # A connection that a server or a pooler has closed in the meantime is noticed, and replaced, before its use.
        engine = sa.create_engine(url, pool_pre_ping=url.get_backend_name() == "postgresql")
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        raise StoreError(
            f"no driver for {url.drivername}: {error}; PostgreSQL needs `pip install atoll[postgres]`"
        ) from None
    if url.get_backend_name() == "sqlite":
        file_system = _file_system(Path(url.database or ".").absolute())
        if file_system in NETWORK_FILE_SYSTEMS:
            warnings.warn(
                f"{url.database} is on {file_system}: SQLite runs without WAL there, which is slower", stacklevel=3
            )
        mode = "DELETE" if file_system in NETWORK_FILE_SYSTEMS else "WAL"

        @sa.event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            for pragma in ("busy_timeout=5000", f"journal_mode={mode}", "synchronous=NORMAL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        _replace_connections_to_moved_files(engine, url)
    return engine


def _replace_connections_to_moved_files(engine: Engine, url: URL) -> None:
    """Before each use, notice that a SQLite file was deleted or replaced: its connections still read the old one."""

    @sa.event.listens_for(engine, "connect")
    def _note(_connection: Any, record: Any) -> None:
        record.info["file"] = file_id(url)

    @sa.event.listens_for(engine, "checkout")
    def _check(_connection: Any, record: Any, _proxy: Any) -> None:
        if (current := file_id(url)) == record.info["file"]:
            return
        record.invalidate()
        if current is None:
            raise StoreError(f"the store {shown(url)} was deleted")
        raise sa.exc.DisconnectionError(f"another file has taken the place of {shown(url)}")


def file_id(url: URL) -> tuple[int, int] | None:
    """What tells the file at a SQLite URL's path from all others; None if there is none."""
    return _id_of(Path(url.database)) if url.get_backend_name() == "sqlite" and url.database else None


def _log_of(url: URL) -> Path:
    return Path(f"{url.database}-wal")


def _log_id(url: URL) -> tuple[int, int] | None:
    return _id_of(_log_of(url)) if url.get_backend_name() == "sqlite" else None


def _id_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`, or an empty string if unknown."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    entries = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    holding = [(point, kind) for point, kind in entries if os.path.commonpath([point, path]) == point]
    return max(holding, key=lambda entry: len(entry[0]), default=("", ""))[1]


def _schema_version(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _events(chunks: Mapping[str, Chunk]) -> list[Event]:
    return [event for chunk in chunks.values() for event in chunk.events]


def _check_agreement(session: Session, study_id: int, lines: Sequence[Event]) -> None:
    """Raise Contradicted if new lines show that the journals have lost lines that the database holds."""
    started = {event.key for event in lines if isinstance(event, TrialStarted)}
    if again := _known_ids(session, study_id, started):
        raise Contradicted("the journals lost the start of trial {} (attempt {})".format(*min(again)))
    lost = {event.key for event in lines if isinstance(event, TrialLost)}
    # A lost one is what the journals say as well; `Store.end` may have been faster.
    ended = sa.and_(TrialRow.study_id == study_id, TrialRow.state.not_in(("running", "lost")))
    for number, attempt in sorted(lost):
        is_it = sa.and_(ended, TrialRow.number == number, TrialRow.attempt == attempt)
        if session.scalar(sa.select(TrialRow.id).where(is_it)) is not None:
            raise Contradicted(f"the journals lost the end of trial {number} (attempt {attempt})")


def _supersede(session: Session, study_id: int, batch: Rows) -> None:
    """Mark the results of attempts that a later attempt continues, whichever line comes first."""
    numbers = {number for number, attempt in batch.started if attempt}
    numbers |= {number for (number, _), row in batch.ended if row["state"] == "pruned"}
    later = aliased(TrialRow)
    for some in _in_parts(sorted(numbers)):
        is_continued = (
            sa.select(later.id)
            .where(later.study_id == study_id, later.number == TrialRow.number, later.attempt > TrialRow.attempt)
            .exists()
        )
        results = (
            TrialRow.study_id == study_id,
            TrialRow.number.in_(some),
            TrialRow.state.in_(("complete", "pruned", "failed")),
        )
        change = sa.update(TrialRow).where(*results, is_continued).values(state="continued")
        session.execute(change.execution_options(synchronize_session=False))


def _in_parts(numbers: Sequence[int], size: int = 500) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _known_ids(session: Session, study_id: int, keys: Iterable[TrialKey]) -> dict[TrialKey, int]:
    wanted = set(keys)
    numbers = sorted({number for number, _ in wanted})
    ids: dict[TrialKey, int] = {}
    for some in _in_parts(numbers):
        query = sa.select(TrialRow.number, TrialRow.attempt, TrialRow.id).where(
            TrialRow.study_id == study_id, TrialRow.number.in_(some)
        )
        found = {(number, attempt): id_ for number, attempt, id_ in session.execute(query)}
        ids |= {key: id_ for key, id_ in found.items() if key in wanted}
    return ids


def _move_offsets(session: Session, study_id: int, chunks: Mapping[str, Chunk]) -> None:
    for file, chunk in chunks.items():
        _move_offset(session, study_id, file, chunk)


def _move_offset(session: Session, study_id: int, file: str, chunk: Chunk) -> JournalOffset:
    """Move a journal's offset from the chunk's start to its end. Raises Overtaken if another recorder has moved it."""
    where = (JournalOffset.study_id == study_id, JournalOffset.file == file, JournalOffset.offset == chunk.start)
    moved = sa.update(JournalOffset).where(*where).values(offset=chunk.offset)
    # The update comes first: SQLite's driver starts the transaction at the first write, not at a savepoint.
    result = session.execute(moved.execution_options(synchronize_session=False))
    if result.rowcount != 1:  # type: ignore[attr-defined]
        if chunk.start != 0:
            raise Overtaken(file)
        fields = {"study_id": study_id, "file": file, "offset": chunk.offset, "num_skipped": 0, "num_quarantined": 0}
        try:
            with session.begin_nested():
                session.execute(sa.insert(JournalOffset), [fields])
        except IntegrityError:
            raise Overtaken(file) from None
    row = session.get_one(JournalOffset, (study_id, file), populate_existing=True)
    row.num_skipped += chunk.num_skipped
    return row
