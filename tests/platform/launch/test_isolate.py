"""Searches with `isolate: process`: refused where it cannot work, and over MPI no crash of a trial costs a rank."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import yaml
from commands import FAILING, STABLE, atoll, called, called_json, end, journal_lines, start, wait_until
from ranks import SUPPORT

from atoll.platform.launch.mpi_launcher import choose
from atoll.storage.store import Store

MISBEHAVING = f"{SUPPORT / 'misbehaving.py'}:Misbehaving"


def write(folder, /, **content):
    study = {
        "name": "s", "workload": "digits_mlp", "method": "local_sgd", "epochs": 2, "space": STABLE, "isolate": "process"
    }  # fmt: skip
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


@pytest.mark.parametrize(
    ("content", "flags", "told"),
    [
        ({}, ["--in-process"], "isolate: process needs ranks that are processes, and --in-process makes them threads"),
        ({"topology": {"device": "cuda"}}, [], "topology.device must be cpu (or auto where there are none); got cuda"),
        ({"isolate": "fork"}, [], "'restore' or 'process'"),
        ({}, ["--isolate", "fork"], "'restore' or 'process'"),
    ],
)
def test_what_cannot_be_isolated_is_refused_before_anything_starts(tmp_path, content, flags, told):
    write(tmp_path, **content)
    done = called("search", "s.yaml", *flags, cwd=tmp_path, code=2)
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "atoll-studies").exists()


def test_gpus_and_other_systems_are_refused_before_anything_starts(tmp_path, monkeypatch):
    write(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("torch.cuda.device_count", lambda: 1)
        done = called("search", "s.yaml", cwd=tmp_path, code=2)
    assert "isolate: process trains without GPUs, and this host has some: set topology.device to cpu" in done.stderr
    monkeypatch.setattr("sys.platform", "darwin")
    assert "needs Linux, and this is darwin" in called("search", "s.yaml", cwd=tmp_path, code=2).stderr


def trials(folder):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return {trial.number: trial for trial in store.trials(store.study("s"))}


@pytest.mark.mpi
@pytest.mark.long
def test_crashing_trials_cost_no_rank_and_no_other_trial(tmp_path):
    """Trials that end their process in every way, and one that leaves torch in pieces, among others that are right."""
    kinds = {2: "segfault", 3: "quit", 5: "change", 6: "kill"}
    topology = {"ranks": 2, "threads": 1}
    found = {}
    for isolate in ("process", "restore"):
        folder = tmp_path / isolate
        folder.mkdir()
        write(
            folder, workload=MISBEHAVING, trials=9, topology=topology, sampler={"name": "random"}, isolate=isolate,
            trial_timeout=60,
        )  # fmt: skip
        if isolate == "process":
            environment = {"MARKS": str(folder), "MISBEHAVE": json.dumps(kinds)}
            atoll("search", "s.yaml", "--outside", cwd=folder, env=environment, timeout=240)
        else:
            called("search", "s.yaml", "--outside", "--in-process", cwd=folder)
        found[isolate] = trials(folder)
    study = tmp_path / "process" / "atoll-studies" / "s"
    assert not journal_lines(study, "restarted")
    assert len(journal_lines(study, "trial_started")) == 9  # each once
    assert len({line["process"] for line in journal_lines(study, "host")}) == 2
    for number, trial in found["process"].items():
        right = found["restore"][number]
        assert right.state == "complete"
        if number in kinds:
            assert trial.state == "failed", kinds[number]
        else:
            assert (trial.state, trial.objective, trial.wire_bytes) == ("complete", right.objective, right.wire_bytes)
    reasons = {kinds[number]: found["process"][number].reason for number in kinds}
    assert "SIGSEGV" in reasons["segfault"]
    assert "exit code 0" in reasons["quit"]
    assert "SIGKILL" in reasons["kill"]
    assert not psutil.pid_exists(int((tmp_path / "process" / "left").read_text()))


@pytest.mark.mpi
@pytest.mark.long
def test_no_process_of_a_trial_outlives_its_rank_or_launcher(tmp_path):
    """A killed rank is started again, and its trial's process is gone; the same at the launcher's end."""
    write(tmp_path, workload=FAILING, trials=4, epochs=4, topology={"ranks": 2})
    folder = tmp_path / "atoll-studies" / "s"
    search = start("search", "s.yaml", "--outside", cwd=tmp_path, env={"FAIL": "slow"})
    wait_until(lambda: folder.exists() and journal_lines(folder, "progress"), timeout=120)
    launcher = psutil.Process(search.pid)

    def forked():
        """The fork servers and trials: the children of ranks, which share their command line."""
        found = []
        for process in launcher.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # of one that has ended meanwhile
                parent = process.parent()
                commands = (" ".join(one.cmdline()) for one in (process, parent))
                if "mpiexec" not in parent.name() and all("ranks.main" in command for command in commands):
                    found.append(process)
        return found

    processes = {line["process"] for line in journal_lines(folder, "host")}
    wait_until(lambda: len(forked()) >= 4)
    of_first = forked()
    os.kill(min(processes), signal.SIGKILL)
    assert not psutil.wait_procs(of_first, timeout=20)[1]
    # Not in the same trial again, which would count as the cause.
    wait_until(lambda: any(line["state"] == "complete" for line in journal_lines(folder, "trial_ended")), timeout=120)
    wait_until(lambda: len(forked()) >= 4)
    of_second = forked()
    search.kill()
    assert not psutil.wait_procs(of_second, timeout=20)[1]
    end(search)
    done = called_json("search", "s.yaml", "--outside", "--resume", cwd=tmp_path)
    assert done["state"] == "complete"
    assert [trial.state for trial in trials(tmp_path).values()] == ["complete"] * 4


@pytest.mark.mpi
@pytest.mark.long
def test_inside_someones_own_mpirun(tmp_path):
    write(tmp_path, trials=3, topology={"ranks": 2})
    command = [*choose().command, "-n", "2", sys.executable, "-m", "atoll.platform.cli", "search", "s.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [trial.state for trial in trials(tmp_path).values()] == ["complete"] * 3
