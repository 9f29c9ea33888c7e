"""Whole searches in one process: every sampler, pruning that ranks agree on, objectives, warm starts, resume."""

import json
import math
from collections import Counter, defaultdict

import pytest
import yaml
from commands import COUNTING, STABLE, called, journal_lines, stopped_when

from atoll.analysis import clusters, pareto
from atoll.analysis.formatting import counted
from atoll.analysis.leaderboard import losses
from atoll.analysis.scaling import Recorded, scaled
from atoll.storage.store import Store

pytestmark = pytest.mark.slow

STUDY = {"name": "s", "workload": "digits_mlp", "method": "ddp", "epochs": 2, "topology": {"threads": 1}}


def write(folder, /, **content):
    topology = STUDY["topology"] | content.pop("topology", {})
    (folder / "s.yaml").write_text(yaml.safe_dump(STUDY | content | {"topology": topology}))


def search(folder, *arguments, code=0):
    return called("search", "s.yaml", "--outside", "--in-process", *arguments, cwd=folder, code=code)


def read(folder, name="s"):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    study = store.study(name)
    return store, study, store.trials(study)


@pytest.mark.parametrize(
    "samplers",
    [
        ["optuna-tpe", "optuna-cmaes", "optuna-nsga2", "optuna-nsga3"],
        pytest.param(["optuna-gp", "optuna-qmc", "random", "grid"], marks=pytest.mark.long),
    ],
)
def test_islands_with_samplers_of_their_own(tmp_path, samplers):
    write(
        tmp_path,
        trials=32,
        epochs=1,
        topology={"islands": 4},
        sampler=[{"name": name} | ({"startup": 3} if name in ("optuna-tpe", "optuna-gp") else {}) for name in samplers],
        migration={"topology": "ring"},
        space={"schedule": "constant", "wire": "float32"},
    )
    search(tmp_path)
    store, study, trials = read(tmp_path)
    assert Counter(t.number for t in trials) == Counter(range(32))
    assert {t.state for t in trials} <= {"complete", "failed"}
    by_island = defaultdict(set)
    for trial in trials:
        by_island[trial.island].add(trial.proposal["operator"])
        assert trial.proposal["seconds"] >= 0
        assert trial.proposal["waited"] >= 0
    for island, name in enumerate(samplers):
        # a ticket that lay ahead of another island's worker may have come with its proposal
        assert name in by_island[island]
    assert {(m.from_island, m.to_island) for m in store.migrations(study)} <= {(0, 1), (1, 2), (2, 3), (3, 0)}
    assert store.migrations(study)


@pytest.mark.parametrize("name", ["evolution", "optuna-tpe"])
def test_four_workers_of_an_island_share_a_sampler(tmp_path, name):
    write(tmp_path, trials=32, epochs=1, topology={"workers": 4}, sampler={"name": name})
    search(tmp_path)
    _, _, trials = read(tmp_path)
    assert Counter(t.number for t in trials) == Counter(range(32))
    assert len({t.worker for t in trials}) == 4
    bred = [t for t in trials if t.proposal["parents"]]
    known = {t.number: t for t in trials}
    if name == "evolution":
        assert bred
        # parents come from other workers, too
        assert any(known[parent].worker != t.worker for t in bred for parent in t.proposal["parents"])


def test_all_ranks_of_a_worker_end_a_pruned_trial_after_the_same_step(tmp_path, monkeypatch):
    counts = tmp_path / "counts"
    counts.mkdir()
    write(
        tmp_path,
        workload=COUNTING,
        check=False,
        trials=16,
        epochs=4,
        topology={"workers": 2, "ranks": 2},
        pruning={"rule": "asha", "factor": 2},
        space=STABLE,
    )
    monkeypatch.setenv("COUNTING", str(counts))
    search(tmp_path)
    store, study, trials = read(tmp_path)
    states = Counter(t.state for t in trials)
    assert states["pruned"] >= 3
    assert states["complete"] >= 2
    assert set(states) == {"pruned", "complete"}
    for trial in trials:
        curve = store.progress([trial.id])
        steps = [int(file.read_text()) for file in counts.glob(f"{trial.number}.*")]
        assert steps == [curve[-1].step] * 2
        assert len(curve) == 4 if trial.state == "complete" else len(curve) in (1, 2)  # rungs are 1, 2 and the end
        if trial.state == "pruned":
            assert trial.reason == f"pruned after epoch {curve[-1].epoch}"
            assert trial.objective is None
    assert all(t.state == "complete" for t in store.leaderboard(study))


