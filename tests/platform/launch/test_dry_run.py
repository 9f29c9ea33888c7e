"""A study has a dry run before its ranks start: refused in a line, or told what could not be checked."""

import json
import os
import resource
import time

import pytest
import torch
import yaml
from commands import called, called_json
from ranks import SUPPORT, mpiexec

from atoll.platform.launch import checks, dry_run
from atoll.platform.study.study import Study
from atoll.storage.process import start_of
from atoll.storage.store import Store

pytestmark = pytest.mark.process  # it forks
FILE = SUPPORT / "mistaken.py"


def content(name, **changes):
    study = {"name": "s", "workload": f"{FILE}:{name}", "method": "ddp", "trials": 2, "epochs": 1}
    return study | {"topology": {"device": "cpu"}, "space": {"batch_size": 8}} | changes


def write(folder, name, **changes):
    (folder / "s.yaml").write_text(yaml.safe_dump(content(name, **changes)))


def verdict(name, *, limit=None, forks=True, **changes):
    return dry_run.run(checks.check(Study(**content(name, **changes))), limit=limit, forks=forks)


# What a new user wrote, as found in a first day with atoll.
TYPICAL = ["Loader", "PerSample", "WrongShape", "Tuple", "NamedLoss", "WrongTargets", "MetricPerSample", "Raises"]


def test_typical_mistakes_are_refused_in_a_line_before_anything_starts(tmp_path):
    for name in TYPICAL:
        write(tmp_path, name)
        done = called("search", "s.yaml", "--outside", cwd=tmp_path, code=2)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: s.yaml: ")
        assert f"; at {FILE}, line " in line
        assert "--no-check goes on regardless" in line
    assert not (tmp_path / "atoll-studies").exists()


def test_check_says_what_passed(tmp_path):
    write(tmp_path, "Right")
    done = called("check", "s.yaml", "--outside", cwd=tmp_path)
    assert done.stdout.startswith("s: passed in ")
    assert "inputs float32 (8, 8), targets int64 (8,), outputs float32 (8, 3); before training: loss 1." in done.stdout
    told = called_json("check", "s.yaml", "--outside", cwd=tmp_path)
    assert (told["state"], told["found"]["batch_size"]) == ("passed", 8)
    assert set(told["found"]["scores"]) == {"loss", "accuracy"}
    assert not (tmp_path / "atoll-studies").exists()


def test_check_says_what_is_wrong(tmp_path):
    write(tmp_path, "PerSample")
    assert "s: refused in " in called("check", "s.yaml", "--outside", cwd=tmp_path, code=2).stderr
    done = called("check", "s.yaml", "--outside", "--json", cwd=tmp_path, code=2)
    told = json.loads(done.stdout)
    assert (told["study"], told["state"]) == ("s", "refused")
    assert "got float32 (8,)" in told["said"]


def test_what_the_workload_refuses_of_its_own_hyperparameters_is_a_line(tmp_path):
    write(tmp_path, "Refuses")
    (line,) = called("check", "s.yaml", "--outside", cwd=tmp_path, code=2).stderr.splitlines()
    assert "AssertionError: the width must be a multiple of 32; at " in line


def test_what_the_users_code_prints_does_not_mix_with_json(tmp_path, capfd):
    (tmp_path / "w.py").write_text(
        "import sys\nsys.path.append('" + str(SUPPORT) + "')\nfrom mistaken import Right\n"
        "class Prints(Right):\n    def model(self):\n        print('made')\n        return super().model()\n"
    )
    write(tmp_path, "Right", workload="w.py:Prints")
    assert called_json("check", "s.yaml", cwd=tmp_path)["state"] == "passed"
    captured = capfd.readouterr()
    assert captured.out == ""


@pytest.mark.parametrize("name", ["NeedsGpu", "DataElsewhere", "Crashes", "Unlucky"])
def test_what_may_train_is_undecided(name, tmp_path):
    found = verdict(name)
    assert found.state == "undecided"
    write(tmp_path, name)
    assert "s: undecided in " in called("check", "s.yaml", "--outside", cwd=tmp_path, code=1).stderr


def test_a_loss_that_is_nan_by_chance_is_told(tmp_path):
    assert "the default configuration fails, and another one passes: loss must be finite" in verdict("Unlucky").said


def test_a_crash_is_told_with_its_stage():
    assert "ended with signal 11 in the stage 'model'" in verdict("Crashes").said


def test_a_long_load_is_cut(tmp_path, monkeypatch):
    found = verdict("Slow", limit=0.3)
    assert found.state == "undecided"
    assert found.said == (
        "the check of one batch was stopped after 0.3 s in the stage 'load'; `atoll check` has no time limit"
    )
    assert found.seconds < 5


