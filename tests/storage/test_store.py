"""The store and the recorder: exactly once, whatever fails in between."""

import doctest
import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import journals
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from atoll.storage import export, urls
from atoll.storage.events import RankPlaced
from atoll.storage.journal import JournalWriter
from atoll.storage.models import Base, JournalOffset, ProgressRow, TrialRow
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import SCHEMA_VERSION, Overtaken, Store, StoreError, upgrade


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def folder(tmp_path):
    return journals.start_folder(tmp_path / "s")


def recorder_of(folder, url):
    return Recorder(folder, lambda: Store(url), journals.study_row(folder.path))


def alembic_config():
    config = Config()
    config.set_main_option("script_location", "atoll.storage:migrations")
    return config


def record(folder, url):
    recorder = recorder_of(folder, url)
    num_lines = recorder.catch_up()
    recorder.close()
    return num_lines


def num_progress(url):
    with Store(url).engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(ProgressRow)).scalar()


def differences(connection):
    """Between database and models; SQLAlchemy does not see the ON DELETE of a column that was added to SQLite."""
    found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    if connection.dialect.name == "sqlite":
        found = [one for one in found if one[0] not in ("add_fk", "remove_fk")]
        for table in Base.metadata.sorted_tables:
            keys = connection.exec_driver_sql(f"PRAGMA foreign_key_list({table.name})").mappings()
            there = {(key["from"], key["table"], key["to"], key["on_delete"]) for key in keys}
            columns = [(column.name, key) for column in table.columns for key in column.foreign_keys]
            assert there == {(name, key.column.table.name, key.column.name, key.ondelete) for name, key in columns}
    return found


def test_schema_is_the_models_and_the_version_is_the_newest(url):
    store = Store(url)
    with store.engine.connect() as connection:
        assert differences(connection) == []
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == [SCHEMA_VERSION]
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == SCHEMA_VERSION
    upgrade(store.engine)  # nothing left to do
    with store.engine.connect() as connection:
        assert differences(connection) == []


def test_all_migrations_from_nothing_lead_to_the_models(url):
    engine = sa.create_engine(url)
    upgrade(engine)
    with engine.connect() as connection:
        assert differences(connection) == []
    engine.dispose()
    assert Store(url).studies() == []


def test_tables_of_another_program_are_left_alone(tmp_path):
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE study (other TEXT)")
        before = connection.execute("SELECT sql FROM sqlite_master").fetchall()
    with pytest.raises(sa.exc.OperationalError, match="table study already exists"):
        Store(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == before


def test_a_search_becomes_rows(folder, url):
    journals.write_study(folder, [0.9, None, 0.95, 0.95])
    record(folder, url)
    store = Store(url)
    study = store.study("s")
    assert study.state == "complete"
    (summary,) = store.studies()
    assert (summary.counts, summary.best, summary.num_ended) == ({"complete": 3, "failed": 1}, 0.95, 4)
    assert [t.number for t in store.leaderboard(study)] == [2, 3, 0]
    assert [t.number for t in store.leaderboard(study, 1)] == [2]
    best = store.leaderboard(study)[0]
    assert [p.epoch for p in store.progress([best.id])] == [1, 2, 3]
    (entry,) = store.ledger(best.id)
    assert (entry.operation, entry.count, entry.wire_bytes) == ("all_reduce", 3, 120.0)
    (migration,) = store.migrations(study)
    assert (migration.number, migration.from_island, migration.to_island) == (0, 0, 1)
    failed = next(t for t in store.trials(study) if t.state == "failed")
    assert (failed.objective, failed.reason) == (None, "Diverged")


def test_the_best_of_a_minimized_study_is_the_smallest(tmp_path, url):
    folder = journals.start_folder(tmp_path / "s", direction="minimize")
    journals.write_study(folder, [0.9, 0.2, 0.5])
    recorder = Recorder(folder, lambda: Store(url), journals.study_row(folder.path, direction="minimize"))
    recorder.catch_up()
    store = Store(url)
    assert store.studies()[0].best == 0.2
    assert [t.objective for t in store.leaderboard(store.study())] == [0.2, 0.5, 0.9]


def test_recording_again_adds_nothing(folder, url):
    journals.write_study(folder, [0.9, 0.8])
    assert record(folder, url) == 13
    assert record(folder, url) == 0
    assert num_progress(url) == 6


def test_recording_line_by_line_equals_recording_at_once(folder, url):
    lines = JournalWriter(folder.root_journal(0))
    recorder = recorder_of(folder, url)
    journals.start_trial(lines, 0)
    recorder.catch_up()
    assert [t.state for t in Store(url).trials(Store(url).study())] == ["running"]
    for epoch in (1, 2):
        journals.report(lines, 0, epoch)
        recorder.catch_up()
    journals.end_trial(lines, 0, 0.7)
    recorder.catch_up()
    (trial,) = Store(url).trials(Store(url).study())
    assert (trial.state, trial.objective) == ("complete", 0.7)
    assert num_progress(url) == 2


def test_lost_and_retried(folder, url):
    lines, launcher = JournalWriter(folder.root_journal(0)), JournalWriter(folder.launcher_journal())
    journals.start_trial(lines, 0)
    launcher.append(journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "killed"}))
    journals.start_trial(lines, 0, attempt=1)
    journals.end_trial(lines, 0, 0.7, attempt=1)
    record(folder, url)
    trials = Store(url).trials(Store(url).study())
    assert [(t.number, t.attempt, t.state) for t in trials] == [(0, 0, "lost"), (0, 1, "complete")]


