"""`atoll search --replay`: the decisions of whole searches are repeated from their journals."""

import json
import shutil
import zlib

import pytest
import yaml
from commands import called, journal_lines, meanwhile
from conftest import ROOT

from atoll.platform.launch import replaying
from atoll.platform.search.replay import CannotReplay
from atoll.storage.folder import StudyFolder

OBJECTIVE = """
import time
from pathlib import Path

calls = []

def curve(trial):
    calls.append(trial)
    if len(calls) == 8 and Path("stops").exists():
        Path("stops").unlink()
        Path("atoll-studies/s/stop").touch()
        time.sleep(1.2)
    for step in range(3):
        time.sleep(0.002)
        trial.report((trial["x"] - 0.3) ** 2 + trial["y"] + 1 / (1 + step), step)
    return (trial["x"] - 0.3) ** 2 + trial["y"]

def two(trial):
    return {"a": trial["x"], "b": 1 - trial["x"] + trial["y"]}
"""
SPACE = {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b", "c"]}}
STUDY = {"name": "s", "objective": "own.py:curve", "space": SPACE, "trials": 24}
FOUR = {"islands": 2, "workers": 2}
MIGRATION = {"probability": 1.0}
SAMPLERS = {
    "evolution": {"name": "evolution", "population": 4},
    "propulate": {"name": "propulate", "population": 4},
    "random": {"name": "random"},
    "tpe": {"name": "optuna-tpe", "startup": 4},
    "cmaes": {"name": "optuna-cmaes"},
    "nsga2": {"name": "optuna-nsga2", "population": 4},
    "nsga3": {"name": "optuna-nsga3", "population": 4},
    "fidelity": {"name": "fidelity-gp", "startup": 4},
    "mixed": {"name": "mixed", "population": 4},
}


def write(folder, /, **content):
    (folder / "own.py").write_text(OBJECTIVE)
    (folder / "s.yaml").write_text(yaml.safe_dump(STUDY | content))


def search(folder, *flags, code=0):
    return called("search", "s.yaml", "--in-process", "--outside", *flags, cwd=folder, code=code)


def replay(folder, *arguments, code=0):
    return called("search", *arguments, "--replay", "s", cwd=folder, code=code)


def summary(folder, *arguments, code=0):
    return json.loads(replay(folder, *arguments, "--json", code=code).stdout)


LONG = pytest.mark.long


@pytest.mark.parametrize("sampler", ["evolution", *(pytest.param(n, marks=LONG) for n in SAMPLERS if n != "evolution")])
def test_one_worker_decides_the_same_again(tmp_path, sampler):
    write(tmp_path, sampler=SAMPLERS[sampler])
    search(tmp_path)
    found = summary(tmp_path)
    assert (found["proposals"], found["different"], found["untold"]) == (23, 0, 0)


@pytest.mark.parametrize(
    ("sampler", "pollination"),
    [
        ("evolution", False),
        ("mixed", False),
        ("tpe", True),
        *(pytest.param(name, False, marks=LONG) for name in SAMPLERS if name not in ("evolution", "mixed")),
        pytest.param("evolution", True, marks=LONG),
    ],
)
def test_four_workers_on_two_islands_stopped_and_resumed(tmp_path, sampler, pollination):
    write(
        tmp_path,
        sampler=SAMPLERS[sampler],
        topology=FOUR,
        migration=MIGRATION | {"pollination": pollination},
        pruning={"rule": "asha", "fidelity": "steps", "factor": 2, "grace": 1},
        trials=40,
    )
    (tmp_path / "stops").touch()
    search(tmp_path, code=75)
    search(tmp_path, "--resume")
    found = summary(tmp_path)
    assert (found["different"], found["untold"]) == (0, 0), found
    assert 30 <= found["proposals"] <= 40
    assert found["prunings"] > 40


X, Y = SPACE["x"], SPACE["y"]
CASES = {
    "priors": {"space": {"x": X | {"prior": {"mode": 0.3}}, "y": Y}},
    "conditions": {"space": SPACE | {"y": Y | {"only_if": {"kind": "a"}}}, "sampler": SAMPLERS["tpe"]},
    "two objectives": {
        "objective": "own.py:two",
        "objectives": [{"a": "minimize"}, {"b": "minimize"}],
        "sampler": SAMPLERS["evolution"],
    },
    "samplers by island": {"sampler": [{"name": "grid", "points": 5}, {"name": "optuna-qmc"}]},
    "gp": {"sampler": {"name": "optuna-gp", "startup": 4}, "trials": 12},
    "median": {"pruning": {"rule": "median", "fidelity": "steps", "startup": 3}, "sampler": SAMPLERS["random"]},
    "constraints": {"constraints": ["x + y <= 1"], "sampler": SAMPLERS["mixed"]},
    "own sampler and rule": {
        "sampler": {"name": f"{ROOT}/examples/own_sampler.py:LocalSearch"},
        "pruning": {"rule": f"{ROOT}/examples/own_pruning.py:FarBehind", "fidelity": "steps", "margin": 0.2},
    },
    "random replacement": {"migration": MIGRATION | {"replace": "random"}, "sampler": SAMPLERS["evolution"]},
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.process if "own" in case else ()) for case in CASES]
)
def test_other_studies_of_four_workers(tmp_path, case):
    write(tmp_path, **{"topology": FOUR, "migration": MIGRATION} | CASES[case])
    search(tmp_path)
    found = summary(tmp_path)
    assert (found["different"], found["untold"]) == (0, 0), found
    assert found["proposals"] >= 10


