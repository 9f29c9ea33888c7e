"""The launcher, with a script in place of mpiexec: what it does when the job ends, dies, falls silent, or stops."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import own_code
import pytest
from commands import journal_lines, meanwhile

from atoll.platform.exit_codes import EXIT_JOURNAL
from atoll.platform.launch import lifecycle, running, supervise
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.mpiexec import is_rank_of, kill_ranks
from atoll.platform.stop_signals import STOP_SIGNALS
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage import launches
from atoll.storage.events import RankPlaced
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalError
from atoll.storage.lock import Locked
from atoll.storage.store import Store

pytestmark = pytest.mark.process

STARTED = {"event": "trial_started", "number": 0, "attempt": 0, "island": 0, "worker": 0, "generation": 0, "seed": 0,
           "host": "h", "hyperparameters": {}, "configuration": {}}  # fmt: skip
HOST = {"event": "host", "world_rank": 0, "island": 0, "worker": 0, "rank": 0, "node": 0, "hostname": "h",
        "device": "cpu", "threads": 1, "process": 1}  # fmt: skip
ENDED = {"event": "trial_ended", "number": 0, "attempt": 0, "state": "complete", "objective": 0.5}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Sets the body of the script that runs in place of mpiexec; it can `note` a line in root 0's journal."""

    def write(body):
        script = tmp_path / "mpiexec"
        note = """note() { echo "{\\"time\\": $(date +%s.%N), $1" >> "$folder/journals/root-00000$of_launch.jsonl"; }"""
        last_two = (
            'folder="${@: -2:1}"; launch="${@: -1}"; of_launch=".$launch"; if [ $launch = 1 ]; then of_launch=; fi'
        )
        script.write_text(f"#!/bin/bash\n{last_two}\n{note}\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("ATOLL_MPIEXEC", str(script))

    monkeypatch.chdir(tmp_path)
    return write


def note(line):
    """The shell's command that writes a line."""
    return f"note '{json.dumps(line)[1:]}'"


def run(folder, *, resuming=False, **content):
    defaults = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 1, "folder": str(folder / "s")}
    plan = Plan.of(Study(**defaults | content))
    url = f"sqlite:///{folder}/atoll.db"
    ending = supervise.run_study(plan, url, resuming=resuming, follow=lambda _: None)
    return ending, Store(url).study("s")


def test_a_job_that_ends_by_itself(tmp_path, job):
    job(f"{note(STARTED)}\n{note(ENDED)}")
    ending, study = run(tmp_path)
    assert (ending.state, ending.exit_code, ending.recorded, study.state) == ("complete", 0, True, "complete")


def test_a_job_that_ends_too_early_is_stopped_and_can_be_resumed(tmp_path, job):
    job(note(STARTED))
    ending, study = run(tmp_path)
    assert (ending.state, ending.exit_code, study.state) == ("stopped", 75, "stopped")
    assert "stopped after 0 trials of 1 trial" in ending.reason


def test_a_job_that_dies_is_started_again_with_what_it_lost(tmp_path, job):
    job(f"""if [ -e "$folder/died" ]; then {note(STARTED | {"attempt": 1})}; {note(ENDED | {"attempt": 1})}; exit 0; fi
touch "$folder/died"; {note(STARTED)}; exit 9""")
    ending, _ = run(tmp_path)
    assert ending.state == "complete"
    (restarted,) = journal_lines(tmp_path / "s", "restarted")
    assert restarted["reason"].startswith("the MPI job ended with exit code 9")
    (lost,) = journal_lines(tmp_path / "s", "trial_lost")
    assert (lost["number"], lost["attempt"]) == (0, 0)


def test_a_job_that_dies_before_its_first_trial_is_not_started_again(tmp_path, job):
    job('echo "ValueError: nothing to train" ; exit 9')
    ending, _ = run(tmp_path)
    assert (ending.state, ending.exit_code) == ("failed", 1)
    assert ending.reason.startswith("the MPI job ended with exit code 9: ValueError: nothing to train (see ")
    assert journal_lines(tmp_path / "s", "restarted") == []