def test_lines_that_say_nothing_are_counted_and_told_and_change_nothing(folder, url, caplog):
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    with folder.root_journal(0).open("a") as file:
        for line in ({"event": "trial_ended", "number": 0}, {"event": "made_up"}, {"event": "progress", "number": 77}):
            file.write(json.dumps(line | {"time": 1.0}) + "\n")
    journals.end_trial(lines, 0, 0.5)
    record(folder, url)
    assert [t.objective for t in Store(url).trials(Store(url).study())] == [0.5]
    with Store(url).engine.connect() as connection:
        assert connection.execute(sa.text("SELECT num_skipped FROM journal_offset")).scalar() == 3
    (told,) = caplog.messages
    assert told.startswith("2 lines of root-00000.jsonl cannot be read; the first: a line of trial_ended needs")


def test_one_name_is_one_folder(folder, tmp_path, url):
    record(folder, url)
    other = journals.start_folder(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="already holds a study named 's', with its files in"):
        record(other, url)


def test_a_new_study_under_an_old_name_is_not_taken_for_it(folder, url):
    journals.write_study(folder, [0.9])
    record(folder, url)
    again = Recorder(folder, lambda: Store(url), journals.study_row(folder.path, uid="another"))
    with pytest.raises(StoreError, match="choose another --name, or remove that study with `atoll delete s`"):
        again.catch_up()


def test_two_recorders_record_each_line_once(folder, url):
    journals.write_study(folder, [0.9, 0.8])
    first, second = recorder_of(folder, url), recorder_of(folder, url)
    first._connect()
    second._connect()
    first.catch_up()
    with pytest.raises(Overtaken):
        second.catch_up()
    second.reset()
    assert second.catch_up() == 0
    store = Store(url)
    assert len(store.migrations(store.study())) == 1
    assert num_progress(url) == 6


def test_a_line_that_the_database_refuses_is_set_aside_once(folder, url):
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.report(lines, 0, 1)
    journals.report(lines, 0, 1)  # the same step twice
    journals.start_trial(lines, 1, seed=2**70)
    journals.end_trial(lines, 0, 0.5)
    record(folder, url)
    assert record(folder, url) == 0
    quarantined = [json.loads(line) for line in folder.quarantine.read_text().splitlines()]
    assert [line["event"]["event"] for line in quarantined] == ["progress", "trial_started"]
    assert [t.objective for t in Store(url).trials(Store(url).study())] == [0.5]
    assert num_progress(url) == 1
    with Store(url).engine.connect() as connection:
        assert connection.execute(sa.select(JournalOffset.num_quarantined)).scalar() == 2


def test_nul_and_numbers_that_json_does_not_have_are_stored_alike(folder, url):
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    with folder.root_journal(0).open("a") as file:
        event = {"event": "trial_ended", "time": 1.0, "number": 0, "attempt": 0, "state": "failed", "reason": "a\0b"}
        file.write(json.dumps(event | {"objective": float("nan"), "metrics": {"x": float("inf")}}) + "\n")
    record(folder, url)
    (trial,) = Store(url).trials(Store(url).study())
    assert (trial.reason, trial.objective, trial.metrics) == ("ab", None, {"x": None})


