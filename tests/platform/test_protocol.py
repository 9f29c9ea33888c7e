"""Benchmarks over MPI: tuned, confirmed on test data, stopped and resumed, compared and reported."""

import csv
import io
import json
import math
import signal
import time

import browser
import pytest
import yaml
from commands import atoll, called, called_json, end, journal_lines, start, wait_until

from atoll.analysis import comparison, confirmations
from atoll.platform import protocol
from atoll.platform.benchmark import Benchmark
from atoll.storage.store import Store

pytestmark = pytest.mark.mpi

SMALL = {
    "name": "b",
    "methods": ["ddp", "local_sgd"],
    "workloads": [{"workload": "digits_mlp", "target": 0.5, "epochs": 2}],
    "tuning": {"trials": 3, "sampler": {"name": "propulate"}},
    "confirmation": {"best": 2, "seeds": 2},
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A benchmark that was stopped in its second study, and resumed."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "b.yaml").write_text(yaml.safe_dump(SMALL))
    process = start("benchmark", "b.yaml", cwd=folder)
    second = folder / "atoll-studies" / "b" / "digits_mlp.local_sgd.tune-0"
    wait_until(lambda: second.exists() and journal_lines(second, "trial_started"), timeout=90)
    process.send_signal(signal.SIGTERM)
    stopped = end(process)
    assert stopped.returncode == 75, stopped.stderr
    done = atoll("benchmark", "b.yaml", "--resume", cwd=folder)
    assert "digits_mlp.ddp.tune-0: done before" in done.stdout
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
    assert not {t.seed for t in trials} & {t.seed for t in store.trials(tuned)}
    for trial in trials:
        curve = store.progress([trial.id])
        assert [set(p.metrics) >= {"test_loss", "test_accuracy"} for p in curve] == [True, True]
        assert trial.metrics["test_accuracy"] == curve[-1].metrics["test_accuracy"]
        assert trial.metrics["test_accuracy"] != trial.objective  # of other data
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
        assert (cell.num_trained, cell.num_failed, cell.num_tuned) == (4, 0, 3)
        assert cell.num_reached == sum(r.is_reached for r in found.confirmations if r.method == cell.method)
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
    assert len(rows) == 8
    scored = called_json("score", "b.csv", cwd=finished)
    assert {row["method"] for row in scored["methods"]} == {"ddp", "local_sgd"}
    assert "medians over confirmations" in called("report", "b", cwd=finished).stdout


def check_page(file):
    """Open a report, with the network away; every figure must be drawn."""
    with browser.opened() as page:
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


@pytest.mark.browser
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")
def test_the_report_is_drawn_in_a_browser(finished):
    called("report", "b", "-o", "page.html", cwd=finished)
    said = check_page(finished / "page.html")
    assert "Performance profiles" in said
    assert "a test over workloads takes 3 workloads or more" in said


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.timeout(1000)
def test_tiny(tmp_path):
    """From nothing to a page in under 15 minutes, on two cores."""
    started = time.monotonic()
    atoll("benchmark", "tiny", cwd=tmp_path, timeout=900)
    called("report", "tiny", "-o", "report.html", cwd=tmp_path)
    assert time.monotonic() - started < 900
    said = check_page(tmp_path / "report.html")
    assert "of 5" in said
    found = called_json("report", "tiny", cwd=tmp_path)
    assert found["is_complete"]
    assert len(found["confirmations"]) == 3 * 2 * 5
    assert all(row["is_timed"] for row in found["confirmations"])


def test_a_finished_benchmark_is_taken_up_without_training(finished):
    before = {path: path.stat().st_size for path in finished.rglob("*.jsonl")}
    done = called("benchmark", "b.yaml", "--resume", cwd=finished)
    assert done.stdout.count("done before") == 4
    assert {path: path.stat().st_size for path in finished.rglob("*.jsonl")} == before


def test_what_is_refused_before_anything_starts(finished, tmp_path):
    assert "already holds a benchmark" in called("benchmark", "b.yaml", cwd=finished, code=1).stderr
    changed = SMALL | {"confirmation": {"seeds": 9}}
    (finished / "changed.yaml").write_text(yaml.safe_dump(changed))
    refused = called("benchmark", "changed.yaml", "--resume", cwd=finished, code=1)
    assert "has changed since it was started (confirmation)" in refused.stderr
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(SMALL))
    assert "no benchmark to resume" in called("benchmark", "b.yaml", "--resume", cwd=tmp_path, code=1).stderr
    url = f"sqlite:///{finished}/atoll.db"
    taken = called("benchmark", "b.yaml", "--store", url, cwd=tmp_path, code=1)
    assert "already holds a benchmark named 'b'" in taken.stderr
    assert not (tmp_path / "atoll-studies").exists()


def test_the_best_of_a_tuning_are_the_best_that_differ(tmp_path, monkeypatch):
    from atoll.platform import resume

    made = Benchmark.model_validate(SMALL)
    part = next(part for part in made.parts() if part.stage == "confirm")

    def trial(number, rate, objective, state="complete"):
        past = resume.PastTrial(number, 0, 0, 0, {"learning_rate": rate}, {}, state=state, objective=objective)
        return (number, 0), past

    trials = dict(
        [trial(0, 0.1, 0.8), trial(1, 0.2, 0.9), trial(2, 0.2, 0.7), trial(3, 0.3, 0.95, "pruned"), trial(4, 0.4, 0.85)]
    )
    monkeypatch.setattr(protocol.resume, "read", lambda _: resume.Past(trials=trials))
    assert protocol._best(made, part, tmp_path) == [{"learning_rate": 0.2}, {"learning_rate": 0.4}]