@pytest.mark.parametrize("death", ["echo 'terminated with the exit string: Killed (signal 9)'; exit 9", "kill -9 $$"])
def test_a_job_that_is_killed_while_it_starts_is_started_again(tmp_path, job, death):
    job(f"""if [ $(ls "$folder" | grep -c killed) = 2 ]; then {note(STARTED)}; {note(ENDED)}; exit 0; fi
touch "$folder/killed$RANDOM"; {death}""")
    ending, _ = run(tmp_path, max_restarts=2)
    assert (ending.state, ending.reason) == ("complete", None)
    assert len(journal_lines(tmp_path / "s", "restarted")) == 2


def test_a_job_that_is_killed_at_every_start_fails(tmp_path, job):
    job("kill -9 $$")
    ending, _ = run(tmp_path, max_restarts=1)
    assert ending.state == "failed"
    assert ending.reason.endswith("; the ranks were restarted 1 time (max_restarts)")


def test_a_rank_that_ends_quietly_in_a_trial_has_died_with_it(tmp_path, job):
    """As after os._exit(0) in a workload: for mpiexec all is well."""
    job(f"""touch "$folder/heartbeats/00000"; {note(HOST)}
n=$(ls "$folder" | grep -c quit); touch "$folder/quit$n"; {note(STARTED | {"attempt": "N"})}; exit 0""".replace(
        '"N"', "'$n'"
    ))  # fmt: skip
    ending, study = run(tmp_path, trials=2, max_restarts=1)
    assert (ending.state, study.state) == ("failed", "failed")
    assert ending.reason.startswith("rank 0 ended during the search with exit code 0")
    (lost,) = journal_lines(tmp_path / "s", "trial_lost")
    assert lost["blamed"]
    (failed,) = journal_lines(tmp_path / "s", "trial_ended")
    assert failed["reason"].startswith("its worker died during this trial twice; the second time: rank 0 ended during")


def test_a_study_whose_launcher_died_after_its_last_trial_is_recorded_and_ended(tmp_path, job):
    job(f"{note(STARTED)}\n{note(ENDED)}")
    run(tmp_path)
    last = tmp_path / "s" / "journals" / "launcher.2.jsonl"
    assert "study_ended" in last.read_text()
    last.unlink()
    (tmp_path / "atoll.db").unlink()
    job("true")  # the ranks find nothing to do
    ending, study = run(tmp_path, resuming=True)
    assert (ending.state, ending.exit_code, ending.recorded, study.state) == ("complete", 0, True, "complete")
    assert Store(f"sqlite:///{tmp_path}/atoll.db").studies()[0].counts == {"complete": 1}


def test_a_job_that_dies_too_often(tmp_path, job):
    """Another trial each time: who dies on the same one twice fails it."""
    started = note(STARTED | {"number": "N"}).replace('"N"', "'$n'")
    job(f"""n=$(ls "$folder" | grep -c died); touch "$folder/died$n"
{started}; exit 9""")
    ending, _ = run(tmp_path, max_restarts=1, trials=5)
    assert ending.state == "failed"
    assert ending.reason.endswith("; the ranks were restarted 1 time (max_restarts)")
    assert len(journal_lines(tmp_path / "s", "trial_started")) == 2


def test_a_journal_that_cannot_be_written_is_said_and_nothing_started_again(tmp_path, job):
    job(f"{note(STARTED)}; exit {EXIT_JOURNAL}")
    ending, _ = run(tmp_path)
    assert ending.state == "failed"
    assert ending.reason.startswith("a journal cannot be written (")
    assert "free some disk space, then continue with --resume" in ending.reason
    assert journal_lines(tmp_path / "s", "restarted") == []


