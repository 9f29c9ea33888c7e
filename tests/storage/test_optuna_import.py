"""Optuna's studies in the store: as they were, there and back, and what is told of what cannot be."""

import math
import pickle

import optuna
import pytest
import yaml
from commands import STABLE, called, called_json

from atoll.results.reading import open as open_store
from atoll.storage.optuna_export import export_to_optuna
from atoll.storage.optuna_import import import_from_optuna
from atoll.storage.store import Store, StoreError

pytestmark = pytest.mark.slow


def objective(trial):
    rate = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    if trial.suggest_categorical("kind", ["a", "b"]) == "b":
        trial.suggest_int("width", 8, 64, step=8)
    trial.set_user_attr("memory", 12.5)
    trial.set_user_attr("remark", "a \0 word")
    trial.set_user_attr("tags", ["x", 1])
    for step in range(3):
        trial.report(rate / (step + 1), step)
    if trial.number % 4 == 1:
        raise optuna.TrialPruned
    if trial.number % 4 == 2:
        raise RuntimeError("broken")
    return rate


def searched(storage, name="mine", objective=objective, num_trials=8, **options):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler(seed=0), **options
    )
    study.optimize(objective, n_trials=num_trials, catch=RuntimeError)
    return study


@pytest.fixture
def store(tmp_path):
    return Store(f"sqlite:///{tmp_path}/atoll.db")


def sqlite(tmp_path):
    return f"sqlite:///{tmp_path}/optuna.db"


def journal(tmp_path):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.log")))


@pytest.mark.parametrize(("make", "url"), [(sqlite, "sqlite:///{}/optuna.db"), (journal, "{}/optuna.log")])
def test_every_trial_is_there_with_its_state_values_curve_and_times(tmp_path, store, monkeypatch, make, url):
    study = searched(make(tmp_path))
    study.enqueue_trial({"lr": 0.1})  # waits
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    imported = import_from_optuna(store, url.format(tmp_path))
    assert (imported.name, imported.num_left_out) == ("mine", 1)
    assert imported.counts == {"complete": 4, "pruned": 2, "failed": 2}
    row = store.study("mine")
    assert (row.metric, row.direction, row.state, row.num_trials) == ("value", "minimize", "complete", 8)
    assert (row.method, row.workload) == ("optuna", "optuna")
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    for ours, theirs in zip(store.trials(row), study.trials[:8], strict=True):
        assert (ours.number, ours.state) == (theirs.number, states[theirs.state.name])
        assert ours.hyperparameters == theirs.params
        assert ours.objective == (theirs.value if ours.state == "complete" else None)
        assert {r.step: r.metric for r in store.progress([ours.id])} == theirs.intermediate_values
        assert ours.started == pytest.approx(theirs.datetime_start.timestamp(), abs=1e-3)
        assert ours.finished == pytest.approx(theirs.datetime_complete.timestamp(), abs=1e-3)
        assert ours.metrics == {"memory": 12.5}
        assert ours.notes[0].startswith("remark: a ")
        assert ours.notes[1] == 'tags: ["x", 1]'


def test_it_is_in_tables_figures_and_descriptions(tmp_path, store):
    searched(sqlite(tmp_path), num_trials=20)
    import_from_optuna(store, sqlite(tmp_path))
    read = open_store(f"sqlite:///{tmp_path}/atoll.db").study("mine")
    frame = read.trials()
    assert len(frame) == 20
    assert frame["objective.value"].notna().sum() == 10
    assert set(frame.columns) >= {"hp.lr", "hp.kind", "hp.width", "metric.memory"}
    assert len(read.curves()) == 60
    assert read.best(1)["trial"][0] == frame["objective.value"].idxmin()
    assert set(read.importance().index) <= {"lr", "kind", "width"}
    for figure in ("history", "importance", "parallel", "slices", "timeline", "curves", "populations"):
        assert read.figure(figure).data
    read.report(tmp_path / "report.html")
    shown = called("studies", "mine", cwd=tmp_path).stdout
    assert "0.001 to 1, log" in shown
    assert "integer 8 to 64 in steps of 8" in shown
    assert called_json("leaderboard", "mine", cwd=tmp_path)[0]["hyperparameters"]["lr"] > 0
    assert "value" in called("trial", "mine", "0", cwd=tmp_path).stdout


