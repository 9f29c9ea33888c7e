"""Studies that `atoll change` changes while they are stopped or searched."""

import json
from collections import Counter
from pathlib import Path

import changed
import pytest
from commands import called, called_json, journal_lines, meanwhile

import atoll
from atoll.platform.launch.errors import LaunchError
from atoll.storage.store import Store

pytestmark = pytest.mark.process  # git is asked for the state of the code
FUNCTIONS = Path(changed.__file__)
SPACE = {"x": atoll.Float(0.0, 1.0)}


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Searches of threads, whose files are in a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    defaults = {"space": SPACE, "trials": 8, "in_process": True, "show": False, "name": "s"}
    defaults |= {"sampler": {"name": "random"}}

    def search(objective=changed.bowl, **settings):
        return atoll.search(objective, **defaults | settings)

    return search


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "atoll-studies" / "s"


def values(study, name="x"):
    """The hyperparameter of each complete trial, by number."""
    trials = study.trials()
    return dict(zip(trials.get("trial", trials.index), trials[f"hp.{name}"], strict=True))


def started(folder):
    return sorted((line["number"], line["attempt"]) for line in journal_lines(folder, "trial_started"))


def ended(folder):
    return Counter(line["number"] for line in journal_lines(folder, "trial_ended") if line["state"] == "complete")