def test_a_rank_that_falls_silent_is_named_and_its_job_ended(tmp_path, job):
    again = f"{note(STARTED | {'attempt': 1})}; {note(ENDED | {'attempt': 1})}; exit 0"
    job(f"""if [ -e "$folder/silent" ]; then {again}; fi
touch "$folder/silent"; {note(STARTED)}; echo $$ > "$folder/process"; sleep 60""")
    started = time.monotonic()
    ending, _ = run(tmp_path, heartbeat_timeout=4.0)
    assert time.monotonic() - started < 50
    assert ending.state == "complete"
    (lost,) = journal_lines(tmp_path / "s", "trial_lost")
    assert lost["reason"].startswith("rank 0 made no progress for 4 s (heartbeat_timeout)")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "s" / "process").read_text()), 0)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_ends_mpiexec_stops_the_search(tmp_path, job, number):
    program = f"import os, signal; signal.signal({number:d}, signal.SIG_DFL); os.kill(os.getpid(), {number:d})"
    job(f'{note(STARTED)}; exec {sys.executable} -S -c "{program}"')
    ending, study = run(tmp_path)
    assert (ending.state, ending.exit_code, study.state) == ("stopped", 75, "stopped")
    assert journal_lines(tmp_path / "s", "restarted") == []


def asked_to_end(process):
    """The shell's command that notes, as a rank does, that its process was asked to end."""
    return f"printf '\\017' > \"$folder/heartbeats/$launch.h.{process}.signals\""


def test_a_job_whose_ranks_were_all_asked_to_end_was_stopped_by_somebody(tmp_path, job):
    """As Open MPI's mpiexec, which terminates the ranks on a signal to itself, and ends with exit code 1."""
    job(f"{note(STARTED)}; {asked_to_end(1)}; {asked_to_end(2)}; exit 1")
    ending, study = run(tmp_path, topology={"ranks": 2})
    assert (ending.state, ending.exit_code, study.state) == ("stopped", 75, "stopped")
    assert journal_lines(tmp_path / "s", "restarted") == []


def test_a_job_one_of_whose_ranks_was_not_asked_to_end_has_died_with_it(tmp_path, job):
    """As Open MPI's mpiexec, which terminates the other ranks when one has died."""
    two = f"{note(HOST)}; {note(HOST | {'world_rank': 1, 'worker': 1, 'process': 2})}"
    again = f"{note(STARTED | {'attempt': 1})}; {note(ENDED | {'attempt': 1})}; exit 0"
    job(f"""if [ -e "$folder/died" ]; then {again}; fi
touch "$folder/died"; {two}; {note(STARTED)}; {asked_to_end(1)}; exit 137""")
    ending, _ = run(tmp_path, topology={"workers": 2})
    assert ending.state == "complete"
    (lost,) = journal_lines(tmp_path / "s", "trial_lost")
    assert not lost["blamed"]  # worker 0's, whose rank lived on; process 2 is that of worker 1
    assert len(journal_lines(tmp_path / "s", "restarted")) == 1


def test_ranks_that_are_asked_to_end_and_live_on_stop(tmp_path, job):
    """As MPICH's mpiexec, which passes SIGTERM on."""
    job(f"""{note(STARTED)}; {asked_to_end(1)}
for i in $(seq 600); do if ls "$folder"/launchers/*.stop > /dev/null 2>&1; then exit 0; fi; sleep 0.1; done""")
    started = time.monotonic()
    ending, _ = run(tmp_path)
    assert time.monotonic() - started < 30
    assert (ending.state, ending.exit_code) == ("stopped", 75)