def test_results_of_an_earlier_study_are_told_again(tmp_path):
    write(tmp_path, name="before")
    search(tmp_path)
    write(tmp_path, learn_from=[{"study": "before"}], warm_start={"studies": ["before"], "best": 2}, topology=FOUR)
    search(tmp_path)
    found = summary(tmp_path)
    assert (found["different"], found["untold"]) == (0, 0), found


def test_failed_configurations_are_known_again(tmp_path):
    write(tmp_path, topology=FOUR, space={"kind": SPACE["kind"], "x": {"choices": [0.0, 0.5, 1.0]}}, trials=12)
    (tmp_path / "own.py").write_text("def curve(trial):\n    return 1 / trial['x'] + (trial['kind'] == 'a')\n")
    search(tmp_path)
    assert "failed" in {line["state"] for line in journal_lines(tmp_path / "atoll-studies/s", "trial_ended")}
    assert summary(tmp_path)["different"] == 0


def resealed(line):
    """A journal's line with the checksum of its present content."""
    del line["crc"]
    data = json.dumps(line, separators=(",", ":"))[:-1].encode()
    return (data + b',"crc":"%08x"}' % zlib.crc32(data)).decode()


def edit(folder, change):
    """Pass each line of the journals through a function."""
    for path in (folder / "atoll-studies/s/journals").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            change(line)
        path.write_text("".join(resealed(line) + "\n" for line in lines))


def test_a_changed_gene_is_reported_at_its_trial(tmp_path):
    write(tmp_path, sampler=SAMPLERS["random"], topology=FOUR)
    search(tmp_path)

    def change(line):
        if line["event"] == "trial_started" and line["number"] == 7:
            line["proposal"]["genes"]["x"] = line["hyperparameters"]["x"] = 0.125

    edit(tmp_path, change)
    done = replay(tmp_path, code=1)
    assert "1 of 23 differ" in done.stdout
    assert "trial 7, worker" in done.stdout
    assert "x: 0.125 then, " in done.stdout


def test_changed_code_decides_otherwise(tmp_path, monkeypatch):
    write(tmp_path, sampler=SAMPLERS["evolution"])
    search(tmp_path)
    monkeypatch.setattr("atoll.platform.search.propagators.evolution.WIDTH_OF_SCALES", 0.4)
    found = summary(tmp_path, code=1)
    first = found["differing"][0]
    assert first["number"] >= 2
    assert first["differences"]


def test_another_sampler_of_the_file_is_told(tmp_path):
    write(tmp_path, sampler=SAMPLERS["evolution"])
    search(tmp_path)
    write(tmp_path, sampler=SAMPLERS["tpe"])
    assert "operator: random then, optuna-tpe now" in replay(tmp_path, "s.yaml", code=1).stdout


