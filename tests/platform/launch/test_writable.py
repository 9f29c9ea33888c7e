"""What cannot write its files says so before anything starts."""

import json
import shutil
import sqlite3
import time
from contextlib import closing

import boards
import disks
import pytest
import ranks
import yaml
from commands import called
from ranks import SUPPORT

import atoll

pytestmark = [pytest.mark.process, pytest.mark.may_skip]

STUDY = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 1}
TRAINING = {"workload": "digits_mlp", "method": "ddp", "ranks": 1}
FULL = "its file system is full: 65,536 bytes are free, and at least 1,048,576 are needed; make room"
READ_ONLY = "its file system is mounted read-only; make room or the folder writable"


@pytest.fixture(params=["full", "read-only"])
def disk(request, tmp_path):
    """A folder in which nothing can be written, and the words for it."""
    (tmp_path / "disk").mkdir()
    full = disks.small(tmp_path / "disk", "64k") if request.param == "full" else disks.read_only(tmp_path / "disk")
    with full as folder:
        yield folder, FULL if request.param == "full" else READ_ONLY


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch):
    """No batch is taken, and no rank is started."""
    from atoll.platform.launch import dry_run, mpiexec

    def started(*_arguments, **_options):
        raise AssertionError("something has started")

    monkeypatch.setattr(dry_run, "check", started)
    monkeypatch.setattr(dry_run, "check_configuration", started)
    monkeypatch.setattr(mpiexec, "start_ranks", started)


def written(folder, content):
    (folder / "file.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("options", [(), ("--in-process",), ("--detach",), ("--continue",)], ids=" ".join)
def test_a_search(tmp_path, disk, options):
    folder, words = disk
    written(tmp_path, STUDY | {"folder": str(folder / "s")})
    done = called("search", "file.yaml", *options, cwd=tmp_path, code=1)
    assert f"error: the study's folder {folder}/s cannot be written: {words}" in done.stderr
    assert "or set `folder` in the study to another one" in done.stderr
    assert list(folder.iterdir()) == []


def test_calls_from_python(tmp_path, disk):
    folder, words = disk
    space = {"x": atoll.Float(0, 1)}
    options = {"store": tmp_path / "a.db", "folder": str(folder / "s")}
    with pytest.raises(Exception, match=words.partition(":")[0]):
        atoll.search(lambda trial: trial["x"], space=space, trials=1, name="s", show=False, **options)
    with pytest.raises(Exception, match=words.partition(":")[0]):
        atoll.Study(space, name="s", **options)


def test_a_benchmark(tmp_path, disk, monkeypatch):
    folder, words = disk
    content = {"workloads": ["digits_mlp"], "methods": ["ddp"], "tuning": {"trials": 1}, "confirmation": {"seeds": 2}}
    written(tmp_path, content | {"name": "b"})
    done = called("benchmark", "../file.yaml", "--store", f"{tmp_path}/atoll.db", cwd=folder, code=1)
    assert f"error: the study's folder {folder}/atoll-studies/b cannot be written: {words}" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", ["--save", "--folder"])
def test_a_training(tmp_path, disk, option):
    folder, words = disk
    written(tmp_path, TRAINING)
    done = called("train", "file.yaml", option, folder / "model", cwd=tmp_path, code=1)
    assert f"error: {option} {folder}/model cannot be written: {words}" in done.stderr
    assert list(folder.iterdir()) == []


def test_an_export(tmp_path, disk):
    folder, words = disk
    boards.study(tmp_path, [0.5])
    if words == FULL:
        (folder / "ballast").write_bytes(bytes(1 << 15))
    done = called("export", "s", "-o", folder / "best.yaml", cwd=tmp_path, code=1)
    assert f"error: the exported file {folder}/best.yaml cannot be written: its file system is" in done.stderr
    assert not (folder / "best.yaml").exists()


def test_a_dashboard_that_edits(tmp_path):
    boards.study(tmp_path, [0.5])
    with disks.read_only(tmp_path):
        done = called("dashboard", "--allow-edit", "--port", "0", cwd=tmp_path, code=1)
    told = f"--allow-edit needs a store that can be written: the store {tmp_path}/atoll.db cannot be written: its file"
    assert f"error: {told} system is mounted read-only" in done.stderr


def test_a_store_on_a_full_disk(tmp_path):
    """Readers of a file in WAL mode share an index next to it, for which there is no room."""
    boards.study(tmp_path, [0.5])
    with closing(sqlite3.connect(tmp_path / "atoll.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with disks.small(tmp_path / "disk", "2m") as folder:
        shutil.copy(tmp_path / "atoll.db", folder)
        with pytest.raises(OSError, match="No space left"):
            (folder / "ballast").write_bytes(bytes(2 << 20))
        assert shutil.disk_usage(folder).free < 4096
        told = f"the store {folder}/atoll.db cannot be written: its file system is full: 0 bytes are free"
        for command in ("studies", "dashboard"):
            done = called(command, cwd=folder, code=1)
            assert told in done.stderr
            assert "SQLite needs room for an index next to it, also to read it" in done.stderr


def test_a_search_with_a_store_that_cannot_be_written(tmp_path, monkeypatch):
    """The results stay in the study's folder, and are recorded later."""
    from atoll.platform.launch import dry_run

    monkeypatch.setattr(dry_run, "check", lambda *_, **__: None)
    monkeypatch.setenv("RAISED", "none")
    (tmp_path / "stores").mkdir()
    home = tmp_path / "home"
    home.mkdir()
    study = {"name": "s", "workload": f"{SUPPORT / 'raising.py'}:Raising", "method": "local_sgd", "trials": 1}
    (home / "s.json").write_text(json.dumps(study | {"space": {"batch_size": 2}}))
    store = tmp_path / "stores/atoll.db"
    options = ("--store", str(store))
    with disks.read_only(store.parent):
        monkeypatch.setattr("atoll.platform.launch.lifecycle.RECORDING_TIMEOUT", 1.0)
        done = called("search", "s.json", "--outside", "--in-process", *options, cwd=home, code=1)
    told = f"warning: the store {store} cannot be written: its file system is mounted read-only; the results stay in"
    assert told in done.stderr
    assert f"`atoll record {home}/atoll-studies/s`" in done.stderr
    called("record", "atoll-studies/s", *options, cwd=home)
    assert "complete" in called("studies", *options, cwd=home).stdout


@pytest.mark.long
@pytest.mark.mpi
def test_inside_a_users_own_mpirun(tmp_path):
    """One rank tells it, and all end."""
    with disks.small(tmp_path / "disk", "64k") as folder:
        arguments = ("-m", "atoll.platform.cli", "search", "--method", "ddp", "--workload", "digits_mlp", "--name", "s")
        start = time.monotonic()
        done = ranks.mpiexec(2, *arguments, "--trials", "1", "--ranks", "2", cwd=folder)
        assert done.returncode != 0
        assert done.stderr.count(f"the study's folder {folder}/atoll-studies/s cannot be written: {FULL}") == 1
        assert list(folder.iterdir()) == []
        assert time.monotonic() - start < 100
