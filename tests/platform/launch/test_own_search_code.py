"""Searches with a sampler or a pruning rule of the user's: recorded, resumed, and ended by their errors."""

import json
import textwrap

import pytest
import yaml
from commands import STABLE, atoll, called, called_json, journal_lines, stopped_when

SAMPLER = """
    from pathlib import Path

    from atoll import Sampler

    class Mine(Sampler):
        def __init__(self, space, *, fails_at: int = 100, **others):
            super().__init__(space, **others)
            self.fails_at, self.known = fails_at, {}
        def told(self, result):
            self.known[result.number] = result.state
            with open("told.txt", "a") as file:
                print(result.number, result.state, file=file)
        def propose(self, number):
            if number >= self.fails_at and not Path("mended").exists():  # a process imports a file once
                raise LookupError(f"known are {sorted(self.known)}")
            return self.draw()
"""
RULE = """
    from atoll import PruningRule

    class Mine(PruningRule):
        def __init__(self, *, fails_at: float = 100.0):
            self.fails_at = fails_at
        def prunes(self, report):
            if report.number >= self.fails_at:
                raise LookupError("no rule")
            return report.number % 2 == 1
"""


def write(folder, /, **content):
    (folder / "mine.py").write_text(textwrap.dedent(SAMPLER))
    (folder / "rule.py").write_text(textwrap.dedent(RULE))
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "epochs": 2, "trials": 6}
    study |= {"sampler": {"name": "mine.py:Mine"}, "space": {**STABLE, "wire": "float32"}}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


def search(folder, *flags, code=0):
    return called("search", "s.yaml", "--in-process", *flags, cwd=folder, code=code)


@pytest.mark.slow
def test_a_search_of_two_islands_is_stopped_and_resumed(tmp_path):
    write(tmp_path, topology={"islands": 2}, migration={"probability": 1.0, "pollination": True}, trials=40)
    with stopped_when(tmp_path / "atoll-studies/s", "trial_ended", 4):
        search(tmp_path, code=75)
    (tmp_path / "told.txt").unlink()
    search(tmp_path, "--resume")
    trials = called_json("leaderboard", "s", cwd=tmp_path)
    assert len(trials) == 40
    told = {line.split()[0] for line in (tmp_path / "told.txt").read_text().splitlines()}
    assert told == {str(number) for number in range(40)}  # those from before, too
    assert {trial["proposal"]["operator"] for trial in trials} == {"default", "Mine"}


@pytest.mark.slow
def test_its_code_is_recorded_and_a_change_is_not_resumed(tmp_path):
    write(tmp_path, trials=20)  # it is stopped half a second after the first one
    with stopped_when(tmp_path / "atoll-studies/s", "trial_ended", 1):
        search(tmp_path, code=75)
    record = json.loads((tmp_path / "atoll-studies/s/provenance/1.json").read_text())["record"]
    assert [path.rpartition("/")[2] for path in record["searching"]] == ["mine.py"]
    assert record["measured"]["code"] == {}
    (copy,) = (tmp_path / "atoll-studies/s/provenance/sources").iterdir()
    assert copy.read_text() == (tmp_path / "mine.py").read_text()
    assert "code that searches: " in called("studies", "s", cwd=tmp_path).stdout
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n# another one\n")
    refused = search(tmp_path, "--resume", code=1).stderr
    assert "mine.py changed (sha256 " in refused
    search(tmp_path, "--resume", "--accept-changes")