def test_several_objectives_directions_and_infinite_values(tmp_path, store):
    def two(trial):
        rate = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        return rate, math.inf if trial.number == 0 else 1 - rate

    study = searched(sqlite(tmp_path), objective=two, num_trials=4, directions=["minimize", "maximize"])
    import_from_optuna(store, sqlite(tmp_path))
    row = store.study("mine")
    assert row.objectives == [
        {"name": "values_0", "direction": "minimize"},
        {"name": "values_1", "direction": "maximize"},
    ]
    values = [trial.objectives for trial in store.trials(row)]
    assert values == [[study.trials[0].values[0], None], *(trial.values for trial in study.trials[1:])]


@pytest.mark.process
def test_postgresql_takes_it(tmp_path, new_postgresql_url):
    """Which takes no NUL in a text, and no infinite number in JSON."""
    searched(sqlite(tmp_path))
    store = Store(new_postgresql_url())
    imported = import_from_optuna(store, sqlite(tmp_path))
    assert imported.counts == {"complete": 4, "pruned": 2, "failed": 2}
    assert len(store.trials(store.study("mine"))) == 8
    store.close()


def test_ranges_that_changed_become_one_that_holds_all_values(tmp_path, store):
    study = optuna.create_study(storage=sqlite(tmp_path), study_name="mine")
    for value, high in ((0.5, 1.0), (3.0, 4.0)):
        distribution = optuna.distributions.FloatDistribution(0.0, high)
        study.add_trial(optuna.create_trial(params={"x": value}, distributions={"x": distribution}, value=1.0))
    import_from_optuna(store, sqlite(tmp_path))
    (provenance,) = store.provenances(store.study("mine"))
    (parameter,) = provenance.record["space"]["parameters"]
    assert (parameter["name"], parameter["domain"]) == ("x", "0.5 to 3")


