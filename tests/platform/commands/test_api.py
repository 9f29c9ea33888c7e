"""`atoll.search` in one process: functions of users, on one rank and on several that are threads."""

import functools
import json
import math
import signal
import subprocess
import textwrap
import threading
import time

import functions
import numpy as np
import pytest
from commands import called, called_json
from functions import MISTAKES, SPACE

import atoll
from atoll.platform.study import registry
from atoll.platform.study.traveling import traveler
from atoll.platform.trial.objective_trial import packed, unpacked
from atoll.storage.yamlfile import FileError

pytestmark = pytest.mark.process  # git is asked for the state of the functions' file


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Searches of threads, whose files are in a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    defaults = {"space": SPACE, "trials": 6, "in_process": True, "show": False, "name": "s", "keep_going": True}

    def search(objective, **settings):
        return atoll.search(objective, **defaults | settings)

    return search


def states(study):
    return study.trials()["state"].tolist()


def test_a_search_of_one_rank_needs_nothing_else(search):
    study = search(functions.curve, trials=20)
    trials = study.trials()
    assert (study.state, len(trials)) == ("complete", 20)
    assert trials["objective.value"].min() < 0.05
    assert trials["hp.x"].between(0, 1).all()
    curves = study.curves()
    assert curves[curves["trial"] == 3]["step"].tolist() == [0, 1, 2, 3]
    assert curves[curves["trial"] == 3]["metric.left"].tolist() == [3, 2, 1, 0]
    assert curves[["learning_rate", "wire_bytes"]].isna().all(axis=None)
    assert study.best(1)["objective.value"][0] == trials["objective.value"].min()


def test_all_ranks_call_it_with_a_communicator_of_their_own(search):
    study = search(functions.together, ranks=3, workers=2, trials=8)
    assert states(study) == ["complete"] * 8


def test_a_mistake_costs_its_trial_only(search):
    study = search(functions.misbehaves, ranks=2, trials=2 * len(MISTAKES), trial_timeout=20)
    trials = study.trials().set_index("trial")
    for number, expected in enumerate(MISTAKES.values()):
        assert trials.loc[2 * number, "state"] == "complete"
        state, reason = trials.loc[2 * number + 1, ["state", "reason"]]
        assert state == ("complete" if expected is None else "failed"), reason
        assert expected is None or reason.startswith(expected)


@pytest.mark.parametrize("how", ["sleeps", "computes", "waits"])
def test_a_rank_in_the_main_thread_is_interrupted(search, how):
    def hangs(trial):
        if trial.number == 0 and how == "sleeps":
            time.sleep(60)
        while trial.number == 0 and how == "computes":
            pass
        if trial.number == 0:
            subprocess.run(["sleep", "60"], check=False)
        return trial["x"]

    before = time.monotonic()
    trials = search(hangs, trials=2, trial_timeout=0.3).trials()
    assert time.monotonic() - before < 30
    assert trials["state"].tolist() == ["failed", "complete"]
    assert trials["reason"][0].startswith("TrialTimeout")