def test_ranks_that_do_not_stop_in_time_are_ended(tmp_path, job):
    job(f"trap '' TERM; {note(STARTED)}; for i in $(seq 600); do sleep 0.1; done")
    folder = tmp_path / "s"
    with meanwhile(lambda: journal_lines(folder, "trial_started"), (folder / "stop").touch):
        ending, _ = run(tmp_path, stop_grace=0.5)
    assert (ending.state, ending.exit_code) == ("stopped", 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_search_whose_stop_request_cannot_be_written_is_stopped_all_the_same(tmp_path, job, monkeypatch, number):
    job(f"{note(STARTED)}; for i in $(seq 600); do sleep 0.1; done")

    def full(_folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(running, "request_stop", full)
    with meanwhile(lambda: journal_lines(tmp_path / "s", "trial_started"), lambda: os.kill(os.getpid(), number)):
        ending, _ = run(tmp_path, stop_grace=1.0)
    assert (ending.state, ending.exit_code) == ("stopped", 75)
    assert journal_lines(tmp_path / "s", "restarted") == []


def test_a_study_is_run_once(tmp_path, job):
    job(f"{note(STARTED)}\n{note(ENDED)}\nsleep 1")
    folder, refused = tmp_path / "s", []

    def start_another():
        with pytest.raises(Locked, match=f"process {os.getpid()}"):
            run(tmp_path)
        refused.append(True)

    with meanwhile(lambda: journal_lines(folder, "trial_ended"), start_another):
        run(tmp_path)
    assert refused
    with pytest.raises(LaunchError, match="already holds a study"):
        run(tmp_path)


def test_ranks_are_not_started_again_with_other_code(tmp_path, job, monkeypatch):
    own_code.write(tmp_path, monkeypatch)
    job(f"""if [ -e "$folder/died" ]; then {note(STARTED | {"attempt": 1})}; {note(ENDED | {"attempt": 1})}; exit 0; fi
touch "$folder/died"; {note(STARTED)}; echo 'SHIFT = 0.3' > {tmp_path}/helper.py; exit 9""")
    own = {"workload": f"{tmp_path}/w.py:Mine", "data": str(tmp_path / "data")}
    ending, _ = run(tmp_path, **own)
    assert ending.state == "failed"
    assert "the ranks are not restarted, as what they measure has changed meanwhile: helper.py changed" in ending.reason
    with pytest.raises(LaunchError, match=r"helper\.py changed"):
        run(tmp_path, resuming=True, **own)


def test_running_trials_of_a_search_that_ends_on_a_full_disk_are_lost_and_trained_again(tmp_path, job, monkeypatch):
    job(f"{note(STARTED)}; sleep 1; exit {EXIT_JOURNAL}")
    with monkeypatch.context() as full:
        # The first launch begins while there is space.
        begins = launches.next_launch
        calls = []

        def first(folder):
            calls.append(1)
            return begins(folder) if len(calls) == 1 else raise_full(folder)

        full.setattr(lifecycle.launches, "next_launch", first)
        ending, row = run(tmp_path)
    assert (ending.state, row.state) == ("failed", "failed")
    assert "a journal cannot be written" in row.reason
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    assert [(t.number, t.attempt, t.state) for t in store.trials(row)] == [(0, 0, "lost")]
    job(f"{note(STARTED | {'attempt': 1})}; {note(ENDED | {'attempt': 1})}; exit 0")
    ending, row = run(tmp_path, resuming=True)
    assert (ending.state, row.state) == ("complete", "complete")
    states = [(t.number, t.attempt, t.state) for t in store.trials(row)]
    assert states == [(0, 0, "lost"), (0, 1, "complete")]


def raise_full(_folder):
    raise JournalError(errno.ENOSPC, "the journal cannot be written")


def test_a_search_whose_first_trials_fail_alike_stops_though_no_stop_can_be_requested(tmp_path, job, monkeypatch):
    failed = [STARTED | {"number": n} for n in range(3)]
    ended = [ENDED | {"number": n, "state": "failed", "objective": None, "reason": "ValueError: x"} for n in range(3)]
    lines = "; ".join(map(note, [*failed, *ended]))
    job(f"{lines}; for i in $(seq 600); do sleep 0.1; done")

    def full(_folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(running, "request_stop", full)
    begun = time.monotonic()
    ending, row = run(tmp_path, trials=10)
    assert time.monotonic() - begun < 20
    assert (ending.state, row.state) == ("failed", "failed")
    assert "the first 3 trials failed alike: ValueError: x" in ending.reason
    assert journal_lines(tmp_path / "s", "study_ended")


def test_killed_ranks_have_ended_before_the_journals_are_closed(tmp_path):
    # Its memory takes the system a while to free; what it writes until then would come after the closing.
    code = "import sys; x = bytearray(300_000_000); print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "atoll.platform.ranks.main", str(tmp_path / "s")]
    rank = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    rank.stdout.readline()
    placed = RankPlaced(**{k: v for k, v in HOST.items() if k != "event"} | {
        "hostname": socket.gethostname(), "process": rank.pid})  # fmt: skip
    assert kill_ranks(StudyFolder(tmp_path / "s"), [placed]) == [placed]
    assert not is_rank_of(StudyFolder(tmp_path / "s"), rank.pid)
    rank.communicate()
