"""Studies in Optuna storages: as Optuna reads them, and as optuna-dashboard shows them."""

import json
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
import pytest
import yaml
from commands import called, called_json

from atoll.storage.optuna_export import distributions_of
from atoll.storage.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    study = {
        "name": "s",
        "workload": "digits_mlp",
        "method": "ddp",
        "trials": 8,
        "epochs": 3,
        "sampler": {"name": "random"},
        "pruning": {"rule": "median", "grace": 1, "startup": 2},
        "topology": {"threads": 1},
        "space": {
            "schedule": {"choices": ["constant", "cosine"]},
            "min_lr": {"low": 1e-5, "high": 1e-3, "log": True, "only_if": {"schedule": "cosine"}},
            "learning_rate": {"low": 0.001, "high": 1e6, "log": True},
        },
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(study))
    called("search", "s.yaml", "--in-process", "--keep-going", cwd=folder)
    study |= {"name": "two", "trials": 3, "pruning": None, "epochs": 1, "space": {}}
    study["objectives"] = ["accuracy", {"name": "bytes_sent"}]
    (folder / "two.yaml").write_text(yaml.safe_dump(study))
    called("search", "two.yaml", "--in-process", cwd=folder)
    for name in ("s", "two"):
        called("export", name, "--to-optuna", "sqlite:///optuna.db", cwd=folder)
    return folder


def stored(folder, name):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return store, store.study(name)


def loaded(folder, name):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")


def test_every_trial_is_there_with_its_state_values_curve_and_times(searched):
    store, study = stored(searched, "s")
    theirs = loaded(searched, "s").trials
    assert {trial.state for trial in store.trials(study)} == {"complete", "pruned", "failed"}
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for ours, trial in zip(sorted(store.trials(study), key=lambda t: t.number), theirs, strict=True):
        assert trial.number == ours.number
        assert trial.state.name == names[ours.state]
        assert trial.params.items() <= ours.hyperparameters.items()
        assert ("min_lr" in trial.params) == (ours.hyperparameters["schedule"] == "cosine")
        assert trial.intermediate_values == {
            r.step: r.metric for r in store.progress([ours.id]) if r.metric is not None
        }
        assert trial.datetime_start.timestamp() == pytest.approx(ours.started, abs=1e-3)
        assert trial.datetime_complete.timestamp() == pytest.approx(ours.finished, abs=1e-3)
        if ours.state == "complete":
            assert trial.value == ours.objective
            assert trial.user_attrs["metric:train_loss"] == ours.metrics["train_loss"]
        assert trial.user_attrs["optimizer"] == "sgd"  # fixed
        assert trial.user_attrs["trial:seed"] == ours.number
    best = called_json("leaderboard", "s", cwd=searched)[0]
    assert loaded(searched, "s").best_trial.number == best["number"]


def test_several_objectives_have_their_names_and_directions(searched):
    study = loaded(searched, "two")
    assert study.metric_names == ["accuracy", "bytes_sent"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    store, row = stored(searched, "two")
    assert [trial.values for trial in study.trials] == [trial.objectives for trial in store.trials(row)]


def test_optuna_goes_on_with_what_is_there(searched, tmp_path):
    called("export", "s", "--to-optuna", f"sqlite:///{tmp_path}/more.db", "--name", "mine", cwd=searched)
    study = optuna.load_study(
        study_name="mine", storage=f"sqlite:///{tmp_path}/more.db", sampler=optuna.samplers.TPESampler(seed=0)
    )
    proposed = study.ask(study.trials[0].distributions)
    assert proposed.number == 8
    assert proposed.params.keys() == study.trials[0].params.keys()


def test_what_cannot_be_written_is_told(searched):
    for url, said in [
        ("sqlite:///optuna.db", "the Optuna storage must have no study s; it has one: use --name"),
        ("sqlite:///atoll.db", "must be another database; this one is a store of atoll's"),
        ("sqlite:///nowhere/o.db", "the Optuna storage cannot be opened: OperationalError"),
    ]:
        assert said in called("export", "s", "--to-optuna", url, cwd=searched, code=1).stderr
    for flags in (["-o", "x.yaml"], ["--weights", "x"]):
        done = called("export", "s", "--to-optuna", "sqlite:///x.db", *flags, cwd=searched, code=2)
        assert "--to-optuna writes a database" in done.stderr


def test_values_that_optuna_does_not_take_become_text():
    found = distributions_of([{"a": [1, 2], "b": 1, "c": 0.5}, {"a": [3], "b": 4, "c": 2}])
    assert found["a"].choices == ("[1, 2]", "[3]")
    assert (found["b"].low, found["b"].high) == (1, 4)
    assert (found["c"].low, found["c"].high) == (0.5, 2.0)


def test_optuna_dashboard_shows_it(searched):
    application = optuna_dashboard.wsgi(f"sqlite:///{searched}/optuna.db")

    def got(path):
        status, environment = [], {"PATH_INFO": path}
        setup_testing_defaults(environment)
        body = b"".join(application(environment, lambda code, *_: status.append(code)))
        assert status == ["200 OK"], body
        return json.loads(body)

    studies = got("/api/studies")["study_summaries"]
    number = next(study["study_id"] for study in studies if study["study_name"] == "s")
    shown = got(f"/api/studies/{number}")
    assert len(shown["trials"]) == 8
    assert {"learning_rate", "momentum"} <= {entry["name"] for entry in shown["union_search_space"]}