def test_ctrl_c_stops_a_search_in_this_process_at_once(search):
    def interrupted(trial):
        if trial.number == 2:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
        return trial["x"]

    before = time.monotonic()
    study = search(interrupted, trials=4)
    assert time.monotonic() - before < 30
    assert study.state == "stopped"
    assert study.trials()["state"].tolist() == ["complete", "complete", "lost"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_communicator_ends_with_its_trial(search):
    kept = []

    def keeps(trial):
        kept.append(trial.comm)
        return kept[0].allreduce(1) if trial.number else 0.0

    study = search(keeps, ranks=1, trials=2)
    assert states(study) == ["complete", "failed"]
    assert "lent for a trial that has ended" in study.trials()["reason"][1]


def test_a_report_that_some_ranks_make_alone_is_told_where_the_ranks_agree(search):
    def lonely(trial):
        if trial.comm.rank == 1:
            trial.report(1.0)
        return 1.0

    assert states(search(lonely, ranks=2, trials=1, name="a")) == ["complete"]
    with pytest.raises(atoll.SearchFailed, match="its only trial failed") as failed:
        search(lonely, ranks=2, trials=1, name="b", pruning={"rule": "asha"})
    (reason,) = failed.value.study.trials()["reason"]
    assert reason.startswith("Unreachable: trial.report or trial.checkpoint waits for ranks that have returned")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_pruned_trial_ends_on_all_ranks_after_the_same_step(search, tmp_path, ranks):
    study = search(functions.pruned, ranks=ranks, trials=4, pruning={"rule": "asha", "grace": 2, "factor": 2})
    trials = study.trials().set_index("trial")
    assert trials["state"].tolist() == ["complete", "pruned", "pruned", "pruned"]  # each is worse than all before
    assert trials.loc[3, "reason"] == "pruned after step 2"
    for number, last in ((0, 9), (1, 2), (3, 2)):
        files = sorted((tmp_path / f"atoll-studies/s/trials/{number:06d}").glob("rank-*"))
        assert [file.read_text().split()[-1] for file in files] == [str(last)] * ranks


def test_a_function_may_prune_by_itself_on_one_rank_or_all(search):
    def prunes(trial):
        trial.report(2.0)
        if trial.number == 1 or (trial.number == 2 and trial.comm.rank == 1):
            raise atoll.Pruned
        return trial.comm.allreduce(trial["x"])

    study = search(prunes, ranks=2, trials=4)
    assert states(study) == ["complete", "pruned", "pruned", "complete"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stopped_trial_continues_from_its_checkpoint(search, tmp_path, ranks):
    study = search(functions.continued, ranks=ranks, trials=3)
    assert study.state == "stopped"
    study = search(functions.continued, ranks=ranks, trials=3, resume=True)
    trials = study.trials()
    last = trials[trials["attempt"] == trials.groupby("trial")["attempt"].transform("max")].set_index("trial")
    assert last["state"].tolist() == ["complete"] * 3
    assert last["attempt"].tolist() == [0, 1, 0]
    assert last["objective.value"].tolist() == [30.0] * 3  # 2 x (0 + ... + 5)
    assert last["metric.ranks"].tolist() == [float(ranks)] * 3
    curves = study.curves()
    assert curves[(curves["trial"] == 1) & (curves["attempt"] == 1)]["step"].tolist() == list(range(6))
    folder = tmp_path / "atoll-studies/s/trials/000001"
    for rank in range(ranks):  # the steps before the checkpoint were not made again
        assert json.loads((folder / f"seen-{rank}").read_text()) == [0, 0, 0, 0, 1, 1]
    assert not list(folder.glob("*.pt")) + list(folder.glob("*.json"))


def test_a_checkpoint_must_be_plain_and_comes_first(search):
    def unplain(trial):
        trial.checkpoint({"model": object()})

    def late(trial):
        trial.report(1.0)
        trial.last_checkpoint()

    for function, reason in ((unplain, "is of type builtins.object; a saved state must"), (late, "must be called bef")):
        with pytest.raises(atoll.SearchFailed) as failed:
            search(function, trials=1, name=function.__name__)
        assert reason in failed.value.study.trials()["reason"][0]


def test_several_objectives_and_metrics(search):
    def two(trial):
        return {"loss": trial["x"], "memory": np.float32(1 - trial["x"]), "also": 3}

    study = search(two, trials=8, direction={"loss": "minimize", "memory": "maximize"}, sampler="evolution")
    trials = study.trials()
    assert trials["objective.memory"].tolist() == pytest.approx((1 - trials["objective.loss"]).tolist(), rel=1e-6)
    assert trials["metric.also"].tolist() == [3.0] * 8
    assert len(study.front()) == 1  # less loss is more memory
    largest = search(two, trials=8, direction={"memory": "maximize"}, name="largest")
    assert largest.best(1)["objective.memory"][0] == largest.trials()["objective.memory"].max()


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (None, "TypeError: the objective must return a number, or a mapping of names to numbers, on rank 0; got None"),
        ("much", "TypeError: what the objective returns must be a number; got 'much' of type str"),
        ({"loss": "much"}, "TypeError: the returned loss must be a number; got 'much'"),
        ({"loss": 1.0}, "ValueError: the function returned loss; the study's objectives are value, so value is missin"),
        (math.nan, "value is nan"),
        (math.inf, "value is inf"),
    ],
)
def test_what_is_no_objective_fails_its_trial(search, returned, reason):
    with pytest.raises(atoll.SearchFailed) as failed:
        search(lambda trial: returned, trials=1)
    assert failed.value.study.trials()["reason"][0].startswith(reason)


