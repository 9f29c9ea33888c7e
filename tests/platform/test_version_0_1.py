"""Studies of version 0.1.0: a finished one, one that was stopped, and a benchmark, with their store and journals."""

import sqlite3
import tarfile
from pathlib import Path

import pytest
from commands import called, called_json
from conftest import ROOT

from atoll.storage import journal
from atoll.storage.store import Store

MADE_IN = "/old-runs"  # the folder that the files of the archive name


@pytest.fixture
def old(tmp_path):
    """The archive's files, as if they had been made in this folder."""
    with tarfile.open(ROOT / "tests/data/version_0_1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    for path in [*tmp_path.rglob("study.json"), *tmp_path.rglob("benchmark.json")]:
        path.write_text(path.read_text().replace(MADE_IN, str(tmp_path)))
    assert not any(MADE_IN in path.read_text() for path in tmp_path.rglob("*.jsonl"))  # their offsets are in the store
    with sqlite3.connect(tmp_path / "atoll.db") as database:
        for table in ("study", "benchmark"):
            database.execute(f"update {table} set folder = replace(folder, ?, ?)", (MADE_IN, str(tmp_path)))
    return tmp_path


def study(folder: Path, name: str):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return store, store.study(name)


def test_every_line_of_the_old_journals_is_read(old):
    for folder in [*old.rglob("journals")]:
        problems = []
        lines = sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl"))
        assert len(journal.replay(folder, problems)) == lines
        assert problems == []


def test_a_stopped_search_goes_on_and_is_recorded(old):
    before = {trial["number"]: trial["objective"] for trial in called_json("leaderboard", "stopped", cwd=old)}
    called("search", "stopped.yaml", "--resume", "--in-process", cwd=old)
    store, row = study(old, "stopped")
    trials = store.trials(row)
    assert row.state == "complete"
    assert sorted(t.number for t in trials if t.state in ("complete", "pruned", "failed")) == list(range(14))
    after = {trial["number"]: trial["objective"] for trial in called_json("leaderboard", "stopped", cwd=old)}
    assert before.items() <= after.items()
    assert len(before) < len(after)


def test_a_finished_search_says_so_and_can_be_given_more(old):
    flags = [
        "--method",
        "daso",
        "--workload",
        "digits_mlp",
        "--islands",
        "2",
        "--workers",
        "1",
        "--ranks",
        "2",
        "--ranks-per-node",
        "1",
        "--epochs",
        "2",
    ]
    again = ["search", *flags, "--name", "finished", "--resume", "--in-process"]
    done = called(*again, "--trials", "6", cwd=old, code=1)
    assert "finished is complete: it has used its budget of 6 trials" in done.stderr
    called(*again, "--trials", "7", cwd=old)
    store, row = study(old, "finished")
    assert sorted(t.number for t in store.trials(row)) == list(range(7))


def test_results_can_be_listed_exported_and_compared(old):
    names = {s["name"] for s in called_json("studies", cwd=old)}
    assert {"finished", "stopped", "small.digits_mlp.ddp.tune-0"} <= names
    exported = called("export", "finished", "--best", "2", cwd=old).stdout
    assert "".join(line for line in exported.splitlines(keepends=True) if "exported" not in line).split() == [
        word for line in (old / "best.yaml").read_text().splitlines() if "exported" not in line for word in line.split()
    ]
    report = called_json("report", "small", cwd=old)
    assert {(cell["workload"], cell["method"]) for cell in report["cells"]} == {
        ("digits_mlp", "ddp"),
        ("digits_mlp", "local_sgd"),
    }
    resumed = called("benchmark", "small.yaml", "--resume", cwd=old).stdout
    assert resumed.count("already complete") == 4


def test_the_dashboard_shows_them(old):
    from atoll.dashboard.app import create_app

    client = create_app(Store(f"sqlite:///{old}/atoll.db", create=False)).server.test_client()
    assert client.get("/").status_code == 200
