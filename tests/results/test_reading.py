"""Results from Python: `atoll.open(url).study(name)`."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import warnings

import boards
import journals
import pytest
import yaml
from conftest import ROOT

import atoll
from atoll.storage import rank_logs
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Lock
from atoll.storage.store import StoreError


def opened(path):
    return atoll.open(path / "atoll.db")


def state_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"}


@contextlib.contextmanager
def held(path):
    """The lock of the study in `path`, held by this process."""
    lock = Lock(path / "study-0" / "lock")
    lock.acquire()
    yield
    lock.release()


@pytest.fixture
def study(tmp_path):
    boards.study(tmp_path, [0.5, None, 0.7, 0.6]).close()
    with opened(tmp_path) as results:
        yield results.study("s")


def test_the_newest_study_and_the_default_store(tmp_path, monkeypatch):
    boards.study(tmp_path, [0.5], name="old", started=1.0).close()
    boards.study(tmp_path, [0.5], name="new", started=2.0).close()
    assert opened(tmp_path).study().name == "new"
    monkeypatch.chdir(tmp_path)
    assert list(atoll.open().studies()["study"]) == ["new", "old"]
    monkeypatch.setenv("ATOLL_STORE", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(StoreError, match="there is no store"):
        atoll.open()
    with pytest.raises(StoreError, match="it holds new, old"):
        opened(tmp_path).study("newer")


def test_the_list_of_studies_counts_trials_by_state(tmp_path):
    boards.study(tmp_path, [0.5, None, 0.7]).close()
    (row,) = opened(tmp_path).studies().to_dict("records")
    assert (row["complete"], row["failed"], row["pruned"], row["best"]) == (2, 1, 0, 0.7)
    assert (row["state"], row["objective"], row["direction"]) == ("interrupted", "accuracy", "maximize")


def test_the_best_trials_come_first(study):
    assert study.best(2)["trial"].tolist() == [2, 3]
    assert study.best(99)["trial"].tolist() == [2, 3, 0]
    assert study.best(1)["hp.B"].tolist() == [3]
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        study.best(0)


def test_a_front_needs_several_objectives(study, tmp_path):
    with pytest.raises(StoreError, match="needs several objectives; s has one, accuracy"):
        study.front()
    objectives = [{"name": "validation_error", "direction": "minimize"}, {"name": "seconds", "direction": "minimize"}]
    _, lines, recorder = boards.record(tmp_path, "two", metric="validation_error", objectives=objectives)
    for number, values in enumerate([(0.6, 6.0), (0.5, 1.0), (0.1, 5.0)]):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, values[0], objectives=list(values))
    recorder.catch_up()
    front = opened(tmp_path).study("two").front()
    assert sorted(front["trial"]) == [1, 2]
    assert front["place"].tolist() == [1, 2]


def test_importance_is_a_series_and_failures_a_table(study):
    shares = study.importance()
    assert set(shares.index) == {"B", "learning_rate"}
    assert shares.sum() == pytest.approx(1.0)  # rounding of two shares
    assert shares.tolist() == sorted(shares, reverse=True)
    assert shares.attrs["num_trials"] == 3
    (kind,) = study.failures().to_dict("records")
    assert (kind["count"], kind["trial"]) == (1, 1)
    assert len(study.failures("choice")) == 0  # nothing categorical
    with pytest.raises(ValueError, match="by must be 'kind' or 'choice'; got 'rank'"):
        study.failures("rank")


def test_failures_by_choice(tmp_path):
    _, lines, recorder = boards.record(tmp_path)
    for number, which in enumerate("aab"):
        journals.start_trial(lines, number, hyperparameters={"which": which})
        journals.end_trial(lines, number, 0.5 if number else None)
    recorder.catch_up()
    rows = opened(tmp_path).study("s").failures("choice")
    assert rows[["hyperparameter", "value", "num_failed", "share"]].to_numpy().tolist() == [
        ["which", "a", 1, 0.5], ["which", "b", 0, 0.0],
    ]  # fmt: skip


def test_exports_are_those_of_the_command(study, tmp_path):
    (best,) = study.export(tmp_path / "out" / "best.yaml")
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["origin"] == best["origin"]
    assert best["origin"]["trial"] == 2
    study.export(tmp_path / "two.json", best=2)
    assert len(json.loads((tmp_path / "two.json").read_text())["configurations"]) == 2
    assert study.export(trial=1)[0]["origin"]["trial"] == 1
    with pytest.warns(UserWarning, match="s has 3 complete trials, fewer than best=9; the export has all of them"):
        assert len(study.export(best=9)) == 3
    with pytest.raises(ValueError, match=r"must end in \.yaml, \.yml, \.json; got 'best.txt'"):
        study.export(tmp_path / "best.txt")
    with pytest.raises(StoreError, match="needs several objectives"):
        study.export(pareto=True)


def test_all_that_is_known_of_a_trial(study):
    found = study.trial(1)
    assert (found["state"], found["place"], found["num_attempts"]) == ("failed", None, 1)
    assert found["traceback"] == "Traceback: <script>"
    assert [report["epoch"] for report in found["curve"]] == [1, 2, 3]
    assert "tells the output of trial 1 of s from others'" in found["no_output"]
    assert study.trial(2)["place"] == 1
    json.dumps(found, allow_nan=False)
    with pytest.raises(StoreError, match="the study has no trial 9"):
        study.trial(9)


def test_a_trials_output_is_collected_from_its_workers_ranks(tmp_path):
    _, lines, recorder = boards.record(tmp_path)
    lines.append(journals.event("host", journals.PLACED))
    lines.append(journals.event("host", journals.PLACED | {"world_rank": 1, "rank": 1}))
    lines.append(journals.event("host", journals.PLACED | {"world_rank": 2, "worker": 1}))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    recorder.catch_up()
    folder = StudyFolder(tmp_path / "study-0")
    for rank in range(3):
        folder.rank_log(rank).write_bytes(rank_logs.heading((0, 0), 1.0) + f"rank {rank}".encode())
    found = opened(tmp_path).study("s")
    assert re.findall("^rank .*", found.trial(0)["output"], re.MULTILINE) == ["rank 0", "rank 1"]
    assert "rank 0" in found.output(0)
    folder.rank_log(0).write_bytes(rank_logs.heading((0, 0), 1.0))
    folder.rank_log(1).unlink()
    assert found.trial(0)["output"] == ""


def test_a_renamed_study_is_followed_and_a_deleted_one_told(tmp_path):
    store = boards.study(tmp_path, [0.5], uid="u")
    found = opened(tmp_path).study("s")
    store.rename(store.study("s"), "other")
    assert found.name == "other"
    assert found.trials().attrs["study"] == "other"
    store.delete(store.study("other"))
    with pytest.raises(StoreError, match="does not hold a study named 'other'"):
        found.trials()


def test_waiting_ends_with_the_study(tmp_path):
    _, _, recorder = boards.record(tmp_path)
    found = opened(tmp_path).study("s")
    with held(tmp_path):
        assert found.state == "running"
        with pytest.raises(TimeoutError, match=r"s still runs after 0\.05 s"):
            found.wait(timeout=0.05, poll=0.01)

        def end():
            time.sleep(0.1)
            launcher = JournalWriter(StudyFolder(tmp_path / "study-0").launcher_journal())
            launcher.append(journals.event("study_ended", {"state": "complete", "reason": None}))
            recorder.catch_up()

        thread = threading.Thread(target=end)
        thread.start()
        assert found.wait(timeout=30, poll=0.01) == "complete"
        thread.join()


def test_only_a_running_study_is_asked_to_stop(tmp_path):
    boards.record(tmp_path)
    found, folder = opened(tmp_path).study("s"), tmp_path / "study-0"
    assert found.state == "interrupted"
    with pytest.raises(StoreError, match=r"s is not running: no live process holds"):
        found.stop()
    assert not (folder / "stop").exists()
    with held(tmp_path):
        found.stop()
    assert (folder / "stop").exists()
    (folder / "study.json").write_text(json.dumps({"name": "another", "uid": "x"}))
    with pytest.raises(StoreError, match="holds another study than the store's s"):
        found.stop()
    (folder / "study.json").unlink()
    with pytest.raises(StoreError, match=r"s has no files in .* on this host"):
        found.stop()


def test_reading_changes_no_file(tmp_path):
    boards.study(tmp_path, [0.5, None, 0.7]).close()
    before = state_of(tmp_path)
    with opened(tmp_path) as results, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = results.study("s")
        results.studies()
        study.trials(), study.curves(), study.best(2), study.importance(), study.failures(), study.summary()
        study.figure("history"), study.export(best=2), study.trial(0), repr(results), repr(study)
        assert study.state == "interrupted"
    after = state_of(tmp_path)
    # SQLite's readers of a file in WAL mode share an empty log.
    assert {
        path: content for path, content in after.items() if not (path.suffix == ".db-wal" and not content)
    } == before


@pytest.mark.process
def test_neither_torch_nor_mpi_is_loaded(tmp_path):
    boards.study(tmp_path, [0.5, None, 0.7]).close()
    program = (
        "import sys, atoll; s = atoll.open('atoll.db').study(); s.trials(); s.curves(); s.best(); s.importance()\n"
        "s.failures(); s.figure('parallel'); s.trial(0); s.export('b.yaml'); s.report('r.html'); s.state; s.summary()\n"
        "print(sorted({'torch', 'mpi4py', 'propulate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.process
def test_tables_need_no_libraries_of_figures(tmp_path):
    boards.study(tmp_path, [0.5]).close()
    program = (
        "import sys, atoll; atoll.open('atoll.db').study().trials()\n"
        "print(sorted({'plotly', 'dash', 'optuna', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_pages_example_runs(tmp_path, monkeypatch, capsys):
    boards.study(tmp_path, [0.5, None, 0.7, 0.6], name="quickstart").close()
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reading_results.md").read_text(), re.DOTALL)
    exec(block, {})
    assert "objective.accuracy" in capsys.readouterr().out
    assert len(yaml.safe_load((tmp_path / "best.yaml").read_text())["configurations"]) == 3


def test_the_page_lists_every_method_and_figure():
    from atoll.dashboard.drawing import FIGURES, options_of

    page = (ROOT / "docs/reading_results.md").read_text()
    for kind in (atoll.Results, atoll.StudyResults):
        for name in (name for name in vars(kind) if not name.startswith("_")):
            assert re.search(rf"`\.{name}[(`]", page) or name == "close", name
    for name in FIGURES:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{option}`" in line for option in options_of(name))