def test_a_trial_is_a_mapping_of_the_active_hyperparameters(search):
    seen = []

    def looks(trial):
        seen.append(dict(trial))
        if "momentum" not in trial:
            with pytest.raises(KeyError, match="no hyperparameter 'momentum'; it has kind, fixed"):
                trial["momentum"]
        return trial.number

    space = {
        "momentum": atoll.Float(0.5, 0.9, only_if={"kind": "sgd"}),
        "kind": atoll.Categorical(["sgd", "adam"]),
        "n": atoll.Int(1, 64, log=True, only_if={"kind": ["sgd"]}),
        "fixed": "as it is",
    }
    search(looks, space=space, trials=12, constraints=["n <= 32"], sampler="random")
    assert {one["kind"] for one in seen} == {"sgd", "adam"}
    for one in seen:
        assert one["fixed"] == "as it is"
        assert ("momentum" in one) == ("n" in one) == (one["kind"] == "sgd")
        assert one.get("n", 1) <= 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 3}, "epochs is for trainings by atoll"),
        ({"checkpoint": {"every": "1 epochs"}, "steps": 3}, "steps, checkpoint are for trainings by atoll"),
        ({"objective_from": "best"}, "omit objective_from"),
        ({"pruning": {"rule": "asha", "while_falling": False}}, "while_falling looks at the training loss"),
        ({"pruning": {"rule": "asha", "promotion": True}}, "omit promotion"),
        ({"isolate": "process", "ranks": 2}, r"isolate: process needs topology\.ranks 1 for a function"),
        ({"method": "ddp"}, "either objective, or workload and method"),
        ({"direction": "up"}, "direction"),
        ({"direction": "minimize", "objectives": ["a"]}, "either direction or objectives"),
        ({"space": {"x": atoll.Float(1.0, 0.0)}}, r"space\.x"),
        ({"space": {"x": 1.0}}, "must leave a hyperparameter to search"),
        ({"objectives": ["seconds"]}, "must be a value that the function returns; got only seconds"),
        ({"objectives": ["loss"]}, "the objective loss needs a direction"),
        ({"trails": 3}, "did you mean trials"),
    ],
)
def test_settings_that_a_function_does_not_have_are_refused_with_the_rule(search, tmp_path, settings, message):
    with pytest.raises((FileError, ValueError), match=message):
        search(functions.parabola, **settings)
    assert not (tmp_path / "atoll-studies").exists()


def test_an_objective_is_a_function_of_one_argument(search):
    with pytest.raises(TypeError, match="a function of one argument, the trial"):
        search(lambda: 1.0)
    with pytest.raises(TypeError, match="a function of one argument, the trial"):
        search(lambda x, y: 1.0)
    assert search(functools.partial(lambda trial, shift: trial["x"] + shift, shift=1.0)).state == "complete"


def test_seconds_may_be_a_second_objective(search):
    study = search(functions.parabola, objectives=[{"name": "value", "direction": "minimize"}, "seconds"])
    assert (study.trials()["objective.seconds"] >= 0).all()


def test_the_name_is_the_functions_or_one_that_is_free(search):
    first, second = (search(functions.parabola, name=None) for _ in range(2))
    assert (first.name, second.name) == ("parabola", "parabola-2")


def test_a_function_of_a_notebook_is_searched_and_continued_there_only(search, tmp_path, monkeypatch):
    code = {}
    exec("def typed(trial):\n    return trial['x']\n", code)  # in no file
    study = search(code["typed"], trials=2)
    assert study.trials()["state"].tolist() == ["complete"] * 2
    assert search(code["typed"], trials=3, resume=True).trials()["trial"].tolist() == [0, 1, 2]
    exec("def typed(trial):\n    return trial['x'] + 1\n", code)
    with pytest.raises(Exception, match="notebook:typed"):
        search(code["typed"], trials=4, resume=True)
    monkeypatch.setattr(registry, "_GIVEN", {})  # as in another process
    content = json.loads((tmp_path / "atoll-studies/s/study.json").read_text())["definition"]
    with pytest.raises(ValueError, match=r"notebook:typed came from a Python process.*atoll\.search\(\.\.\., resume=T"):
        search(content | {"trials": 4}, trials=None, space=None, name=None, resume=True)