def test_text_that_utf_8_cannot_hold_is_replaced_in_every_field(folder, url):
    lines = JournalWriter(folder.root_journal(0))
    odd = "caf\udce9"
    lines.append(journals.event("host", journals.PLACED | {"hostname": odd}))
    journals.start_trial(lines, 0, host=odd, hyperparameters={odd: odd}, configuration={"data": odd})
    journals.report(lines, 0, 1, metrics={odd: 1.0})
    journals.end_trial(lines, 0, None, reason=odd, traceback=odd, metrics={odd: 1.0}, notes=[odd])
    record(folder, url)
    assert not folder.quarantine.exists()
    store = Store(url)
    (trial,) = store.trials(store.study())
    right = "caf\ufffd"
    assert (trial.state, trial.reason, trial.traceback, trial.host) == ("failed", right, right, right)
    assert (trial.hyperparameters, trial.metrics) == ({right: right}, {right: 1.0})
    assert store.progress([trial.id])[0].metrics == {right: 1.0}
    assert [host.hostname for host in store.hosts(store.study())] == [right]


def test_a_study_whose_folder_is_not_utf_8_is_recorded(tmp_path, url):
    folder = journals.start_folder(tmp_path / "s")
    journals.write_study(folder, [0.5])
    recorder = Recorder(folder, lambda: Store(url), journals.study_row(folder.path / "caf\udce9"))
    recorder.catch_up()
    assert Store(url).study().folder == f"{folder.path}/caf\ufffd"
    recorder.reset()
    recorder.catch_up()  # it knows its study again


@pytest.mark.parametrize(
    ("changes", "state", "objective"),
    [
        ({"ledger": [journals.LEDGER[0] | {"count": {}}]}, "complete", 0.5),
        ({"ledger": [*journals.LEDGER, *journals.LEDGER]}, "complete", 0.5),
        ({"ledger": [journals.LEDGER[0] | {"payload_bytes": 2**70}]}, "complete", 0.5),
        ({"schedules": [{"rank": 0}, {"rank": 0}]}, "complete", 0.5),
    ],
)
def test_a_trial_whose_end_is_set_aside_has_ended(folder, url, changes, state, objective):
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5, **changes)
    record(folder, url)
    assert len(folder.quarantine.read_text().splitlines()) == 1
    (trial,) = Store(url).trials(Store(url).study())
    assert (trial.state, trial.objective, trial.metrics) == (state, objective, {"train_loss": 0.1})
    assert "a part of this trial's end cannot be stored, and is in quarantine.jsonl" in trial.reason


def test_an_end_of_which_nothing_can_be_stored_is_a_failure(folder, url, monkeypatch):
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    add = Store._add

    def refusing(self, session, study_id, events):
        if any(getattr(event, "objective", None) is not None for event in events):
            raise ValueError("no such number")
        add(self, session, study_id, events)

    monkeypatch.setattr(Store, "_add", refusing)
    record(folder, url)
    (trial,) = Store(url).trials(Store(url).study())
    assert (trial.state, trial.objective) == ("failed", None)
    assert trial.reason.endswith("quarantine.jsonl: no such number")


def test_a_recorder_that_fails_for_good_says_so(folder, tmp_path):
    def broken():
        raise RuntimeError("no such thing")

    thread = RecorderThread(Recorder(folder, broken, journals.study_row(folder.path)))
    thread.start()
    assert not thread.finish(1.0)
    assert "no such thing" in str(thread.failure)


@pytest.mark.parametrize("version", sorted(path.stem for path in (Path(__file__).parent / "schemas").glob("*.sql")))
def test_an_older_store_is_upgraded_after_a_copy(tmp_path, version):
    old = tmp_path / "store.db"
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript((Path(__file__).parent / "schemas" / f"{version}.sql").read_text())
    store = Store(f"sqlite:///{old}")
    (summary,) = store.studies()
    assert (summary.study.name, summary.best, summary.counts) == ("s", 0.95, {"complete": 3, "failed": 1})
    with store.engine.connect() as connection:
        assert differences(connection) == []
    with closing(sqlite3.connect(f"{old}.schema-{version}")) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (version,)


def test_every_older_schema_has_a_stored_database():
    versions = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    stored = {path.stem for path in (Path(__file__).parent / "schemas").glob("*.sql")}
    assert stored == {version.revision for version in versions} - {SCHEMA_VERSION}


