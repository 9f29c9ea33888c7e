"""Whole searches that a rule of `stop` ends: what is trained, recorded, told and resumed."""

import contextlib
import json
from collections import Counter
from pathlib import Path

import pytest
import stopping
import yaml
from commands import atoll, called, called_json, end, journal_lines, meanwhile, start

import atoll as package
from atoll.platform.launch import lifecycle
from atoll.platform.launch.ask_tell import AskTell
from atoll.platform.launch.errors import AlreadyComplete, LaunchError
from atoll.platform.search.other_launchers import Reader
from atoll.platform.search.search_loop import SearchLoop
from atoll.platform.trial.outcome import Outcome
from atoll.storage import liveness
from atoll.storage.folder import StudyFolder

pytestmark = pytest.mark.process  # git is asked for the state of the code
FUNCTIONS = Path(stopping.__file__)
TARGET = "target 5 reached by trial 5 after 6 of 50 trials"


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Searches of threads, whose files are in a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    defaults = {"space": {"x": package.Float(0.0, 1.0)}, "trials": 50, "in_process": True, "show": False, "name": "s"}

    monkeypatch.setattr(SearchLoop, "HEARING_SHARE", 100.0)  # of trials of milliseconds

    def search(objective, **settings):
        return package.search(objective, **defaults | settings)

    return search


def states(study):
    return Counter(study.trials()["state"])


def lines(folder, event):
    return journal_lines(folder / "atoll-studies" / "s", event)


def test_a_target_ends_the_search_and_is_its_reason(search, tmp_path):
    study = search(stopping.falls, stop={"target": 5})
    assert (study.state, study.ended_because) == ("complete", TARGET)
    assert states(study) == {"complete": 6}
    (met,) = lines(tmp_path, "stop_rule_met")
    assert (met["rule"], met["settings"], met["trial"]) == ("target", {"target": 5.0}, 5)
    assert [line["reason"] for line in lines(tmp_path, "study_ended")] == [TARGET]


def test_a_plateau_ends_the_search(search):
    study = search(stopping.stays, stop={"plateau": {"trials": 4}})
    assert study.ended_because == "no improvement in 4 trials (plateau) after 7 of 50 trials"


def test_a_bound_of_the_regret_ends_the_search(search, tmp_path):
    study = search(stopping.falls, stop={"regret": {"absolute": 1e6}}, trials=21)
    (bounded,) = lines(tmp_path, "regret_bounded")
    assert (bounded["num_trials"], bounded["incumbent"]) == (20, -9.0)
    assert study.ended_because.startswith("regret at most ")
    assert states(study)["complete"] in (20, 21)


def test_a_budget_that_is_used_up_first_is_no_reason(search):
    assert search(stopping.falls, trials=3, stop={"target": 5}).ended_because is None


def test_trials_that_run_are_trained_to_the_end(search, tmp_path):
    space = {"forever": False, "together": 3, "after": 0.0, "x": package.Float(0, 1)}
    study = search(stopping.waits, workers=3, stop={"target": 0.0}, space=space)
    assert states(study) == {"complete": 3}
    assert study.ended_because == "target 0 reached by trial 0 after 3 of 50 trials"
    (met,) = lines(tmp_path, "stop_rule_met")
    assert met["num_trials"] == 1
    assert len(lines(tmp_path, "trial_started")) == 3


def test_trials_that_run_are_stopped_if_the_study_says_so_and_go_on_with_another_rule(search, tmp_path):
    space = {"forever": True, "together": 3, "after": 0.0, "x": package.Float(0, 1)}
    stop = {"target": 0.0, "running": "stop"}
    study = search(stopping.waits, workers=3, stop=stop, space=space)
    assert states(study) == {"complete": 1, "lost": 2}
    assert study.ended_because == "target 0 reached by trial 0 after 1 of 50 trials"
    assert states(search(stopping.waits, workers=3, stop=stop, space=space, resume=True)) == {"complete": 1, "lost": 2}
    folder = tmp_path / "atoll-studies" / "s"

    def again():
        return {line["number"] for line in lines(tmp_path, "trial_started") if line["attempt"]}

    with meanwhile(lambda: again() >= {1, 2}, (folder / "stop").touch):
        study = search(stopping.waits, workers=3, space=space, resume=True)
    assert study.state == "stopped"


def test_it_goes_on_with_another_rule_and_with_none(search):
    assert states(search(stopping.falls, stop={"target": 5})) == {"complete": 6}
    study = search(stopping.falls, stop={"target": 2}, resume=True)
    assert (states(study), study.ended_because) == (
        {"complete": 9},
        "target 2 reached by trial 8 after 9 of 50 trials",
    )
    study = search(stopping.falls, trials=50, resume=True)
    assert (study.state, states(study), study.ended_because) == ("complete", {"complete": 50}, None)


