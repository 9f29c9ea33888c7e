"""Functions of users on ranks over MPI: what threads do not have."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import functions
import pytest
import ranks
from commands import called, journal_lines, wait_until
from functions import HANGS, MISTAKES, MISTAKES_OVER_MPI, SPACE

import atoll

pytestmark = pytest.mark.mpi

FUNCTIONS = Path(functions.__file__)


@pytest.fixture
def search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def search(objective, **settings):
        return atoll.search(objective, **{"space": SPACE, "show": False, "name": "s", "keep_going": True} | settings)

    return search


@pytest.mark.long
def test_mpis_communicator_does_what_that_of_threads_does(search):
    study = search(functions.together, islands=2, ranks=3, trials=12)
    assert study.trials()["state"].tolist() == ["complete"] * 12


@pytest.mark.long
def test_a_mistake_costs_its_trial_only_and_leaves_nothing_pending(search):
    study = search(functions.misbehaves, ranks=2, workers=2, trials=6 * len(MISTAKES), trial_timeout=30)
    trials = study.trials().set_index("trial")
    assert set(trials["attempt"]) == {0}  # no rank had to be started again
    for number in range(6 * len(MISTAKES)):
        expected = list(MISTAKES.values())[number // 2 % len(MISTAKES)] if number % 2 else None
        state, reason = trials.loc[number, ["state", "reason"]]
        assert state == ("complete" if expected is None else "failed"), reason
        assert expected is None or reason.startswith(expected)


@pytest.mark.long
def test_mistakes_of_mpi_cost_their_trial_only_and_communicators_do_not_run_out(search):
    num_trials = 32  # four times 600 topologies, and MPICH has about 2,000 communicators
    study = search(functions.misbehaves_over_mpi, ranks=2, trials=num_trials, sampler="random")
    trials = study.trials().set_index("trial")
    assert set(trials["attempt"]) == {0}
    for number in range(num_trials):
        several = list(MISTAKES_OVER_MPI.values())
        expected = several[number // 2 % len(several)] if number % 2 else None
        state, reason = trials.loc[number, ["state", "reason"]]
        assert state == ("complete" if expected is None else "failed"), reason
        assert expected is None or reason.startswith(expected)


@pytest.mark.long
def test_a_function_that_does_not_come_back_is_interrupted_on_all_ranks(search):
    study = search(functions.hangs, ranks=2, workers=2, trials=8, trial_timeout=2.0)
    trials = study.trials().set_index("trial")
    assert set(trials["attempt"]) == {0}
    for number in range(8):
        expected = [None, *HANGS.values()][number % 4]
        state, reason = trials.loc[number, ["state", "reason"]]
        assert (state == "complete") == (expected is None)
        assert expected is None or reason.startswith(expected)


@pytest.mark.soak
def test_a_function_that_no_signal_interrupts_ends_after_half_a_minute_with_what_it_has_started(search):
    def waits(trial):
        if trial.number == 1:
            os.system("sleep 1000")
        return trial["x"]

    study = search(waits, workers=2, trials=4, trial_timeout=1.0)
    trials = study.trials().set_index("trial")
    assert trials["state"].tolist() == ["complete", "failed", "complete", "complete"]
    assert trials["attempt"].tolist() == [0] * 4
    assert trials.loc[1, "reason"].startswith("TrialTimeout")


PROPULATE = """
import atoll

def sphere(trial):
    comm = trial.comm
    mine = sum(value**2 for value in list(trial.values())[comm.rank :: comm.size])
    for step in range(20):
        trial.report(comm.allreduce(mine) + 1 / (1 + step), step)
    return comm.allreduce(mine)

if __name__ == "__main__":
    space = {f"x{n}": atoll.Float(-5.12, 5.12) for n in range(4)}
    atoll.search(sphere, space=space, trials=200, islands=2, workers=2, ranks=2, name="s", resume="s" in sys.argv)
"""
OPTUNA = """
import atoll

def objective(trial):
    return (trial["x"] - 2) ** 2