def test_a_value_that_sqlalchemy_cannot_pass_on_is_set_aside(folder, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/store.db"
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    lines.close()
    refused = sa.exc.StatementError("not a float", "INSERT", {}, ValueError("x"))
    add = Store._add

    def fail(self, session, study_id, added):
        if any(line.name == "trial_ended" for line in added):
            raise refused
        add(self, session, study_id, added)

    monkeypatch.setattr(Store, "_add", fail)
    record(folder, url)
    assert [trial.state for trial in Store(url).trials(Store(url).study())] == ["running"]
    assert folder.quarantine.exists()


LONG = "x" * 3000


def test_no_text_has_a_length_limit(tmp_path, url):
    """Paths of a project's scratch folder are long, and PostgreSQL refuses what SQLite takes."""
    texts = [c for table in Base.metadata.sorted_tables for c in table.columns if isinstance(c.type, sa.String)]
    assert [column for column in texts if column.type.length is not None] == []
    engine = sa.create_engine(url)
    upgrade(engine, "0007")  # the last schema with limits
    engine.dispose()
    folder = journals.start_folder(tmp_path / "run")
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0, host=LONG)
    lines.append(RankPlaced(
        world_rank=0, island=0, worker=0, rank=0, node=0, hostname=LONG, device=LONG, threads=1, process=1,
        processor=LONG,
    ))  # fmt: skip
    lines.close()
    row = journals.study_row(folder.path, workload=f"/{LONG}.py:W", method=f"/{LONG}.py:M", metric=LONG)
    recorder = Recorder(folder, lambda: Store(url), row | {"curve_metric": LONG, "folder": LONG})
    recorder.catch_up()
    recorder.close()
    store = Store(url)
    study = store.study("s")
    assert (study.workload, study.metric) == (f"/{LONG}.py:W", LONG)
    assert [trial.host for trial in store.trials(study)] == [LONG]
    assert [(host.hostname, host.processor) for host in store.hosts(study)] == [(LONG, LONG)]
    assert not folder.quarantine.exists()
    store.close()


def test_a_connection_that_the_server_has_closed_is_replaced_before_its_use(postgresql_url):
    store, other = Store(postgresql_url), sa.create_engine(postgresql_url)
    assert store.studies() == []
    with other.connect() as connection:  # as a pooler's timeout or a restart does
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert store.studies() == []
    store.close()
    other.dispose()


def test_delete_removes_everything(folder, url):
    journals.write_study(folder, [0.9])
    record(folder, url)
    store = Store(url)
    store.delete(store.study("s"))
    assert store.studies() == []
    with store.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0, table.name


