"""Benchmarks in one process: tuned, confirmed on test data, stopped and resumed, compared and reported."""

import bisect
import contextlib
import csv
import io
import json
import math
import os
import shutil
import signal
import sqlite3
import statistics
import time
from pathlib import Path

import browser
import own_code
import pytest
import yaml
from commands import STABLE, atoll, called, called_json, journal_lines

from atoll.analysis import comparison, confirmations
from atoll.platform.benchmark import benchmark_file, bundled, runner
from atoll.platform.benchmark.benchmark_file import Benchmark
from atoll.platform.launch import running
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.in_process import run_in_process
from atoll.platform.study import registry
from atoll.storage.store import Store

pytestmark = pytest.mark.slow

SMALL = {
    "name": "b",
    "methods": ["ddp", "local_sgd"],
    "workloads": [{"workload": "digits_mlp", "target": 0.5, "epochs": 2}],
    "tuning": {"trials": 3, "sampler": {"name": "evolution"}},
    "confirmation": {"best": 2, "seeds": 2},
    "space": STABLE,
    "device": "cpu",
    "threads": 1,
}
SHORT_EPOCHS = 2  # of the workloads of `tiny`


def run(folder, *, resuming, watch=lambda study: None, store=None, **options):
    """The ending of b.yaml on threads, and what it said; `watch` gets the files of the study that runs."""
    said = []
    with contextlib.chdir(folder):
        ending = runner.run(
            benchmark_file.load("b.yaml"),
            store or f"sqlite:///{folder}/atoll.db",
            resuming=resuming,
            say=said.append,
            follow=lambda plan: contextlib.nullcontext(watch),
            run_ranks=run_in_process,
            **options,
        )
    return ending, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A benchmark that a signal stopped in its second study, and that was resumed."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "b.yaml").write_text(yaml.safe_dump(SMALL))

    def end_the_second(study):
        is_second = study.path.name == "digits_mlp.local_sgd.tune-0"
        if is_second and not study.stop_request.exists() and journal_lines(study.path, "trial_started"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped, _ = run(folder, resuming=False, watch=end_the_second)
    assert (stopped.state, stopped.exit_code) == ("stopped", 75)
    done, said = run(folder, resuming=True)
    assert (done.state, done.exit_code) == ("complete", 0)
    assert any("digits_mlp.ddp.tune-0: already complete" in line for line in said)
    return folder


def read(folder):
    store = Store(f"sqlite:///{folder}/atoll.db")
    return store, store.benchmark("b")


def test_every_part_is_complete_and_belongs_to_the_benchmark(finished):
    store, row = read(finished)
    studies = store.studies_of(row)
    assert row.num_studies == 4
    assert [(s.stage, s.method_label, s.workload_label, s.state) for s in studies] == [
        (stage, method, "digits_mlp", "complete") for stage in ("tune", "confirm") for method in ("ddp", "local_sgd")
    ]
    assert [sum(t.state == "complete" for t in store.trials(study)) for study in studies] == [3, 3, 4, 4]


def test_the_best_are_confirmed_on_test_data_with_fresh_seeds(finished):
    store, row = read(finished)
    tuned, _, confirmed, _ = store.studies_of(row)
    best = [trial.hyperparameters for trial in store.leaderboard(tuned)[:2]]
    assert confirmed.definition["confirm"]["configurations"] == best
    trials = store.trials(confirmed)
    assert [trial.hyperparameters for trial in trials] == best * 2
    assert [t.seed for t in trials] == [500_000, 500_000, 500_001, 500_001]
    assert not {t.seed for t in trials} & {t.seed for t in store.trials(tuned)}
    # of other data: some loss differs, as losses are real numbers
    assert any(p.metrics["test_loss"] != p.validation_loss for t in trials for p in store.progress([t.id]))
    for trial in trials:
        curve = store.progress([trial.id])
        assert [set(p.metrics) >= {"test_loss", "test_accuracy"} for p in curve] == [True, True]
        assert trial.metrics["test_accuracy"] == curve[-1].metrics["test_accuracy"]
        assert trial.proposal["operator"] == "confirm"
        assert trial.oversubscribed is not None


def test_a_confirmations_time_is_that_of_the_first_epoch_at_the_target(finished):
    store, row = read(finished)
    rows = confirmations.read(store, row)
    assert len(rows) == 8
    assert {(r.study, r.trial) for r in rows} == {("0.0", 1), ("0.0", 2), ("0.1", 1), ("0.1", 2)}
    curves = {
        (study.method_label, trial.number): store.progress([trial.id])
        for study in store.studies_of(row)
        if study.stage == "confirm"
        for trial in store.trials(study)
    }
    for found in rows:
        met = [p for p in curves[found.method, found.number] if p.metrics["test_accuracy"] >= 0.5]
        assert (found.seconds, found.steps, found.evaluation) == (
            (met[0].seconds, met[0].step, met[0].epoch) if met else (math.inf,) * 3
        )
        assert found.relative == found.quality / 0.5


def test_the_comparison(finished):
    store, row = read(finished)
    found = comparison.compare(store, row)
    assert found.is_complete
    assert [cell.method for cell in found.cells] == ["ddp", "local_sgd"]
    for cell in found.cells:
        assert (cell.num_trained, cell.num_failed, cell.num_tuned) == (2, 0, 3)
        counting = [r for r in found.confirmations if r.method == cell.method and r.is_chosen]
        assert cell.num_reached == sum(r.is_reached for r in counting)
    assert set(found.quality) == {"ddp", "local_sgd"}
    both = found.improvement["ddp"]["local_sgd"].value + found.improvement["local_sgd"]["ddp"].value
    assert both == pytest.approx(1)
    assert found.separation is None
    assert [len(curve.best) for curve in found.tuning] == [3, 3]
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["name"] == "b"


def test_the_report_is_whole_and_the_table_can_be_scored(finished):
    said = called_json("report", cwd=finished)
    assert said["is_complete"] is True
    called("report", "b", "-o", "b.html", "--csv", "b.csv", cwd=finished)
    page = (finished / "b.html").read_text()
    assert page.count('class="plotly-graph-div"') >= 7
    assert "<link" not in page
    assert 'src="http' not in page
    assert "atoll benchmark b.yaml" in page
    rows = list(csv.DictReader(io.StringIO((finished / "b.csv").read_text())))
    assert len(rows) == 4  # of the configurations that count
    for measure in (
        ("seconds", "passes") if said["scores"]["seconds"]["rows"] else ("passes",)
    ):  # else cores were shared
        scored = called_json("score", "b.csv", "--measure", measure, cwd=finished)
        of_report = {row["method"]: row["score"] for row in said["scores"][measure]["rows"]}
        assert {row["method"]: row["score"] for row in scored["methods"]} == of_report
    assert "medians over confirmations" in called("report", "b", cwd=finished).stdout


def test_steps_are_recorded_of_confirmations_and_of_each_new_best(finished):
    store, row = read(finished)
    for study in store.studies_of(row):
        starts = [line["time"] for line in journal_lines(Path(study.folder), "study_started")]
        best = dict.fromkeys(range(len(starts) + 1), -math.inf)  # a resumed search has not seen the traces of the first
        # Of one worker: in the order in which they ended.
        for trial in (trial for trial in store.trials(study) if trial.state == "complete"):
            start = bisect.bisect(starts, trial.started)
            is_new, best[start] = trial.objective > best[start], max(best[start], trial.objective)
            recorded = [trace.rank for trace in store.traces(trial.id)]
            assert recorded == ([0, 1] if is_new or study.stage == "confirm" else [])


def test_the_benchmark_is_projected(finished):
    said = called_json("project", "b", "--cluster", "laptop", "--nodes", "1,2,...,8", cwd=finished)
    assert said["left_out"] == []
    assert said["cluster"]["overlaps"] is False
    rows = {(row["method"], row["num_nodes"]): row for row in said["predictions"]}
    assert set(rows) == {(method, nodes) for method in ("ddp", "local_sgd") for nodes in (1, 2, 4, 8)}
    store, row = read(finished)
    for method in ("ddp", "local_sgd"):
        # One node of the laptop is what it was measured on. On busy cores ranks wait much longer than messages take.
        trainings = [c for c in comparison.compare(store, row).confirmations if c.method == method and c.is_chosen]
        steps = [p.step for p in store.progress([c.trial_id for c in trainings])]
        measured = statistics.median(c.seconds_in_all for c in trainings) / max(steps)
        assert rows[method, 1]["compute"] <= rows[method, 1]["step"] < 3 * measured
    called("report", "b", "-o", "projected.html", cwd=finished)
    page = (finished / "projected.html").read_text()
    assert "Predictions, not measurements" in page
    assert "Predicted time to target" in page
    assert "predicted seconds (nodes of laptop: 8, weak scaling)" in page
    table = called(
        "project", "b", "--cluster", "a100_hdr200", "--scaling", "strong", "--nodes", "4", cwd=finished
    ).stdout
    assert "These are predictions" in table
    for arguments, words in (
        (("project", "b", "--cluster", "laptop", "--nodes", "2,1"), "numbers from 1"),
        (("project", "b", "--cluster", "lapdog"), "one of the bundled"),
        (("project", "c", "--cluster", "laptop"), "does not hold a study named 'c'"),
    ):
        assert words in called(*arguments, cwd=finished, code=1 if "'c'" in words else 2).stderr


def check_page(chromium, file):
    """Open a report, with the network away; every figure must be drawn."""
    with browser.opened(chromium) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{file}")
        figures = page.locator(".plotly-graph-div")
        drawn = "f => f.querySelector('.trace path, .hm image')"
        page.wait_for_function(f"() => [...document.querySelectorAll('.plotly-graph-div')].every({drawn})")
        assert figures.count() >= 7
        assert page.failures == []
        assert asked == [f"file://{file}"]
        return page.inner_text("body")


@browser.needed
def test_the_report_is_drawn_in_a_browser(finished, chromium):
    called("report", "b", "-o", "page.html", cwd=finished)
    said = check_page(chromium, finished / "page.html")
    assert "Performance profiles" in said
    assert "a test over workloads needs at least 3 workloads" in said


def seconds_of_all(store, in_all):
    """What the whole of `tiny` would take, by what its short form took.

    It has more trainings, of more epochs; what is no training is the same in both forms.
    """
    whole = benchmark_file.load("tiny")
    trained = longer = 0.0
    for study in store.studies_of(store.benchmark("tiny")):
        trials = store.trials(study)
        seconds = [trial.finished - trial.started for trial in trials]
        workload = next(w for w in whole.workloads if w.name == study.workload_label)
        epochs = workload.epochs or registry.workload(workload.workload).epochs
        num_trials = whole.tuning.trials if study.stage == "tune" else whole.confirmation.seeds
        trained += sum(seconds)
        longer += statistics.mean(seconds) * num_trials * epochs / SHORT_EPOCHS
    return in_all - trained + longer


@pytest.mark.mpi
@browser.needed
@pytest.mark.parametrize(
    "num_workloads", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.soak)]
)
def test_tiny_over_mpi(tmp_path, chromium, num_workloads):
    """Its studies, but shorter; as a whole it goes from nothing to a page in under 15 minutes, on two cores."""
    short = yaml.safe_load((bundled.BENCHMARKS / "tiny.yaml").read_text())
    every = [entry.workload for entry in benchmark_file.load("tiny").workloads]
    workloads = every[:num_workloads]
    assert num_workloads <= len(every) == 2
    short["workloads"] = [{"workload": workload, "epochs": SHORT_EPOCHS} for workload in workloads]
    short |= {"tuning": {"trials": 2}, "confirmation": {"best": 1, "seeds": 2}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(short))
    started = time.monotonic()
    atoll("benchmark", "tiny.yaml", cwd=tmp_path, timeout=280)
    called("report", "tiny", "-o", "report.html", cwd=tmp_path)
    in_all = time.monotonic() - started
    check_page(chromium, tmp_path / "report.html")
    found = called_json("report", "tiny", cwd=tmp_path)
    assert found["is_complete"]
    assert len(found["confirmations"]) == 3 * num_workloads * 2
    assert not any(row["oversubscribed"] for row in found["confirmations"])
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    assert seconds_of_all(store, in_all) * len(every) / num_workloads < 900