atoll.search(objective, space={"x": atoll.Float(-10.0, 10.0)}, trials=300, workers=8, name="s", resume="s" in sys.argv)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "num_lines", "num_trials"), [(PROPULATE, 15, 200), (OPTUNA, 6, 300)], ids=["propulate", "optuna"]
)
def test_examples_of_peers_run_on_eight_ranks_are_killed_and_resumed(tmp_path, script, num_lines, num_trials):
    lines = [line for line in script.splitlines() if line]
    assert len(lines) <= num_lines
    trials = killed_and_resumed(tmp_path, script, after=20, before=num_trials)
    counted = trials[trials["state"] == "complete"]
    assert sorted(counted["trial"]) == list(range(num_trials))  # the exact budget, none twice
    assert set(trials["state"]) <= {"complete", "lost"}
    assert counted["objective.value"].min() < 1.0


SMALL = """
import time
import atoll

def objective(trial):
    time.sleep(0.1)
    return trial["n"] + len(trial["kind"])

space = {"n": atoll.Int(1, 16), "kind": atoll.Categorical(["a", "bb", "ccc"])}
settings = {"trials": 500, "islands": 2, "workers": 2, "name": "s", "sampler": "evolution"}
atoll.search(objective, space=space, resume="s" in sys.argv, **settings)
"""


@pytest.mark.long
def test_a_small_space_is_searched_once_by_two_islands_that_are_killed_and_resumed(tmp_path):
    """The workers tell each other what they evaluate; after a kill, the journals do."""
    trials = killed_and_resumed(tmp_path, SMALL, after=12, before=48)
    complete = trials[trials["state"] == "complete"]
    assert sorted(complete["trial"]) == list(range(48))
    # Each once, but for workers that proposed at the same moment.
    distinct = complete.groupby(["hp.n", "hp.kind"]).size()
    assert len(distinct) >= 44
    assert distinct.max() <= 2


def killed_and_resumed(folder, script, after, before):
    """The trials of a script's search that is killed with `after` to `before` trials ended, and resumed."""
    file = folder / "example.py"
    file.write_text("import sys\n" + script)
    first = start_script(file)
    journals = folder / "atoll-studies" / "s"
    wait_until(lambda: journals.exists() and len(journal_lines(journals, "trial_ended")) >= after, timeout=120)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert len(journal_lines(journals, "trial_ended")) < before
    second = start_script(file, "s")
    _, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    return atoll.open(folder / "atoll.db").study("s").trials()


def start_script(file, *arguments):
    command = [sys.executable, str(file), *arguments]
    return subprocess.Popen(
        command, cwd=file.parent, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.long
def test_under_mpirun_a_script_is_collective(tmp_path):
    file = tmp_path / "example.py"
    file.write_text("import sys\n" + PROPULATE.replace("trials=200", "trials=24"))
    done = ranks.mpiexec(8, str(file), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = atoll.open(tmp_path / "atoll.db").study("s")
    assert (study.state, study.trials()["state"].tolist()) == ("complete", ["complete"] * 24)


@pytest.mark.long
def test_a_function_in_a_process_of_each_trial(search):
    study = search(functions.curve, in_process=False, isolate="process", trials=6)
    assert study.trials()["state"].tolist() == ["complete"] * 6
    assert len(study.curves()) == 24


@pytest.mark.long
def test_a_stopped_trial_continues_from_its_checkpoint_over_mpi(search):
    study = search(functions.continued, ranks=2, trials=3)
    assert study.state == "stopped"
    study = search(functions.continued, ranks=2, trials=3, resume=True)
    last = study.trials().groupby("trial").last()
    assert last["state"].tolist() == ["complete"] * 3
    assert last["objective.value"].tolist() == [30.0] * 3


@pytest.mark.long
def test_from_the_shell_and_trained_again(tmp_path):
    flags = ("--space", "{x: {low: 0.0, high: 1.0}}", "--ranks", "2", "--trials", "8", "--name", "s")
    done = called("search", f"{FUNCTIONS}:curve", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 complete" in done.stdout
    assert called("export", "s", "-o", "best.yaml", cwd=tmp_path).returncode == 0
    again = called("train", "best.yaml", "--outside", cwd=tmp_path)
    assert "reproduces the exported objective" in again.stdout, again.stderr