def test_several_objectives(tmp_path):
    write(
        tmp_path,
        method="local_sgd",
        trials=16,
        topology={"ranks": 2, "islands": 2},
        objectives=["validation_error", "bytes_sent"],
        sampler=[{"population": 4}, {"name": "optuna-nsga2", "population": 4}],
    )
    done = search(tmp_path)
    assert "bytes_sent" in done.stdout
    store, study, _ = read(tmp_path)
    complete = store.leaderboard(study)
    assert [t.objective for t in complete] == [t.objectives[0] for t in complete]
    assert all(t.objectives[1] == t.wire_bytes for t in complete)
    front = {complete[i].number for i in pareto.front([losses(study, t) for t in complete])}
    shown = json.loads(called("leaderboard", "s", "--json", cwd=tmp_path).stdout)
    assert {row["number"] for row in shown if row["front"]} == front
    assert [row["front"] for row in shown] == sorted((row["front"] for row in shown), reverse=True)
    share = pareto.dominated_share([losses(study, t) for t in complete])
    expected = f"the Pareto front has {counted(len(front), 'trial')} and dominates {share:.0%} of the volume"
    assert expected in called("leaderboard", "s", cwd=tmp_path).stdout
    called("export", "s", "--pareto", "-o", "front.json", cwd=tmp_path)
    content = json.loads((tmp_path / "front.json").read_text())
    configurations = content.get("configurations", [content])
    assert {c["origin"]["trial"] for c in configurations} == front
    assert set(configurations[0]["origin"]["objectives"]) == {"validation_error", "bytes_sent"}
    # A second search starts with the front.
    warm = {"file": "front.json", "best": len(front)}
    write(tmp_path, name="t", method="local_sgd", trials=1 + len(front), topology={"ranks": 2}, warm_start=warm)
    search(tmp_path)
    _, _, again = read(tmp_path, "t")
    assert again[0].proposal["operator"] == "default"
    expected = [c["hyperparameters"] for c in configurations]
    started = [t.configuration["hyperparameters"] for t in again if t.proposal["operator"] == "warm_start"]
    assert started == [h for h in expected if h != again[0].configuration["hyperparameters"]]


def test_metrics_of_the_method_are_objectives(tmp_path, caplog):
    content = {"method": "oialr", "trials": 4, "epochs": 1, "space": {"delay": 0.1, "update_period": 0.1}}
    write(tmp_path, objectives=["accuracy", "trainable_share", "compression"], **content)
    search(tmp_path)
    store, study, _ = read(tmp_path)
    for trial in store.leaderboard(study):
        assert trial.objective == trial.objectives[0]
        assert trial.objectives[1:] == [trial.metrics[name] for name in ("trainable_share", "compression")]
    shown = called("leaderboard", "s", cwd=tmp_path).stdout
    assert "trainable_share" in shown
    assert "compression" in shown
    called("export", "s", "-o", "best.json", cwd=tmp_path)
    origin = json.loads((tmp_path / "best.json").read_text())["origin"]
    assert set(origin["objectives"]) == {"accuracy", "trainable_share", "compression"}
    write(tmp_path, name="alone", objectives=["compression"], **content)
    search(tmp_path)
    store, study, _ = read(tmp_path, "alone")
    best = store.leaderboard(study)[0]
    assert (study.metric, study.direction, study.curve_metric) == ("compression", "maximize", "accuracy")
    assert best.objective == max(trial.objective for trial in store.trials(study))
    assert "accuracy" in best.metrics
    # A later search is told its trials.
    write(tmp_path, name="told", objectives=["accuracy", "compression"], learn_from=[{"study": "alone"}], **content)
    search(tmp_path)
    assert "learned from 4 of 4 rows" in caplog.text


