"""Reading a store changes nothing: not its rows, not its schema, not its journal mode, not its folder."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import journals
import pytest

from atoll.storage import read_only
from atoll.storage.recorder import Recorder
from atoll.storage.store import READABLE_VERSION, Store, StoreError

SCHEMAS = Path(__file__).parent / "schemas"


@pytest.fixture
def store(tmp_path):
    """A SQLite file with one study, in a folder of its own."""
    file = tmp_path / "a folder#1" / "atoll.db"
    folder = journals.start_folder(tmp_path / "run")
    journals.write_study(folder, [0.9, 0.8])
    recorder = Recorder(folder, lambda: Store(f"sqlite:///{file}"), journals.study_row(folder.path))
    recorder.catch_up()
    recorder.close()
    return file


def state(file):
    return {path.name: path.read_bytes() for path in file.parent.iterdir()}


def opened(file):
    return Store(f"sqlite:///{file}", read_only=True)


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("is_writable", [True, False])
def test_reading_leaves_all_as_it_was(store, mode, is_writable, monkeypatch):
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    before = state(store)
    if not is_writable:
        monkeypatch.setattr(read_only.os, "access", lambda *_: False)
    reading = opened(store)
    assert [trial.objective for trial in reading.trials(reading.study())] == [0.9, 0.8]
    with pytest.raises(Exception, match="attempt to write a readonly database"):
        reading.rename(reading.study(), "other")
    reading.close()
    after = state(store)
    shared = {f"{store.name}-wal", f"{store.name}-shm"} if mode == "wal" and is_writable else set()
    assert {name: content for name, content in after.items() if name not in shared} == before


def test_a_reader_sees_what_is_written_meanwhile(store):
    writing, reading = Store(f"sqlite:///{store}"), opened(store)
    writing.rename(writing.study(), "other")
    assert reading.study().name == "other"
    reading.close()
    writing.close()


@pytest.mark.parametrize("version", sorted(path.stem for path in SCHEMAS.glob("*.sql")))
def test_an_older_store_is_read_and_not_upgraded(tmp_path, version, recwarn):
    file = tmp_path / "old" / "store.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((SCHEMAS / f"{version}.sql").read_text())
    before = state(file)
    reading = opened(file)
    (summary,) = reading.studies()
    assert (summary.study.name, summary.best, summary.study.archived) == ("s", 0.95, False)
    told = [str(warning.message) for warning in recwarn if "older schema" in str(warning.message)]
    assert bool(told) == (version < READABLE_VERSION)
    reading.close()
    assert state(file) == before


def test_there_must_be_a_store(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        opened(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []
    with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(StoreError, match="holds no studies"):
        opened(tmp_path / "empty.db")
    with pytest.raises(StoreError, match="must be a file; it is a folder"):
        opened(tmp_path)


@pytest.mark.process
@pytest.mark.may_skip
def test_a_store_on_a_read_only_mount_is_listed(store):
    mounted = f"mount --bind '{store.parent}' '{store.parent}' && mount -o remount,ro,bind '{store.parent}'"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True).returncode:
        pytest.skip("mounting needs rights")
    command = f"{mounted} && '{sys.executable}' -m atoll.platform.cli studies --json --store 'sqlite:///{store}'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert '"name": "s"' in done.stdout