def test_a_finished_benchmark_is_taken_up_without_training(finished):
    before = {path: path.stat().st_size for path in finished.rglob("*.jsonl")}
    done = called("benchmark", "b.yaml", "--resume", cwd=finished)
    assert done.stdout.count("already complete") == 4
    assert {path: path.stat().st_size for path in finished.rglob("*.jsonl")} == before


def test_what_is_refused_before_anything_starts(finished, tmp_path):
    assert "already holds a benchmark" in called("benchmark", "b.yaml", cwd=finished, code=1).stderr
    changed = SMALL | {"confirmation": {"seeds": 9}}
    (finished / "changed.yaml").write_text(yaml.safe_dump(changed))
    refused = called("benchmark", "changed.yaml", "--resume", cwd=finished, code=1)
    assert "these changed: confirmation" in refused.stderr
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(SMALL))
    assert "--resume needs a benchmark in" in called("benchmark", "b.yaml", "--resume", cwd=tmp_path, code=1).stderr
    url = f"sqlite:///{finished}/atoll.db"
    taken = called("benchmark", "b.yaml", "--store", url, cwd=tmp_path, code=1)
    assert "already holds a benchmark named 'b'" in taken.stderr
    assert not (tmp_path / "atoll-studies").exists()


def test_the_best_of_a_tuning_are_the_best_that_differ(tmp_path, monkeypatch):
    from atoll.platform.search import resume

    made = Benchmark.model_validate(SMALL)

    def trial(number, rate, objective, state="complete"):
        past = resume.PastTrial(number, 0, 0, 0, {"learning_rate": rate}, {}, state=state, objective=objective)
        return (number, 0), past

    found = [trial(0, 0.1, 0.8), trial(1, 0.2, 0.9), trial(2, 0.2, 0.7), trial(3, 0.3, 0.95, "pruned")]
    trials = dict([*found, trial(4, 0.4, 0.85)])
    monkeypatch.setattr(runner.resume, "read", lambda _: resume.Past(trials=trials, newest=dict(trials.keys())))
    tuned = made.study(next(made.parts()), tmp_path)
    assert runner.best(tuned, 2) == [{"learning_rate": 0.2}, {"learning_rate": 0.4}]