def test_a_lock_of_two_seconds_delays_and_loses_nothing(folder, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    Store(url).close()
    thread = RecorderThread(Recorder(folder, lambda: _impatient(url), journals.study_row(folder.path)))
    lock = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    thread.start()
    journals.write_study(folder, [0.9, 0.8])
    released = time.monotonic() + 2.0
    deadline = time.monotonic() + 30.0  # a busy machine may take long to run the thread at all
    failed_meanwhile = None
    while time.monotonic() < released or (failed_meanwhile is None and time.monotonic() < deadline):
        failed_meanwhile = failed_meanwhile or thread.failure
        time.sleep(0.05)
    lock.execute("COMMIT")
    assert thread.finish(30)
    assert "locked" in str(failed_meanwhile)
    assert thread.failure is None
    assert num_progress(url) == 6


def _impatient(url):
    store = Store(url)
    sa.event.listen(store.engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout=100"))
    store.engine.dispose()
    return store


def test_readers_see_whole_batches_while_the_recorder_writes(folder, url):
    lines = JournalWriter(folder.root_journal(0))
    thread = RecorderThread(recorder_of(folder, url))
    thread.start()
    for number in range(30):
        journals.start_trial(lines, number)
        for epoch in range(1, 20):
            journals.report(lines, number, epoch)
        journals.end_trial(lines, number, 0.5)
    deadline = time.monotonic() + 30
    seen = set()
    while time.monotonic() < deadline and 30 not in seen:
        store = Store(url)
        summaries = store.studies()
        seen.add(summaries[0].counts.get("complete", 0) if summaries else 0)
        store.close()
        time.sleep(0.05)
    assert thread.finish(30)
    assert seen <= set(range(31))
    assert 30 in seen
    assert num_progress(url) == 30 * 19


def test_the_thread_ends_with_its_search(folder, url):
    thread = RecorderThread(recorder_of(folder, url))
    thread.start()
    assert thread.finish(20)
    assert thread not in threading.enumerate()


def test_the_example_in_the_docstring_runs():
    (example,) = (test for test in doctest.DocTestFinder(recurse=False).find(Store, globs={}) if test.examples)
    report = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert (result.attempted > 5, result.failed) == (True, 0), "".join(report)


def test_errors_name_the_valid_choices(tmp_path, url):
    with pytest.raises(StoreError, match="does not hold a study named 'x'; it holds none"):
        Store(url).study("x")
    with pytest.raises(StoreError, match="there is no store at"):
        Store(f"sqlite:///{tmp_path}/none.db", create=False)
    with pytest.raises(StoreError, match="a store's URL is like"):
        Store("nonsense")


def test_passwords_are_not_shown():
    with pytest.raises(StoreError) as caught:
        Store("nosuchdb+driver://me:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_benchmark_holds_its_studies(url):
    store = Store(url)
    row = {"name": "b", "uid": "1", "folder": "f", "definition": {}, "num_studies": 2, "started": 1.0}
    for name in ("b.x", "b.y"):
        fields = journals.study_row(Path(name), name, benchmark=row, stage="tune", repeat=0, method_label=name)
        store.add_study(fields)
    store.add_study(journals.study_row(Path("other"), "other"))
    (found,) = store.benchmarks()
    assert [study.name for study in store.studies_of(found)] == ["b.x", "b.y"]
    assert store.benchmark().name == store.benchmark("b").name == "b"
    with pytest.raises(StoreError, match="does not hold a benchmark named 'c'; it holds b"):
        store.benchmark("c")
    store.check_benchmark_name("b", "1")
    with pytest.raises(StoreError, match="already holds a benchmark named 'b'"):
        store.check_benchmark_name("b", None)
    with pytest.raises(StoreError, match="already holds a benchmark named 'b'"):
        store.add_study(journals.study_row(Path("b.z"), "b.z", benchmark=row | {"uid": "2"}))
    store.delete(found)
    assert [summary.study.name for summary in store.studies()] == ["other"]
    assert store.benchmarks() == []


def test_a_newer_schema_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    store = Store(url)
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=f"schema 9999; this atoll knows up to {SCHEMA_VERSION}"):
        Store(url)


def test_exports_are_complete(folder, url):
    journals.write_study(folder, [0.9])
    record(folder, url)
    store = Store(url)
    study = store.study()
    (trial,) = store.leaderboard(study)
    exported = export.configuration(study, trial)
    assert exported["workload"] == "digits_mlp"
    assert exported["origin"]["objective"] == 0.9
    assert export.trial_as_dict(trial)["metrics"] == {"train_loss": 0.1}
    assert export.trial_as_dict(trial).keys() == {column.name for column in TrialRow.__table__.columns} - {"study_id"}


def test_what_has_ended_is_not_lost_whatever_a_launcher_says(folder, url):
    lines, launcher = JournalWriter(folder.root_journal(0)), JournalWriter(folder.launcher_journal())
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.7)
    record(folder, url)
    launcher.append(journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "killed"}))
    record(folder, url)
    (trial,) = Store(url).trials(Store(url).study())
    assert (trial.state, trial.reason) == ("complete", None)


@pytest.mark.process
def test_many_processes_may_make_one_store_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    program = f"from atoll.storage.store import Store; print(len(Store({url!r}).studies()))"
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate(timeout=60)[0].strip() for process in started] == [b"0"] * 4


def test_recorders_of_different_studies_share_a_store(tmp_path, url):
    folders = [journals.start_folder(tmp_path / name, name=name) for name in ("a", "b", "c")]
    threads = [
        RecorderThread(Recorder(f, lambda: Store(url), journals.study_row(f.path, name=f.path.name))) for f in folders
    ]
    for thread in threads:
        thread.start()
    for folder in folders:
        journals.write_study(folder, [0.9] * 20)
    assert all(thread.finish(60) for thread in threads)
    assert {s.study.name: s.counts for s in Store(url).studies()} == {name: {"complete": 20} for name in "abc"}
    assert num_progress(url) == 3 * 20 * 3