def test_with_a_larger_budget_it_goes_on_and_rules_count_what_is_new(search, caplog):
    search(stopping.falls, stop={"target": 5})
    larger = {"stop": {"target": 5}, "trials": 60, "resume": True}
    study = search(stopping.falls, **larger)
    reason = "target 5 reached by trial 6 after 7 of 60 trials"
    assert (states(study), study.ended_because) == ({"complete": 7}, reason)
    (said,) = [record.getMessage() for record in caplog.records if "budget is larger" in record.getMessage()]
    assert said == f"{TARGET[:-9]}60 trials; as the budget is larger, `stop` counts only trials that end from now on"
    study = search(stopping.falls, **larger)  # the same budget again
    assert (states(study), study.ended_because) == ({"complete": 7}, reason)
    study = search(stopping.falls, stop={"plateau": {"trials": 3}}, trials=60, resume=True)
    assert states(study) == {"complete": 60}


def test_a_plateau_begins_anew_with_a_larger_budget(search):
    assert states(search(stopping.stays, stop={"plateau": {"trials": 4}})) == {"complete": 7}
    study = search(stopping.stays, stop={"plateau": {"trials": 4}}, trials=None, seconds=3600, resume=True)
    assert study.ended_because == "no improvement in 4 trials (plateau) after 11 trials"


def test_a_search_that_is_killed_after_its_budget_became_larger_decides_the_same(search, tmp_path):
    """Its last lines, and that a rule was met in the search before, are lost."""
    search(stopping.falls, stop={"target": 5})
    larger = {"stop": {"target": 5}, "trials": 60, "resume": True}
    search(stopping.falls, **larger)
    cut = ("study_ended", "stop_rule_met", "worker_finished")
    for path in (tmp_path / "atoll-studies" / "s" / "journals").glob("*.jsonl"):
        kept = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in kept if json.loads(line)["event"] not in cut))
    study = search(stopping.falls, **larger)
    assert study.ended_because == "target 5 reached by trial 6 after 7 of 60 trials"


def test_a_rule_that_results_already_meet_ends_a_search_that_is_resumed_without_a_trial(search):
    search(stopping.falls, trials=7)
    study = search(stopping.falls, stop={"target": 5}, resume=True)
    assert states(study) == {"complete": 7}


def test_a_killed_search_decides_the_same_when_it_is_resumed(search, tmp_path):
    """The launcher and the root were killed before they could write their last lines."""
    search(stopping.falls, stop={"target": 5})
    for path in (tmp_path / "atoll-studies" / "s" / "journals").glob("*.jsonl"):
        kept = path.read_text().splitlines(keepends=True)
        cut = ("study_ended", "stop_rule_met", "worker_finished")
        path.write_text("".join(line for line in kept if json.loads(line)["event"] not in cut))
    folder = StudyFolder(tmp_path / "atoll-studies" / "s")
    assert liveness.state(folder) is None
    study = search(stopping.falls, stop={"target": 5}, resume=True)
    assert (study.state, study.ended_because, states(study)) == ("complete", TARGET, {"complete": 6})


def test_a_launcher_that_died_before_the_end_was_written_is_recorded_as_complete(search, tmp_path):
    search(stopping.falls, stop={"target": 5})
    journals = tmp_path / "atoll-studies" / "s" / "journals"
    for path in journals.glob("launcher*.jsonl"):
        kept = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in kept if json.loads(line)["event"] != "study_ended"))
    folder = StudyFolder(journals.parent)
    assert lifecycle.end_interrupted(folder) == ("complete", 0)
    assert liveness.end(folder).reason == TARGET


@pytest.fixture
def study(tmp_path):
    content = {
        "name": "s", "objective": f"{FUNCTIONS}:falls", "space": {"x": {"low": 0.0, "high": 1.0}}, "trials": 50,
        "stop": {"target": 5},
    }  # fmt: skip
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


COMMAND = ("search", "s.yaml", "--outside", "--in-process")


def test_every_command_tells_why_it_ended(study):
    ended = called(*COMMAND, cwd=study).stdout
    assert f"\ncomplete: {TARGET}\n" in ended
    for again in ("--resume", "--continue"):
        told = called(*COMMAND, again, cwd=study).stdout
        assert f"s is complete: {TARGET}; to continue, change or omit `stop`, or increase the budget" in told
    assert called_json(*COMMAND, "--resume", cwd=study)["reason"] == TARGET
    for command in (("studies",), ("studies", "s"), ("leaderboard", "s"), ("follow", "s")):
        assert f"s is complete: {TARGET}\n" in called(*command, cwd=study).stdout
    assert [one["reason"] for one in called_json("studies", cwd=study)] == [TARGET]


def test_options_are_rules_and_override_those_of_the_file(study):
    told = called(*COMMAND, "--stop-target", "7", cwd=study).stdout
    assert "complete: target 7 reached by trial 3 after 4 of 50 trials" in told
    told = called(*COMMAND, "--stop-plateau", "9", "--stop-regret", "0.2 %", "--name", "p", cwd=study).stdout
    assert f"complete: {TARGET}" in told
    definition = json.loads((study / "atoll-studies" / "p" / "study.json").read_text())["definition"]["stop"]
    assert (definition["plateau"]["trials"], definition["regret"]["share"], definition["target"]) == (9, 0.002, 5.0)
    refused = called(*COMMAND, "--stop-regret", "much", "--name", "q", cwd=study, code=2)
    assert "stop.regret: must be a share such as '0.1 %' or 0.001" in refused.stderr


