"""A stop from outside is told from a process manager's cleanup by those ranks that were not asked to end."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import wait_until

from atoll.platform.ranks import terminations
from atoll.platform.ranks.terminations import Terminations
from atoll.storage.folder import StudyFolder

# A rank that says its number and computes, in Python or in a call that returns late; children of it as the test says.
RANK = r"""
import ctypes, os, sys, time
from atoll.platform.ranks import terminations
from atoll.platform.ranks.stopping import stop_on_signals
from atoll.storage.folder import StudyFolder

folder = StudyFolder(sys.argv[1])
notes = folder.signals(1, "host.site", os.getpid()) if sys.argv[2] == "restarted" else None
stop_on_signals(folder.stop_request, notes)
if sys.argv[3] == "forks" and (child := os.fork()):
    os.write(1, b"%d\n" % child)  # at once, as both write
else:
    if sys.argv[3] == "gives up":
        terminations.note_no_more()
    os.write(1, b"%d\n" % os.getpid())
if sys.argv[3] == "in C":
    ctypes.PyDLL(None).usleep(900_000)  # holds the interpreter, and goes on after a signal
    ctypes.PyDLL(None).usleep(900_000)
time.sleep(600)
"""


@pytest.fixture
def rank(tmp_path):
    """Starts a rank of the folder; returns its process, and the number that it prints first."""
    started = []

    def start(kind="restarted", what="waits"):
        command = [sys.executable, "-c", RANK, str(tmp_path), kind, what]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1], int(started[-1].stdout.readline())

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # also what it has forked, which would hold the pipe
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def count(folder):
    return len(Terminations(folder, 1, 1).asked())


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path)


@pytest.mark.process
def test_sigterm_is_noted_and_every_other_stop_signal_is_a_request(folder, rank):
    seen = Terminations(folder, 1, 2)
    (one, number), _ = rank(), rank()
    one.send_signal(signal.SIGTERM)
    wait_until(seen.asked)
    assert seen.asked() == {("host.site", number)}
    assert not seen.is_request()  # the other one may have died, which made the process manager end this one
    assert not folder.stop_request.exists()
    one.send_signal(signal.SIGUSR1)
    wait_until(folder.stop_request.exists)
    assert len(seen.asked()) == 1


@pytest.mark.process
def test_when_every_rank_is_asked_to_end_it_is_a_request(folder, rank):
    seen = Terminations(folder, 1, 2)
    for one, _ in (rank(), rank()):
        one.terminate()
    wait_until(seen.is_request)
    assert not folder.stop_request.exists()  # the launcher writes it


@pytest.mark.process
def test_a_rank_that_is_killed_at_once_has_noted_it_in_the_midst_of_a_step_in_c(folder, rank):
    seen = Terminations(folder, 1, 1)
    one, number = rank(what="in C")
    time.sleep(0.2)
    one.terminate()
    wait_until(seen.asked, 0.5)
    one.kill()
    assert [process for _, process in seen.asked()] == [number]


@pytest.mark.process
def test_what_a_rank_has_forked_notes_and_requests_nothing(folder, rank):
    seen = Terminations(folder, 1, 1)
    parent, child = rank(what="forks")
    parent.stdout.readline()  # both have told it
    os.kill(child, signal.SIGTERM)
    time.sleep(0.5)
    assert seen.asked() == set()
    assert not folder.stop_request.exists()


@pytest.mark.process
def test_a_rank_that_gives_up_is_not_taken_for_one_that_was_asked(folder, rank):
    seen = Terminations(folder, 1, 1)
    one, _ = rank(what="gives up")
    one.terminate()
    time.sleep(0.5)
    assert seen.asked() == set()


@pytest.mark.process
def test_inside_someones_own_mpirun_sigterm_is_a_request(folder, rank):
    one, _ = rank(kind="own")
    one.terminate()
    wait_until(folder.stop_request.exists)
    assert count(folder) == 0


def test_a_living_rank_that_was_asked_long_ago_was_asked_by_somebody(folder, monkeypatch):
    folder.create()
    now = [0.0]
    monkeypatch.setattr(terminations.time, "monotonic", lambda: now[0])
    seen = Terminations(folder, 1, 3)
    folder.signals(1, "a", 1).write_bytes(bytes([signal.SIGTERM]))
    folder.signals(1, "a", 2).write_bytes(bytes([signal.SIGCHLD]))
    found = []
    for now[0] in range(2, 12):
        found.append(seen.is_request_to_living())
    assert found == [False] * 6 + [True] * 4


def test_notes_of_other_launches_do_not_count(folder):
    folder.create()
    for launch in (1, 2, 12):
        folder.signals(launch, "a", launch).write_bytes(bytes([signal.SIGTERM]))
    seen = Terminations(folder, 2, 1)
    assert seen.asked() == {("a", 2)}
    seen.clear()
    assert seen.asked() == set()
    assert len(folder.all_signals(1)) == len(folder.all_signals(12)) == 1