def test_a_study_whose_last_line_is_missing_is_ended_on_resume(finished, tmp_path):
    """The launcher died after the last trial; and again, before it had written anything."""
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy" / "atoll-studies" / "b"
    last = folder / "digits_mlp.local_sgd.confirm-0" / "journals" / "launcher.2.jsonl"
    assert "study_ended" in last.read_text()
    last.unlink()
    # The journals' rows are the other folder's: this one is a copy, so it goes to a store of its own.
    store = f"sqlite:///{tmp_path}/other.db"
    done, said = run(tmp_path / "copy", resuming=True, store=store)
    assert done.state == "complete"
    assert sum("already complete" in line for line in said) == 3
    assert "study_ended" in (last.with_name("launcher.3.jsonl")).read_text().splitlines()[-1]


def test_a_benchmark_is_removed_as_a_whole(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "atoll-studies" / "b" / "mine.txt").write_text("kept")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy" / "atoll.db")) as connection:
        connection.execute("UPDATE benchmark SET folder = ?", [str(tmp_path / "copy/atoll-studies/b")])
        connection.commit()
    called("delete", "b", "--yes", cwd=tmp_path / "copy")
    store = Store(f"sqlite:///{tmp_path}/copy/atoll.db")
    assert (store.benchmarks(), store.studies()) == ([], [])
    assert [path.name for path in (tmp_path / "copy" / "atoll-studies" / "b").iterdir()] == ["mine.txt"]