def test_predicted_objectives_are_those_of_the_recorded_steps_and_say_so(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        (clusters.FOLDER / "a100_hdr200.yaml").read_text().replace("a100_hdr200", "mine")
    )
    objectives = [
        {"projected_seconds_to_target": {"cluster": "mine.yaml", "nodes": 16}},
        {"projected_seconds": {"cluster": "laptop", "nodes": 2, "scaling": "strong"}},
    ]
    content = {"method": "local_sgd", "epochs": 3, "target": 0.8, "topology": {"ranks": 2}, "space": {"batch_size": 32}}
    write(tmp_path, objectives=objectives, trials=4, **content)
    told = search(tmp_path).stdout
    label = "projected_seconds_to_target (predicted: mine, 16 nodes)"
    strong = "projected_seconds (predicted: laptop, 2 nodes, strong scaling)"
    assert f"note: {label} is predicted, not measured" in told
    store, study, trials = read(tmp_path)
    assert [one["name"] for one in study.all_objectives] == [label, strong]
    curves = {trial.id: store.progress([trial.id]) for trial in trials}
    for trial in trials:
        reached = [report.step for report in curves[trial.id] if report.metric >= 0.8]
        assert math.isfinite(trial.objectives[0] or math.inf) == bool(reached)  # a missed target is infinite: null
        traces = [row.content for row in store.traces(trial.id)]
        if not traces or not reached:
            continue
        recorded = Recorded(traces=traces, steps_per_epoch=curves[trial.id][0].step, batch_size=32)
        at = scaled(recorded, clusters.cluster(str(tmp_path / "mine.yaml")), 16, "weak", until=reached[0])
        assert trial.objectives[0] == at.seconds(reached[0])
        at = scaled(recorded, clusters.cluster("laptop"), 2, "strong")
        assert trial.objectives[1] == at.seconds(curves[trial.id][-1].step)
    assert all(trial.metrics["projection_cpu_seconds"] >= 0 for trial in trials)
    assert any(store.traces(trial.id) for trial in trials)
    shown = called("leaderboard", "s", cwd=tmp_path).stdout
    assert label in shown
    assert strong in shown
    called("table", "s", "-o", "table.csv", cwd=tmp_path)
    assert f"objective.{label}" in (tmp_path / "table.csv").read_text()
    called("report", "s", "-o", "report.html", cwd=tmp_path)
    assert label in (tmp_path / "report.html").read_text()
    called("export", "s", "-o", "best.json", cwd=tmp_path)
    assert label in json.loads((tmp_path / "best.json").read_text())["origin"]["objectives"]
    # The cluster is a part of the study, which is not continued with another one.
    changed = (tmp_path / "mine.yaml").read_text().replace("ranks_per_node: 4", "ranks_per_node: 8")
    (tmp_path / "mine.yaml").write_text(changed)
    write(tmp_path, objectives=objectives, trials=5, **content)
    assert "the study has changed since it was started (objectives: " in search(tmp_path, "--resume", code=1).stderr