def changes_of(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    return store.changes(store.study("s"))


def test_a_stopped_study_goes_on_with_what_was_changed(search, folder, tmp_path):
    before = values(search())
    asked = atoll.change("s", space={"x.high": 0.5}, trials="+6")
    assert [one["said"] for one in asked["settings"]] == ["trials: 8 → 14", "x: 0 to 1 → 0 to 0.5"]
    num_outside = sum(value > 0.5 for value in before.values())
    assert 0 < num_outside < 8
    (note, deaf) = asked["notes"]
    assert note == (
        f"the sampler is told {8 - num_outside} of 8 earlier results; {num_outside} stay results and lie outside of "
        f"the space: {num_outside} x outside 0 to 0.5"
    )
    assert deaf == "the sampler random learns nothing from earlier results"
    study = search(resume=True)  # as it was written at first
    after = values(study)
    assert (study.state, len(after)) == ("complete", 14)
    assert {number: after[number] for number in before} == before
    assert all(value <= 0.5 for number, value in after.items() if number >= 8)
    (line,) = journal_lines(folder, "study_changed")
    assert (line["number"], line["first_trial"], line["num_trials"]) == (1, 8, 14)
    (row,) = changes_of(tmp_path)
    assert (row.number, row.first_trial, row.outside) == (1, 8, {"x outside 0 to 0.5": num_outside})
    assert [one["said"] for one in row.settings] == ["trials: 8 → 14", "x: 0 to 1 → 0 to 0.5"]


def test_a_file_says_again_what_was_changed_and_asks_for_more(search, folder):
    search(trials=2)
    atoll.change("s", trials=4)
    atoll.change("s", space={"x.low": 0.2})
    assert len(search(resume=True, trials=2).trials()) == 4
    study = search(resume=True, trials=5, space={"x": atoll.Float(0.2, 1.0)})
    assert len(study.trials()) == 5
    study = search(resume=True, trials=6)
    assert all(value >= 0.2 for number, value in values(study).items() if number >= 2)
    assert len(study.trials()) == 6
    with pytest.raises(LaunchError, match=r"space: .* `atoll change s` changes the space"):
        search(resume=True, trials=7, space={"x": atoll.Float(0.1, 1.0)})


def test_a_continued_file_is_told_what_is_in_force(search, caplog, capsys):
    search(trials=2)
    atoll.change("s", trials=3, space={"x.high": 0.5})
    search(resume=True, trials=2)
    assert "in force, as changed since: trials: 2 → 3 (change 1)" in capsys.readouterr().err
    assert "change 1 takes effect from trial 2 on: trials: 2 → 3; x: 0 to 1 → 0 to 0.5" in caplog.text


@pytest.mark.parametrize("is_written", [False, True])
def test_a_launcher_that_is_killed_while_it_takes_a_change_up_loses_nothing(search, folder, tmp_path, is_written):
    search(trials=2)
    file = folder / "study.json"
    before = json.loads(file.read_text())
    atoll.change("s", trials=3, space={"x.high": 0.5})
    if is_written:  # and not journaled
        definition = before["definition"] | {"trials": 3}
        definition["space"] = {"x": definition["space"]["x"] | {"high": 0.5}}
        file.write_text(json.dumps(before | {"definition": definition, "changes": 1}))
    else:  # journaled, and not written
        search(resume=True, trials=2)
        file.write_text(json.dumps(before))
    search(resume=True, trials=4)
    (line,) = journal_lines(folder, "study_changed")
    assert line["definition"]["space"]["x"]["high"] == 0.5
    assert [row.number for row in changes_of(tmp_path)] == [1]
    assert json.loads(file.read_text())["changes"] == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_running_search_takes_a_change_up_between_trials(search, folder, workers):
    def asks():
        atoll.change("s", space={"x": atoll.Float(0.0, 0.1)}, trials="+3")

    def is_due():
        return len({line["number"] for line in journal_lines(folder, "progress")}) >= workers  # that wait for it

    with meanwhile(is_due, asks):
        study = search(changed.waits, space=SPACE | {"at": 3}, trials=6, workers=workers)
    assert study.state == "complete"
    assert started(folder) == [(number, 0) for number in range(9)]  # none twice
    assert ended(folder) == dict.fromkeys(range(9), 1)
    (line,) = journal_lines(folder, "study_changed")
    assert 3 + workers <= line["first_trial"] < 9  # one more may start before the change is noticed
    found = values(study)
    assert all(found[number] <= 0.1 for number in range(line["first_trial"], 9))
    assert [line["reason"] for line in journal_lines(folder, "restarted")] == ["the study has changed"]


def test_a_trial_with_checkpoints_makes_way_and_goes_on_outside_of_the_space(search, folder):
    with meanwhile(
        lambda: (2, 0) in started(folder) and (folder / "trials" / "000002").exists(),
        lambda: atoll.change("s", space={"x": atoll.Float(2.0, 3.0)}),
    ):
        study = search(changed.saves, trials=4, sampler={"name": "optuna-tpe"})
    assert started(folder) == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    first, second = (line for line in sorted_lines(folder) if line["number"] == 2)
    assert second["hyperparameters"] == first["hyperparameters"]
    assert (first.get("change", 0), second["change"]) == (0, 1)
    assert values(study)[3] >= 2.0
    atoll.change("s", space={"x": atoll.Float(0.0, 3.0)}, trials=5)
    assert atoll.open("sqlite:///atoll.db").study("s").best(1) is not None
    search(changed.saves, resume=True, trials=4, sampler={"name": "optuna-tpe"})
    _, line = sorted(journal_lines(folder, "study_changed"), key=lambda line: line["number"])
    assert line["outside"] == {}  # they are inside again, that of the second attempt, too


def sorted_lines(folder):
    return sorted(journal_lines(folder, "trial_started"), key=lambda line: (line["number"], line["attempt"]))


def test_another_sampler_is_told_what_is_known(search, folder):
    search(trials=12)
    atoll.change("s", sampler={"name": "optuna-cmaes"}, trials="+2")
    search(resume=True, trials=12)
    lines = [line["proposal"]["operator"] for line in sorted_lines(folder)]
    assert lines[1:] == ["random"] * 11 + ["optuna-cmaes"] * 2


def test_a_parameter_is_added_with_its_default_and_a_choice_is_removed(search, folder):
    search(space=SPACE | {"kind": atoll.Categorical(["a", "b", "c"]), "y": 0.5}, trials=9)
    kinds = Counter(line["hyperparameters"]["kind"] for line in sorted_lines(folder))
    asked = atoll.change(
        "s", space={"kind.choices-": "a", "y": atoll.Float(0.0, 1.0), "z": atoll.Float(0.0, 1.0)}, trials="+3"
    )
    assert [one["said"] for one in asked["settings"][1:]] == [
        "kind: {a, b, c} → {b, c}", "y: fixed to 0.5 → 0 to 1", "z: not searched → 0 to 1",
    ]  # fmt: skip
    assert f"told {9 - kinds['a']} of 9 earlier results; {kinds['a']} stay" in asked["notes"][0]
    search(resume=True, trials=9, space=SPACE | {"kind": atoll.Categorical(["a", "b", "c"]), "y": 0.5})
    for line in sorted_lines(folder)[9:]:
        assert line["hyperparameters"].keys() == {"x", "kind", "y", "z"}
        assert line["hyperparameters"]["kind"] != "a"


def test_pruning_and_islands_change(search, folder):
    search(trials=4)
    atoll.change("s", islands=2, pruning="median", trials="+6")
    study = search(resume=True, trials=4)
    assert study.state == "complete"
    assert {line["island"] for line in sorted_lines(folder)[4:]} == {0, 1}
    definition = json.loads((folder / "study.json").read_text())["definition"]
    assert (definition["topology"]["islands"], definition["pruning"]["rule"]) == (2, "median")


def test_proposals_after_a_change_depend_on_what_is_known_only(search):
    found = []
    for name in ("a", "b"):
        search(name=name, sampler={"name": "evolution"}, trials=6)
        atoll.change(name, space={"x.high": 0.6}, sampler="optuna-tpe", trials="+4")
        if name == "b":  # in parts
            atoll.change(name, space={"x.low": 0.01})
            atoll.change(name, space={"x.low": 0.0})
        found.append(values(search(name=name, resume=True, sampler={"name": "evolution"}, trials=6)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"method": "daso"},
            "method cannot change in a study that has begun: results of before .* What can change: tr",
        ),
        ({"ranks": 2}, "topology.ranks cannot change .*, as a trial of another number of ranks is another training"),
        ({"nonsense": 2}, "nonsense cannot change in a study that has begun. What can change: trials, seconds"),
        ({"trials": 3}, "trials may only increase: it is 4; got 3"),
        ({"trials": "+x"}, r"trials must be a number, or one more, such as \+50; got '\+x'"),
        ({"seconds": "+5"}, r"seconds is not limited, so it cannot be \+5 more"),
        ({"space": {"x.high": -1.0}}, "low must be at most high; got 0.0, -1.0"),
        ({"space": {"x.choices+": 3}}, "x has a range, 0 to 1: change low or high"),
        ({"space": {"y.high": 3.0}}, "y is not searched, so it needs a whole range"),
        ({"space": {"x": None}}, "x is searched and cannot be left out"),
        ({"space": {"x": 0.5}}, "space must leave a hyperparameter to search"),
        ({"sampler": "nonsense"}, "nonsense"),
        ({"islands": 0}, "topology.islands"),
        ({"constraints": ["x <= z"]}, "refers to z, which the space does not have"),
        ({}, "name what is to change; what can change: trials"),
    ],
)
def test_what_cannot_change_is_refused_before_anything_is_written(studied, folder, wanted, message):
    with pytest.raises(ValueError, match=message):
        atoll.change("s", **wanted)
    assert not list(folder.glob("changes/*.json"))