def test_a_store_that_is_not_there_yet_is_waited_for(folder, tmp_path):
    """Its folder appears later, as a server's socket would."""
    url = f"sqlite:///{tmp_path}/later/store.db"
    (tmp_path / "later").write_text("in the way")
    thread = RecorderThread(recorder_of(folder, url))
    thread.start()
    journals.write_study(folder, [0.9])
    time.sleep(0.5)
    failed_meanwhile = thread.failure
    (tmp_path / "later").unlink()
    assert failed_meanwhile is not None
    assert thread.finish(30)
    assert num_progress(url) == 3


def tables(url):
    """The trials' and reports' figures, without ids, which a rebuilt file may count differently."""
    with closing(Store(url)) as store:
        trials = {(t.number, t.attempt): (t.state, t.objective) for t in store.trials(store.study("s"))}
    return trials, num_progress(url)


def removed(file, _copy):
    file.unlink()


def removed_with_its_log(file, _copy):
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()


def restored(file, copy):
    copy.replace(file)


def emptied(file, _copy):
    file.unlink()
    sqlite3.connect(file).close()
    file.touch()


@pytest.mark.parametrize("change", [removed, removed_with_its_log, restored, emptied])
def test_a_file_that_vanishes_or_is_replaced_is_recorded_again(folder, tmp_path, caplog, change):
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    lines = JournalWriter(folder.root_journal(0))
    recorder = recorder_of(folder, url)
    copy = tmp_path / "copy.db"
    for number in range(6):
        journals.start_trial(lines, number)
        for epoch in (1, 2):
            journals.report(lines, number, epoch)
        journals.end_trial(lines, number, number / 10)
        recorder.catch_up()
        if number == 1:
            with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        if number == 3:
            change(file, copy)
            assert recorder.catch_up() > 0  # without a new line
            assert "was deleted or replaced" in caplog.text
            assert tables(url)[0] == {(n, 0): ("complete", n / 10) for n in range(4)}
    lines.close()
    assert recorder.catch_up() == 0
    recorder.close()
    assert tables(url) == ({(n, 0): ("complete", n / 10) for n in range(6)}, 12)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert caplog.text.count("was deleted or replaced") == 1


def test_a_file_that_vanishes_during_a_write_is_recorded_again(folder, tmp_path, monkeypatch):
    file = tmp_path / "store.db"
    recorder = recorder_of(folder, f"sqlite:///{file}")
    recorder.catch_up()
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    record, calls = Store.record, []

    def recording(store, *arguments):
        rejected = record(store, *arguments)
        if not calls:
            file.unlink()
        calls.append(1)
        return rejected

    monkeypatch.setattr(Store, "record", recording)
    recorder.catch_up()
    assert tables(f"sqlite:///{file}") == ({(0, 0): ("running", None)}, 0)


@pytest.mark.parametrize("read_only", [False, True])
def test_readers_follow_a_file_that_is_replaced(folder, tmp_path, read_only):
    file, other = tmp_path / "store.db", tmp_path / "other.db"
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    record(folder, f"sqlite:///{file}")
    journals.start_trial(lines, 1)
    record(folder, f"sqlite:///{other}")
    with closing(Store(f"sqlite:///{file}", read_only=read_only)) as store:
        assert len(store.trials(store.study("s"))) == 1
        other.replace(file)
        assert len(store.trials(store.study("s"))) == 2
        file.unlink()
        with pytest.raises(StoreError, match="was deleted"):
            store.studies()
        assert not file.exists()
        record(folder, f"sqlite:///{file}")
        assert len(store.trials(store.study("s"))) == 2


def test_a_store_stays_where_it_is_if_the_working_directory_changes(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    recorder = recorder_of(folder, "sqlite:///here.db")
    recorder.catch_up()
    monkeypatch.chdir(elsewhere)
    journals.start_trial(JournalWriter(folder.root_journal(0)), 0)
    assert recorder.catch_up() == 1
    assert list(elsewhere.iterdir()) == []
    assert urls.absolute(urls.parse("here.db")).database == f"{elsewhere}/here.db"
    assert urls.absolute(urls.parse("sqlite:///:memory:")).database == ":memory:"
    assert urls.absolute(urls.parse("postgres://me@db/atoll")).database == "atoll"


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_database_is_named(tmp_path, read_only):
    (tmp_path / "bad.db").write_text("no database " * 100)
    with pytest.raises(StoreError, match=r"bad\.db is not a SQLite database, or is damaged"):
        Store(f"sqlite:///{tmp_path}/bad.db", read_only=read_only)
    with pytest.raises(StoreError, match="must be a file; it is a folder"):
        Store(f"sqlite:///{tmp_path}", read_only=read_only)