def test_a_load_that_is_cut_can_clean_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert verdict("CleansUp", limit=0.3).state == "undecided"
    assert (tmp_path / "cleaned-up").exists()


@pytest.mark.parametrize("name", ["LeavesAProcess", "LeavesASession"])
def test_what_a_load_leaves_running_is_not_waited_for_and_ends(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    found = verdict(name)
    assert (found.state, found.seconds < 30) == ("passed", True)
    left = int((tmp_path / "left").read_text())
    deadline = time.monotonic() + 10
    while start_of(left) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_of(left) is None


def test_a_study_that_exists_is_refused_before_its_batch_is_checked(tmp_path):
    write(tmp_path, "PerSample")
    (tmp_path / "atoll-studies/s").mkdir(parents=True)
    (tmp_path / "atoll-studies/s/study.json").write_text("{}")
    done = called("search", "s.yaml", "--outside", cwd=tmp_path, code=1)
    assert "already holds a study" in done.stderr
    assert "loss must be" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["flag", "study"])
def test_a_search_may_go_on_regardless(tmp_path, way):
    write(tmp_path, "PerSample", **({"check": False} if way == "study" else {}))
    flags = ["--no-check"] if way == "flag" else []
    done = called("search", "s.yaml", "--outside", "--in-process", *flags, cwd=tmp_path, code=1)
    assert "all 2 trials failed" in done.stdout


@pytest.mark.slow
def test_a_search_goes_on_with_a_warning_if_it_is_undecided(tmp_path):
    write(tmp_path, "Unlucky", default_first=False, seed=0)
    done = called("search", "s.yaml", "--outside", "--in-process", cwd=tmp_path)
    assert "warning: the default configuration fails" in done.stderr
    assert Store(f"sqlite:///{tmp_path}/atoll.db").study("s").state == "complete"


def test_the_dry_run_of_a_debugged_search_puts_random_states_back():
    torch.manual_seed(17)
    before = torch.get_rng_state()
    assert verdict("Right", forks=False).state == "passed"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_that_fits_with_another_batch_size_is_no_mistake():
    found = verdict("TooFew", space={"batch_size": {"low": 2, "high": 8}})
    assert found.state == "undecided"
    assert "a global batch must have at most 3 samples" in found.said
    assert verdict("TooFew", space={"batch_size": {"low": 4, "high": 8}}).state == "refused"


def test_confirmed_configurations_measure_the_test_data():
    assert verdict("NoTest").state == "passed"
    default = checks.check(Study(**content("NoTest"))).space.default()
    found = verdict("NoTest", confirm={"configurations": [default], "seeds": 1}, trials=None)
    assert "the test data must have at least one sample" in found.said


@pytest.mark.usefixtures("trains_on_threads")
def test_a_training_has_a_dry_run(tmp_path):
    configuration = {"workload": f"{FILE}:PerSample", "method": "ddp", "epochs": 1, "device": "cpu"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(configuration))
    done = called("train", "c.yaml", "--outside", cwd=tmp_path, code=2)
    assert "loss must be a scalar tensor" in done.stderr
    assert "failed: RuntimeError" in called("train", "c.yaml", "--outside", "--no-check", cwd=tmp_path, code=1).stdout


def test_a_benchmark_has_its_dry_runs(tmp_path):
    benchmark = {
        "name": "b",
        "methods": [{"name": "ddp", "method": "ddp"}],
        "workloads": [{"name": "w", "workload": f"{FILE}:PerSample", "epochs": 1}],
        "tuning": {"trials": 2},
        "confirmation": {"best": 1, "seeds": 2},
        "device": "cpu",
    }
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(benchmark))
    done = called("benchmark", "b.yaml", "--outside", cwd=tmp_path, code=2)
    assert "loss must be a scalar tensor" in done.stderr
    assert not (tmp_path / "atoll-studies").exists()


@pytest.mark.mpi
@pytest.mark.long
def test_inside_someones_mpirun_one_rank_refuses_for_all(tmp_path):
    write(tmp_path, "PerSample", topology={"ranks": 2, "device": "cpu"})
    store = {"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}
    done = mpiexec(2, "-m", "atoll.platform.cli", "search", "s.yaml", "--outside", env=store, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("loss must be a scalar tensor") == 1
    assert not (tmp_path / "atoll-studies" / "s" / "study.json").exists()


def test_it_costs_a_tenth_of_a_second():
    """A goal of a search's start is half a second for all its checks; this is CPU time, as machines are busy."""
    plan = checks.check(Study(name="s", workload="digits_mlp", method="ddp", topology={"device": "cpu"}))
    dry_run.run(plan, limit=None)

    def seconds():
        used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    before = seconds()
    assert dry_run.run(plan, limit=None).state == "passed"
    assert seconds() - before < 0.5
    assert os.getpid()  # the child never comes here