@pytest.fixture
def studied(search, folder):
    (folder / "journals").mkdir(parents=True)
    search(trials=4)


def test_nothing_new_is_no_change(studied):
    with pytest.raises(LaunchError, match="nothing changes"):
        atoll.change("s", trials=4)


def test_the_command_tells_the_change_and_what_follows(tmp_path):
    options = ("search", f"{FUNCTIONS}:bowl", "--space", "{x: {low: 0.0, high: 1.0}}", "--name", "s", "--in-process")
    called(*options, "--trials", "4", cwd=tmp_path)
    told = called("change", "s", "--space", "x.high=0.9", "--trials", "+2", "seconds=100", cwd=tmp_path, code=0).stdout
    assert told.splitlines()[:3] == ["trials: 4 → 6", "seconds: none → 100", "x: 0 to 1 → 0 to 0.9"]
    assert told.splitlines()[-1] == "change 1 of s: takes effect when the search goes on (--continue)"
    refused = called("change", "s", "--method", "daso", cwd=tmp_path, code=2).stderr
    assert "method cannot change in a study that has begun" in refused
    called(*options, "--trials", "4", "--continue", cwd=tmp_path)
    shown = called("studies", "s", cwd=tmp_path).stdout
    assert all(words in shown for words in ("change 1", "from trial 4 on", "x: 0 to 1 → 0 to 0.9"))
    (change,) = called_json("studies", "s", cwd=tmp_path)["changes"]
    assert (change["number"], change["first_trial"]) == (1, 4)


@pytest.mark.parametrize("sampler", ["optuna-tpe", "optuna-nsga2", "evolution"])
def test_a_training_study_changes(tmp_path, sampler):
    study = {
        "name": "s", "workload": "digits_mlp", "method": "ddp", "steps": 2, "trials": 3, "check": False,
        "sampler": {"name": "random"}, "topology": {"threads": 1}, "space": {"momentum": 0.5, "batch_size": 256},
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(study))
    called("search", "s.json", "--in-process", cwd=tmp_path)
    told = called(
        "change", "s", "--space", "momentum={low: 0.0, high: 0.9}", "--space", "learning_rate.low=0.01",
        "--sampler", sampler, "--trials", "5", cwd=tmp_path,
    ).stdout  # fmt: skip
    assert "momentum: fixed to 0.5 → 0 to 0.9" in told
    called("search", "s.json", "--in-process", "--continue", cwd=tmp_path)
    lines = sorted_lines(tmp_path / "atoll-studies" / "s")
    assert all(line["proposal"]["operator"] != "random" for line in lines[3:])
    assert all(line["hyperparameters"]["learning_rate"] >= 0.01 for line in lines[3:])
    shown = called("leaderboard", "s", cwd=tmp_path).stdout
    assert "changed from trial 3 on" in shown
    assert "versions of code, data or libraries" not in shown


def test_a_small_space_that_is_narrowed_is_searched_to_its_end(search, folder):
    choices = {"kind": atoll.Categorical(["a", "b", "c"]), "size": atoll.Categorical([1, 2, 3])}
    search(space=choices, sampler={"name": "evolution"}, trials=5)
    asked = atoll.change("s", space={"kind.choices-": "a"}, trials=40)
    num_outside = sum(line["hyperparameters"]["kind"] == "a" for line in sorted_lines(folder))
    assert asked["settings"][0]["said"] == f"trials: 5 → {6 + num_outside}"  # no configuration twice
    study = search(space=choices, sampler={"name": "evolution"}, trials=5, resume=True)
    found = Counter((line["hyperparameters"]["kind"], line["hyperparameters"]["size"]) for line in sorted_lines(folder))
    assert study.state == "complete"
    assert {pair for pair in found if pair[0] != "a"} == {(kind, size) for kind in "bc" for size in (1, 2, 3)}
    assert set(found.values()) == {1}