# Several launchers.


def tell(search, objective):
    asked = search.ask()
    asked.tell(Outcome("complete", objective, {}, 0.1, 0.0, [], 0.0))
    return asked.number


def tell_until_the_end(search, objective):
    numbers = []
    with contextlib.suppress(RuntimeError):
        while True:
            numbers.append(tell(search, objective))
    return numbers


def test_all_launchers_stop_and_the_last_one_ends_the_study(plan_of, tmp_path, monkeypatch):
    """The plateau is over the trials of both."""
    monkeypatch.setattr(Reader, "INTERVAL", 0.0)
    plan = plan_of(trials=40, sampler={"name": "random"}, stop={"plateau": {"trials": 4}})
    folder = lifecycle.study_folder(plan.study)
    first, second = (
        AskTell(plan, f"sqlite:///{tmp_path}/atoll.db", resuming=None, accept_changes=False) for _ in range(2)
    )
    numbers = [tell(one, 0.5) for _ in range(2) for one in (first, second)]
    running = first.ask()
    numbers.append(tell(second, 0.5))
    running.tell(Outcome("complete", 0.4, {}, 0.1, 0.0, [], 0.0))
    for one in (first, second):  # neither gets another trial, once it has heard
        numbers += tell_until_the_end(one, 0.5)
    assert len(numbers) < 30
    endings = [first.close(), second.close()]
    assert {ending.exit_code for ending in endings} == {0}
    (last,) = [ending for ending in endings if ending.state == "complete"]
    assert last.reason == f"no improvement in 4 trials (plateau) after {len(numbers) + 1} of 40 trials"
    assert liveness.end(folder).reason == last.reason


def test_a_launcher_with_other_rules_does_not_join(plan_of, tmp_path):
    url = f"sqlite:///{tmp_path}/atoll.db"
    first = AskTell(plan_of(stop={"target": 0.9}), url, resuming=None, accept_changes=False)
    with pytest.raises(LaunchError, match="a budget, a length or a stopping rule changes only between two searches"):
        AskTell(plan_of(stop={"target": 0.8}), url, resuming=None, accept_changes=False)
    first.close()


def test_a_study_that_a_rule_has_ended_is_not_opened(plan_of, tmp_path):
    url, plan = f"sqlite:///{tmp_path}/atoll.db", plan_of(stop={"target": 0.9})
    first = AskTell(plan, url, resuming=None, accept_changes=False)
    tell(first, 0.9)
    first.close()
    with pytest.raises(AlreadyComplete, match=r"target 0\.9 reached by trial 0 after 1 of 3 trials") as raised:
        AskTell(plan, url, resuming=None, accept_changes=False)
    assert raised.value.reason == "target 0.9 reached by trial 0 after 1 of 3 trials"


# With promotion, and over MPI.


@pytest.mark.slow
def test_nothing_is_promoted_any_more_once_a_rule_is_met(tmp_path):
    content = {
        "name": "s", "workload": "digits_mlp", "method": "ddp", "epochs": 4, "trials": 30, "check": False,
        "sampler": {"name": "random"}, "space": {"batch_size": 128}, "topology": {"threads": 1},
        "checkpoint": {"every": "1 epochs"}, "pruning": {"promotion": True, "factor": 2, "grace": 1},
        "stop": {"target": 0.2},
    }  # fmt: skip
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    told = called("search", "s.yaml", "--in-process", cwd=tmp_path).stdout
    (met,) = lines(tmp_path, "stop_rule_met")
    assert f"complete: target 0.2 reached by trial {met['trial']} after {met['num_trials']} of 30 trials" in told
    ended = sorted(lines(tmp_path, "trial_ended"), key=lambda line: line["time"])
    assert [line["state"] for line in ended].index("complete") == len(ended) - 1


@pytest.mark.mpi
@pytest.mark.long
def test_two_launchers_over_mpi_stop_together(study):
    """Two workers of each; a launcher reads the other one's journals twice a second."""
    content = yaml.safe_load((study / "s.yaml").read_text())
    content |= {"objective": f"{FUNCTIONS}:waits", "stop": {"target": 0.0}, "topology": {"workers": 2}}
    content["space"] |= {"forever": False, "together": 4, "after": 4.0}
    (study / "s.yaml").write_text(yaml.safe_dump(content))
    some = [start("search", "s.yaml", "--outside", "--continue", cwd=study) for _ in range(2)]
    outputs = [end(one) for one in some]
    assert {one.returncode for one in outputs} == {0}, [one.stderr for one in outputs]
    trials = called_json("leaderboard", "s", cwd=study)
    reason = f"target 0 reached by trial 0 after {len(trials)} of 50 trials"
    assert len(trials) == 4
    assert f"s is complete: {reason}" in called("studies", "s", cwd=study).stdout
    again = atoll("search", "s.yaml", "--outside", "--continue", cwd=study)
    assert f"s is complete: {reason}" in again.stdout