def test_there_and_back(tmp_path):
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 6, "epochs": 3, "space": STABLE}
    study |= {"sampler": {"name": "random"}, "pruning": {"rule": "median", "grace": 1, "startup": 2}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    called("search", "s.yaml", "--in-process", cwd=tmp_path)
    called("export", "s", "--to-optuna", "sqlite:///o.db", cwd=tmp_path)
    said = called("import", "optuna", "sqlite:///o.db", "s", "--name", "back", cwd=tmp_path).stdout
    assert said.startswith("imported back: ")
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    before, after = store.study("s"), store.study("back")
    same = ("workload", "method", "metric", "direction", "objectives", "target", "num_trials")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    columns = ("number", "state", "hyperparameters", "objective", "metrics", "seed", "host", "island", "worker")
    columns += ("seconds", "reason")
    for old, new in zip(store.trials(before), store.trials(after), strict=True):
        assert [getattr(new, name) for name in columns] == [getattr(old, name) for name in columns]
        curves = [{r.step: r.metric for r in store.progress([trial.id])} for trial in (old, new)]
        assert curves[0] == curves[1]
    export_to_optuna(store, after, f"sqlite:///{tmp_path}/again.db")
    first, again = (optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/{f}.db") for f in ("o", "again"))
    assert [t.params for t in first.trials] == [t.params for t in again.trials]
    assert [t.values for t in first.trials] == [t.values for t in again.trials]


def test_a_new_study_learns_from_it_and_trains_its_best_again(tmp_path):
    def rates(trial):
        return -trial.suggest_float("learning_rate", 1e-3, 0.1, log=True)

    searched(sqlite(tmp_path), objective=rates, num_trials=12)
    called("import", "optuna", "sqlite:///optuna.db", cwd=tmp_path)
    study = {"name": "new", "workload": "digits_mlp", "method": "ddp", "trials": 3, "epochs": 1}
    fixed = {"momentum": 0.9, "weight_decay": 0.0, "batch_size": 32, "schedule": "constant", "wire": "float32"}
    study |= {"space": fixed | {"learning_rate": STABLE["learning_rate"]}, "sampler": {"name": "optuna-tpe"}}
    refused = study | {"learn_from": {"study": "mine"}}  # lower values are better there, higher ones here
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(refused))
    done = called("search", "s.yaml", "--in-process", cwd=tmp_path, code=2)
    assert "study mine would minimize value, and this study would maximize accuracy" in done.stderr
    study |= {"warm_start": {"studies": ["mine"], "best": 2}, "objectives": ["validation_loss"]}
    study |= {"learn_from": {"study": "mine", "columns": {"validation_loss": "value"}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    called("search", "s.yaml", "--in-process", cwd=tmp_path)
    trials = {trial["number"]: trial for trial in called_json("leaderboard", "new", cwd=tmp_path)}
    assert [trials[number]["proposal"]["operator"] for number in range(3)] == ["default", "warm_start", "warm_start"]
    best = sorted(t["hyperparameters"]["learning_rate"] for t in called_json("leaderboard", "mine", cwd=tmp_path))
    assert trials[1]["hyperparameters"]["learning_rate"] == best[-1]


def test_what_cannot_be_imported_is_told(tmp_path, store):
    searched(sqlite(tmp_path), num_trials=1)
    searched(sqlite(tmp_path), "other", num_trials=1)
    (tmp_path / "text.log").write_text("no journal\n\nof Optuna's\n")
    (tmp_path / "empty.log").write_text("")
    Store(f"sqlite:///{tmp_path}/store.db").close()
    for url, name, said in [
        ("sqlite:///optuna.db", [], "name a study of the Optuna storage; it has mine, other"),
        ("sqlite:///optuna.db", ["third"], "does not have a study named 'third'; it has mine, other"),
        ("sqlite:///none.db", [], "there is no Optuna storage at sqlite:///"),
        ("sqlite:///store.db", [], "is no storage of Optuna's: it has no tables `studies` and `trials`"),
        ("text.log", [], "text.log must be a SQLite file or one of Optuna's JournalStorage"),
        ("empty.log", [], "the Optuna storage holds no studies"),
        ("optuna.db", ["mine", "--name", " x"], "a study's name must have 1 to 200 characters"),
    ]:
        assert said in called("import", "optuna", url, *name, cwd=tmp_path, code=1).stderr
    assert not (tmp_path / "none.db").exists()
    called("import", "optuna", "optuna.db", "mine", cwd=tmp_path)
    again = called("import", "optuna", "optuna.db", "mine", cwd=tmp_path, code=1).stderr
    assert "already holds a study named 'mine', which was imported: it has no files" in again
    assert "Choose another --name" in again
    called("import", "optuna", "optuna.db", "mine", "--name", "second", cwd=tmp_path)
    assert {summary.study.name for summary in store.studies()} == {"mine", "second"}


def test_what_an_imported_study_cannot_do_is_told(tmp_path, store):
    searched(sqlite(tmp_path), num_trials=4)
    import_from_optuna(store, sqlite(tmp_path))
    flags = ("--method", "ddp", "--workload", "digits_mlp", "--name", "mine", "--in-process")
    for more in ((), ("--resume",)):
        done = called("search", *flags, *more, cwd=tmp_path, code=1)
        assert "which was imported: it has no files, and cannot be resumed" in done.stderr
        assert "`learn_from: {study: mine}`" in done.stderr
    assert "mine was imported: its trials have hyperparameters" in called("export", "mine", cwd=tmp_path, code=1).stderr
    assert "mine was imported: it does not run" in called("stop", "mine", cwd=tmp_path, code=1).stderr
    assert "mine was imported, so it has no files" in called("logs", "mine", cwd=tmp_path, code=1).stderr
    assert "mine was imported: " in called("export", "mine", "--weights", "w", cwd=tmp_path, code=1).stderr
    read = open_store(f"sqlite:///{tmp_path}/atoll.db").study("mine")
    with pytest.raises(StoreError, match="was imported"):
        read.export()
    assert "and no files, as it was imported" in called("delete", "mine", "--yes", cwd=tmp_path).stdout
    assert store.studies() == []