def test_a_script_that_would_search_while_it_is_imported_says_so(search, tmp_path):
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import atoll
            def f(trial): return trial["x"]
            atoll.search(f, space={"x": atoll.Float(0.0, 1.0)}, trials=1)
        """)
    )
    with pytest.raises(ValueError, match=r"script\.py is imported for its function: put the call under `if __name__"):
        search("script.py:f")


def test_a_study_file_or_its_content_is_searched_as_well(search, tmp_path):
    (tmp_path / "own.py").write_text("def f(trial):\n    return 1 - trial['x']\n")
    (tmp_path / "s.yaml").write_text(
        "name: of_file\nobjective: own.py:f\ndirection: maximize\nspace: {x: {low: 0.0, high: 1.0}}\ntrials: 5\n"
    )
    study = search("s.yaml", space=None, name=None, trials=None)
    assert (study.name, len(study.trials())) == ("of_file", 5)
    assert study.best(1)["objective.value"][0] == study.trials()["objective.value"].max()
    content = {"workload": "digits_mlp", "method": "ddp", "epochs": 1, "name": "t", "space": {"learning_rate": 0.1}}
    assert search(content, space=None, name=None, trials=1, default_first=True).state == "complete"


def test_commands_know_that_a_function_is_no_training(search, tmp_path):
    (tmp_path / "own.py").write_text("def f(trial):\n    return trial['x']\n")
    (tmp_path / "s.yaml").write_text("name: s\nobjective: own.py:f\nspace: {x: {low: 0.0, high: 1.0}}\ntrials: 2\n")
    assert "passed: the function can be imported" in called("check", "s.yaml", cwd=tmp_path).stdout
    assert called_json("check", "s.yaml", cwd=tmp_path)["state"] == "passed"
    called("search", "s.yaml", "--in-process", cwd=tmp_path)
    refused = called("export", "s", "--weights", "w", cwd=tmp_path, code=1)
    assert "what it writes to trial.folder" in refused.stderr


def test_resume_refuses_a_function_whose_file_has_changed(search, tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def f(trial):\n    return trial['x']\n")
    search(f"{file}:f", trials=2)
    file.write_text("def f(trial):\n    return trial['x'] + 1\n")
    registry._load_file.cache_clear()
    with pytest.raises(Exception, match=r"own\.py"):
        search(f"{file}:f", trials=3, resume=True)
    assert search(f"{file}:f", trials=3, resume=True, accept_changes=True).state == "complete"


def test_what_a_function_returns_is_not_overwritten_by_what_trainings_have(search):
    def named(trial):
        return {"acc": 0.25, "validation_error": 5.0, "bytes_sent": 77.0}

    aims = {"acc": "maximize", "validation_error": "minimize", "bytes_sent": "minimize"}
    trials = search(named, trials=1, direction=aims).trials()
    found = [trials[f"objective.{name}"][0] for name in aims]
    assert found == [0.25, 5.0, 77.0]
    with pytest.raises(atoll.SearchFailed, match="most often: ValueError: seconds is measured by atoll"):
        search(lambda trial: {"value": 1.0, "seconds": 3.0}, trials=1, name="taken")


def test_a_pruned_trial_is_pruned_even_if_the_function_goes_on(search):
    def goes_on(trial):
        for step in range(4):
            try:
                trial.report(float(trial.number), step)
            except atoll.Pruned:
                continue
        return 0.0

    assert states(search(goes_on, ranks=2, trials=2, pruning={"rule": "asha", "grace": 1})) == ["complete", "pruned"]


def test_a_timeout_that_the_function_swallows_fails_its_trial(search):
    def swallows(trial):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                trial.report(1.0)
            except Exception:
                continue
        return 0.0

    with pytest.raises(atoll.SearchFailed, match="TrialTimeout"):
        search(swallows, ranks=2, trials=1, trial_timeout=0.2)


def test_a_trial_that_was_kept_reports_no_more(search):
    kept = []

    def keeps(trial):
        kept.append(trial)
        trial.report(1.0)
        for late in (lambda: kept[0].report(9.0), lambda: kept[0].checkpoint(1), kept[0].last_checkpoint):
            if trial.number == 1:
                with pytest.raises(RuntimeError, match="trial 0 has ended: its function has returned"):
                    late()
        return 1.0

    study = search(keeps, trials=2)
    assert states(study) == ["complete", "complete"]
    assert study.curves()["trial"].tolist() == [0, 1]


def test_a_study_file_runs_no_code_from_elsewhere_unless_it_may(search, tmp_path):
    (tmp_path / "elsewhere.py").write_text("def f(trial):\n    return trial['x']\n")
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/s.yaml"
    file.write_text("objective: ../elsewhere.py:f\nspace: {x: {low: 0.0, high: 1.0}}\nname: s\n")
    with pytest.raises(FileError, match="code must be in the file's folder"):
        search(file, space=None, trials=1)
    assert search(file, space=None, trials=1, outside=True).state == "complete"


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (3, {}, "the objective must be a function, file.py:function, a study file, or a study's content; got 3"),
        (functions.parabola, {"direction": {}}, "direction must name a returned value"),
        (functions.parabola, {"objectives": [], "direction": None}, "objectives"),
    ],
)
def test_what_is_no_objective_is_refused_at_once(search, objective, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        search(objective, **settings)


def test_choices_are_a_list():
    with pytest.raises(ValueError, match="choices must be a list of values; got the string 'abc'"):
        atoll.Categorical("abc")


def test_states_come_back_as_they_were():
    state = {"scalar": np.array(3.0), "array": np.arange(6).reshape(2, 3).T, "n": np.int64(3), "list": [1, (2, None)]}
    back = unpacked(packed(state))
    assert back["scalar"].shape == ()
    assert back["array"].tolist() == state["array"].tolist()
    assert (back["n"], back["list"]) == (3, [1, (2, None)])
    with pytest.raises(TypeError, match="must be another one than"):
        packed({"numpy.ndarray": 1})


def test_a_function_that_cannot_travel_says_how_it_could():
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot travel to the ranks: .*lock.*; make that object inside the function"):
        traveler(lambda trial: lock and trial["x"]).packed()


def test_inside_an_mpi_job_a_search_needs_a_name_and_all_of_its_ranks(search, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ValueError, match="inside an MPI job a search needs a name"):
        search(functions.parabola, name=None, trials=1)