def test_a_resumed_benchmark_measures_with_the_same_code_in_all_of_its_studies(tmp_path, monkeypatch):
    own_code.write(tmp_path, monkeypatch)
    benchmark = SMALL | {"workloads": [{"workload": "w.py:Mine", "name": "mine", "epochs": 1}], "data": "data"}
    benchmark |= {"tuning": {"trials": 1, "sampler": {"name": "random"}}, "space": {"batch_size": 8}, "ranks": 1}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(benchmark | {"confirmation": {"best": 1, "seeds": 1}}))

    def end_the_second(study):
        if study.path.name == "mine.local_sgd.tune-0":
            study.stop_request.touch()

    run(tmp_path, resuming=False, watch=end_the_second)
    assert journal_lines(tmp_path / "atoll-studies/b/mine.ddp.tune-0", "study_ended")[-1]["state"] == "complete"
    (tmp_path / "helper.py").write_text("SHIFT = 0.2\n")
    with pytest.raises(LaunchError, match=r"what b measures has changed since it was started: helper\.py changed"):
        run(tmp_path, resuming=True)
    ending, _ = run(tmp_path, resuming=True, accept_changes=True)
    assert ending.state == "complete"
    store, row = read(tmp_path)
    versions = {
        (study.method_label, study.stage): [len(store.provenances(study)), {t.provenance for t in store.trials(study)}]
        for study in store.studies_of(row)
    }
    assert [note for note in comparison.compare(store, row).notes if "may not compare: helper.py" in note]
    assert versions["ddp", "tune"] == [1, {1}]
    assert versions["local_sgd", "tune"][0] == 2
    assert versions["ddp", "confirm"] == [1, {1}]
    with pytest.raises(LaunchError, match=r"helper\.py changed"):  # still, of the first tuning
        run(tmp_path, resuming=True)
    refused = called("benchmark", "b.yaml", "--accept-changes", cwd=tmp_path, code=2)
    assert "--accept-changes needs --resume" in refused.stderr


def test_a_stop_of_a_benchmark_that_cannot_be_requested_stops_it_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(SMALL | {"tuning": {"trials": 500}}))
    sent = []

    def full(_folder):
        raise OSError(28, "No space left on device")

    @contextlib.contextmanager
    def asked_before_the_search_listens(plan):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        yield lambda study: None

    monkeypatch.setattr(running, "request_stop", full)
    with contextlib.chdir(tmp_path):
        ending = runner.run(
            benchmark_file.load("b.yaml"),
            f"sqlite:///{tmp_path}/atoll.db",
            resuming=False,
            say=lambda line: None,
            follow=asked_before_the_search_listens,
            run_ranks=run_in_process,
        )
    assert ending.state == "stopped"