@pytest.mark.parametrize(
    "name", ["evolution", *(pytest.param(name, marks=pytest.mark.long) for name in ("optuna-tpe", "optuna-cmaes"))]
)
def test_a_stopped_and_resumed_search_is_the_uninterrupted_one(tmp_path, monkeypatch, name):
    """One worker and a seed; the objective is the loss, which is the same to the last bit."""
    counts = tmp_path / "counts"
    counts.mkdir()
    sampler = {"name": name} | {"evolution": {"population": 3}, "optuna-tpe": {"startup": 3}}.get(name, {})
    content = {"workload": COUNTING, "trials": 12, "epochs": 1, "objectives": ["validation_loss"], "sampler": sampler}
    content |= {"check": False, "space": STABLE | {"batch_size": 64}}  # few steps
    monkeypatch.setenv("COUNTING", str(counts))
    histories = []
    for stops in (False, True):
        folder = tmp_path / str(stops)
        folder.mkdir()
        write(folder, **content)
        study = folder / "atoll-studies" / "s"
        if stops:
            monkeypatch.setenv("SECONDS_PER_STEP", "0.02")  # time for a stop
            with stopped_when(study, "trial_ended", 5):
                search(folder, code=75)
            assert len(journal_lines(study, "trial_ended")) < 12
            monkeypatch.delenv("SECONDS_PER_STEP")
        search(folder, *(["--resume"] if stops else []))
        _, _, trials = read(folder)
        histories.append({t.number: (t.hyperparameters, t.objective) for t in trials if t.state == "complete"})
    assert len(histories[0]) == 12
    assert histories[1] == histories[0]


def test_individuals_move_along_one_path_each_also_after_a_resume(tmp_path):
    """Each move starts where the last one ended, whoever makes it; the first one where the individual was bred."""
    (tmp_path / "sphere.py").write_text("def sphere(trial):\n    return trial['x'] ** 2\n")
    content = {
        "name": "s",
        "objective": "sphere.py:sphere",
        "direction": "minimize",
        "space": {"x": {"low": -1.0, "high": 1.0}},
        "topology": {"islands": 3, "workers": 2},
        "sampler": {"name": "evolution"},
        "migration": {"probability": 1.0, "pollination": False},
    }
    for trials, options in ((60, []), (120, ["--resume"])):
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content | {"trials": trials}))
        search(tmp_path, *options)
    folder = tmp_path / "atoll-studies" / "s"
    bred = {line["number"]: line["island"] for line in journal_lines(folder, "trial_started")}
    paths = defaultdict(dict)
    for line in journal_lines(folder, "migrated"):
        assert line["steps"] not in paths[line["number"]]
        paths[line["number"]][line["steps"]] = line["from_island"], line["to_island"]
    for number, path in paths.items():
        assert sorted(path) == list(range(len(path)))
        starts, ends = zip(*(path[steps] for steps in range(len(path))), strict=True)
        assert starts == (bred[number], *ends[:-1])
    assert any(bred[number] in {target for _, target in path.values()} for number, path in paths.items())


def test_what_violates_a_constraint_is_refused_and_counted(tmp_path):
    constraint = "batch_size <= 24"
    write(tmp_path, trials=20, epochs=1, topology={"workers": 2}, sampler={"name": "random"}, constraints=[constraint],
          default_first=False)  # fmt: skip
    search(tmp_path)
    _, study, trials = read(tmp_path)
    assert len(trials) == 20
    assert all(t.hyperparameters["batch_size"] <= 24 for t in trials)
    folder = tmp_path / "atoll-studies" / "s"
    refused = journal_lines(folder, "refused")
    assert study.num_refused == len(refused) > 0
    assert all(line["hyperparameters"]["batch_size"] > 24 for line in refused)
    assert all(line["reason"] == f"it violates {constraint}" for line in refused)


def test_a_grid_is_trained_once_with_the_default_among_its_points(tmp_path):
    space = {
        "wire": "float32",
        "schedule": "constant",
        "weight_decay": 0.0,
        "learning_rate": {"low": 0.01, "high": 0.1},
    }
    space |= {"batch_size": {"choices": [32, 64]}, "momentum": 0.9}
    write(tmp_path, epochs=1, sampler={"name": "grid", "points": 3}, trials=6, space=space)
    search(tmp_path)
    _, _, trials = read(tmp_path)
    chosen = {(t.hyperparameters["learning_rate"], t.hyperparameters["batch_size"]) for t in trials}
    assert (trials[0].proposal["operator"], len(trials), len(chosen)) == ("default", 6, 6)
