"""`atoll search --in-process`: what a debugger's user sees, and that no thread waits for one that has failed."""

import os
import signal
import threading

import pytest
import yaml
from commands import FAILING, called, journal_lines, meanwhile

from atoll.communication.ledger import Ledger
from atoll.communication.thread_world import WorldFailed, run_in_threads
from atoll.storage.journal import JournalError, JournalWriter
from atoll.storage.store import Store


def write(folder, /, **content):
    study = {"name": "s", "workload": FAILING, "method": "ddp", "epochs": 2, "trials": 4, "topology": {"ranks": 2}}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


def search(folder, code=0):
    return called("search", "s.yaml", "--outside", "--in-process", cwd=folder, code=code)


@pytest.mark.slow
def test_the_traceback_of_a_failed_trial_is_shown_as_it_happens(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "raise")
    write(tmp_path)
    done = search(tmp_path)
    assert "2 threads of this" in done.stdout
    assert "trial 2 failed:\nTraceback" in done.stderr
    assert done.stderr.count("RuntimeError: broken on purpose") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(tmp_path, monkeypatch, number):
    monkeypatch.setenv("FAIL", "slow")
    write(tmp_path, trials=50)
    folder = tmp_path / "atoll-studies" / "s"
    with meanwhile(lambda: journal_lines(folder, "progress"), lambda: os.kill(os.getpid(), number)):
        done = search(tmp_path, code=75)
    assert "to continue, repeat the command with --resume" in done.stdout
    assert Store(f"sqlite:///{tmp_path}/atoll.db").study("s").state == "stopped"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rank ")]
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN)


@pytest.mark.slow
def test_a_trial_that_changes_the_working_directory_harms_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "chdir")
    write(tmp_path, trials=3, heartbeat_timeout=1)
    done = search(tmp_path)
    assert "complete: 3 complete" in done.stdout
    assert not (tmp_path / "atoll-studies" / "s" / "quarantine.jsonl").exists()


@pytest.mark.slow
def test_a_rank_that_fails_outside_a_trial_fails_the_search(tmp_path, monkeypatch):
    append = JournalWriter.append

    def full(self, event, **options):
        if type(event).__name__ == "TrialEnded":
            raise JournalError(28, "no space left", self.path if hasattr(self, "path") else "journal")
        append(self, event, **options)

    write(tmp_path, topology={"workers": 2})
    with monkeypatch.context() as patched:
        patched.setattr(JournalWriter, "append", full)
        done = search(tmp_path, code=1)
    assert "a rank failed: JournalError" in done.stdout + done.stderr
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rank ")]


class Broken(Exception):
    pass


def in_meet(world):
    world.meet(world.check)


def in_allgather(world):
    world.allgather(1)


def in_split(world):
    world.split(0)


def in_a_communicators_split(world):
    opened(world).split(0)


def in_a_sum(world):
    import torch

    opened(world).sum(torch.ones(3))


def opened(world):
    size = world.size
    communicator, _ = world.open([0] * size, [("h", "cpu")] * size, ledger=Ledger(), poll=world.check, spin=False)
    return communicator


@pytest.mark.parametrize("wait", [in_meet, in_allgather, in_split, in_a_communicators_split, in_a_sum])
def test_ranks_that_wait_for_one_that_fails_are_interrupted(wait):
    interrupted = []

    def rank(world):
        if world.rank == 1:
            raise Broken
        try:
            wait(world)
        except WorldFailed:
            interrupted.append(world.rank)
            raise

    with pytest.raises(Broken):
        run_in_threads(3, rank)
    assert sorted(interrupted) == [0, 2]


def test_a_world_is_split_by_color_and_its_parts_are_apart():
    gathered = {}

    def rank(world):
        part = world.split(world.rank % 2 if world.rank < 4 else None)
        gathered[world.rank] = None if part is None else part.allgather((world.rank, part.rank))

    run_in_threads(5, rank)
    even, odd = [(0, 0), (2, 1)], [(1, 0), (3, 1)]
    assert gathered == {0: even, 1: odd, 2: even, 3: odd, 4: None}