@pytest.mark.slow
@pytest.mark.parametrize("is_slow", [False, True])
def test_an_error_ends_the_search_with_a_line(tmp_path, is_slow):
    write(tmp_path, sampler={"name": "mine.py:Mine", "fails_at": 3}, trials=20)
    if is_slow:
        path = tmp_path / "mine.py"
        path.write_text(path.read_text().replace("(Sampler):", "(Sampler):\n    is_slow = True"))
    done = search(tmp_path, code=1)
    said = done.stdout + done.stderr
    assert "sampler mine.py:Mine: propose raised LookupError: known are [" in said
    assert "mine.py, line 1" in said
    assert "correct it, and repeat the command with --resume --accept-changes" in said
    assert "Traceback" not in said
    (study,) = called_json("studies", cwd=tmp_path)
    assert study["state"] == "failed"
    # A thread proposes while the third trial trains, which may have ended by then or not.
    assert study["counts"] in ([{"complete": 3}, {"complete": 2, "lost": 1}] if is_slow else [{"complete": 3}])
    (tmp_path / "mended").touch()
    search(tmp_path, "--resume")
    lost = {state: count for state, count in study["counts"].items() if state == "lost"}
    assert called_json("studies", cwd=tmp_path)[0]["counts"] == {"complete": 20} | lost
    operators = {trial["proposal"]["operator"] for trial in called_json("leaderboard", "s", cwd=tmp_path)}
    assert operators == {"default", "Mine"}


@pytest.mark.slow
def test_an_error_after_the_last_trial_is_told_as_well(tmp_path):
    write(tmp_path, trials=3)
    path = tmp_path / "mine.py"
    path.write_text(
        path.read_text().replace("self.known[result.number]", "1 / (2 - result.number)\n        self.known[0]")
    )
    done = search(tmp_path, code=1)
    assert "told raised ZeroDivisionError" in done.stdout + done.stderr


def test_code_elsewhere_and_bad_options_are_refused_before_anything_starts(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(tmp_path)
    write(elsewhere, sampler={"name": "../mine.py:Mine"})
    assert "code must be in the file's folder" in search(elsewhere, code=2).stderr
    write(tmp_path, sampler={"name": "mine.py:Mine", "fail_at": 3})
    assert "s.yaml: sampler mine.py:Mine has no option fail_at; valid are fails_at" in search(tmp_path, code=2).stderr
    write(tmp_path, pruning={"rule": "rule.py:Mine", "fails_at": "soon"})
    assert "pruning rule rule.py:Mine does not take this fails_at" in search(tmp_path, code=2).stderr
    write(tmp_path, pruning={"rule": "rule.py:Mine", "factor": 4})
    assert "pruning: factor is a setting of asha" in search(tmp_path, code=2).stderr
    write(tmp_path, pruning={"rule": "hyperband"})
    assert "pruning.rule: must be one of asha, median, file.py:Class, or an" in search(tmp_path, code=2).stderr
    assert not (tmp_path / "atoll-studies").exists()


@pytest.mark.slow
def test_a_rule_of_ones_own_prunes(tmp_path):
    write(tmp_path, pruning={"rule": "rule.py:Mine"}, topology={"ranks": 2}, sampler={"name": "random"})
    search(tmp_path)
    states = {line["number"]: line["state"] for line in journal_lines(tmp_path / "atoll-studies/s", "trial_ended")}
    assert states == {number: ("complete", "pruned")[number % 2] for number in range(6)}
    record = json.loads((tmp_path / "atoll-studies/s/provenance/1.json").read_text())["record"]
    assert [path.rpartition("/")[2] for path in record["searching"]] == ["rule.py"]


@pytest.mark.slow
def test_an_error_of_a_rule_ends_the_search_with_a_line(tmp_path):
    write(tmp_path, pruning={"rule": "rule.py:Mine", "fails_at": 2}, sampler={"name": "random"}, epochs=30)
    done = search(tmp_path, code=1)
    assert "pruning rule rule.py:Mine: prunes raised LookupError: no rule, at " in done.stdout + done.stderr
    assert called_json("studies", cwd=tmp_path)[0]["state"] == "failed"


@pytest.mark.long
@pytest.mark.process
def test_an_error_ends_a_search_over_mpi(tmp_path):
    write(tmp_path, sampler={"name": "mine.py:Mine", "fails_at": 5}, topology={"islands": 2, "ranks": 2}, trials=40)
    done = atoll("search", "s.yaml", cwd=tmp_path, code=1)
    assert "sampler mine.py:Mine: propose raised LookupError: known are [" in done.stdout
    assert "restarted" not in done.stdout
    assert called_json("studies", cwd=tmp_path)[0]["state"] == "failed"
