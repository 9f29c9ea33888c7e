"""Stored studies are read and resumed: of version 0.1.0 (a finished, a stopped one, a benchmark) and of journals 2."""

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from commands import called, called_json
from conftest import ROOT
from with_propulate import NEEDS_PROPULATE

from atoll.storage import launches
from atoll.storage.store import Store

# Archives of stores and run folders, and the folder that their files name.
MADE_IN = {"version_0_1": "/old-runs", "journals_version_2": "/old-v2"}


def unpacked(name: str, folder: Path) -> Path:
    """An archive's files, as if they had been made in `folder`."""
    made_in = MADE_IN[name]
    with tarfile.open(ROOT / f"tests/data/{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    for path in [*folder.rglob("study.json"), *folder.rglob("benchmark.json")]:
        path.write_text(path.read_text().replace(made_in, str(folder)))
    assert not any(made_in in path.read_text() for path in folder.rglob("*.jsonl"))  # their offsets are in the store
    with closing(sqlite3.connect(folder / "atoll.db")) as database, database:
        for table in ("study", "benchmark"):
            database.execute(f"update {table} set folder = replace(folder, ?, ?)", (made_in, str(folder)))
    return folder


@pytest.fixture
def old(tmp_path):
    return unpacked("version_0_1", tmp_path)


def study(folder: Path, name: str):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return store, store.study(name)


@pytest.mark.parametrize("archive", MADE_IN)
def test_every_line_of_stored_journals_is_read(archive, tmp_path):
    for folder in [*unpacked(archive, tmp_path).rglob("journals")]:
        problems = []
        lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
        assert len(launches.replay(folder, problems)) == sum(line["event"] != "journal" for line in lines)
        assert problems == []


@NEEDS_PROPULATE
@pytest.mark.slow
@pytest.mark.parametrize("archive", MADE_IN)
def test_a_stopped_search_goes_on_and_is_recorded(archive, tmp_path, caplog):
    old = unpacked(archive, tmp_path)
    before = {trial["number"]: trial["objective"] for trial in called_json("leaderboard", "stopped", cwd=old)}
    with caplog.at_level("WARNING"):
        called("search", "stopped.yaml", "--resume", "--in-process", cwd=old)
    assert caplog.text.count("was started without a record of its code, data and versions") == 1
    store, row = study(old, "stopped")
    trials = store.trials(row)
    assert row.state == "complete"
    assert sorted(t.number for t in trials if t.state in ("complete", "pruned", "failed")) == list(range(14))
    after = {trial["number"]: trial["objective"] for trial in called_json("leaderboard", "stopped", cwd=old)}
    assert before.items() <= after.items()
    assert len(before) < len(after)
    assert [record.version for record in store.provenances(row)] == [1]
    assert {trial.provenance for trial in trials if trial.started > store.provenances(row)[0].time} == {1}
    assert {trial.provenance for trial in trials if trial.started < store.provenances(row)[0].time} == {None}


@NEEDS_PROPULATE
@pytest.mark.slow
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


@NEEDS_PROPULATE
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