def test_another_rule_of_pruning_is_told(tmp_path):
    write(tmp_path, pruning={"rule": "asha", "fidelity": "steps", "factor": 2, "grace": 1}, sampler=SAMPLERS["random"])
    search(tmp_path)
    assert summary(tmp_path)["prunings"] > 20
    write(tmp_path, pruning={"rule": "asha", "fidelity": "steps", "factor": 4, "grace": 1}, sampler=SAMPLERS["random"])
    found = summary(tmp_path, "s.yaml", code=1)
    assert {decision["kind"] for decision in found["differing"]} == {"pruning"}


def test_journals_of_older_versions_do_not_tell(tmp_path):
    write(tmp_path, sampler=SAMPLERS["random"])
    search(tmp_path)
    edit(tmp_path, lambda line: line.pop("heard", None))
    assert "do not tell what each worker knew" in replay(tmp_path, code=2).stderr


def test_a_changed_study_and_a_search_are_refused(tmp_path):
    write(tmp_path, sampler=SAMPLERS["random"])
    search(tmp_path)
    called("change", "s", "--trials", "+2", cwd=tmp_path)
    search(tmp_path, "--continue")
    assert "`atoll change` changed it" in replay(tmp_path, code=2).stderr
    assert "--replay starts no search" in replay(tmp_path, "--resume", code=2).stderr
    shutil.rmtree(tmp_path / "atoll-studies/s/journals")
    assert "no decisions to repeat" in replay(tmp_path, code=2).stderr


def test_what_a_journal_tells_of_launchers_and_continued_trials_is_refused(tmp_path):
    write(tmp_path, sampler=SAMPLERS["random"])
    search(tmp_path)
    journals = tmp_path / "atoll-studies/s/journals"
    before = {path: path.read_text() for path in journals.glob("*.jsonl")}

    def continues(line):
        if line["event"] == "trial_started" and line["number"] == 7:
            line["home"] = 0

    edit(tmp_path, continues)
    assert "trials continued after they had a result" in replay(tmp_path, code=2).stderr
    for path, text in before.items():
        path.write_text(text)
    joined = {"event": "joined", "time": 0.0, "launcher": 2, "hostname": "h", "process": 1, "num_ranks": 1,
              "num_workers": 1, "crc": ""}  # fmt: skip
    header, *_ = before[journals / "launcher.jsonl"].splitlines(keepends=True)
    further = journals / "launcher.9.jsonl"
    further.write_text(header + resealed(joined) + "\n")
    assert "several launchers searched it" in replay(tmp_path, code=2).stderr
    further.unlink()
    root = next(path for path in before if path.name.startswith("root"))
    root.write_text(before[root].replace('"operator":"random"', '"operator":"mixed"', 1))
    assert "has invalid lines" in replay(tmp_path, code=2).stderr


def test_a_study_whose_trials_pause_is_refused(tmp_path):
    write(tmp_path, sampler=SAMPLERS["random"])
    search(tmp_path)
    paused = {"workload": "digits_mlp", "method": "ddp", "epochs": 4, "checkpoint": {"every": "1 epochs"}}
    study = {"name": "s", "trials": 24, "sampler": {"name": "pbt", "every": "1 epochs"}} | paused
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    assert "a study with promotion or pbt cannot be compared" in replay(tmp_path, "s.yaml", code=2).stderr


def test_a_running_search_is_refused(tmp_path):
    write(tmp_path, sampler=SAMPLERS["random"])
    said = []
    folder = tmp_path / "atoll-studies/s"

    def has_started():
        return folder.exists() and bool(journal_lines(folder, "trial_started"))

    def ask():
        with pytest.raises(CannotReplay, match="is running: wait until it has ended, or stop it first"):
            replaying.replay(StudyFolder(folder))
        said.append(True)

    with meanwhile(has_started, ask):
        search(tmp_path)
    assert said


def test_a_trial_costs_few_bytes(tmp_path):
    write(tmp_path, sampler=SAMPLERS["evolution"], topology={"workers": 4}, trials=60)
    search(tmp_path)
    heard = [line["heard"] for event in ("trial_started", "worker_finished")
             for line in journal_lines(tmp_path / "atoll-studies/s", event) if "heard" in line]  # fmt: skip
    assert sum(len(text) + len(',"heard":""') for text in heard) / 60 < 30
