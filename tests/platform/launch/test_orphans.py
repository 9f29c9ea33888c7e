"""Ranks that outlived their launcher are ended before anything else uses the study."""

import os
import socket
import subprocess
import sys
import time

import journals
import pytest
from commands import wait_until

from atoll.platform.launch import lifecycle, orphans
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.mpiexec import is_rank_of
from atoll.platform.study.study import Study
from atoll.storage import launches, liveness
from atoll.storage.events import RankPlaced, StudyEnded, StudyStarted
from atoll.storage.journal import JournalWriter
from atoll.storage.launches import next_launch
from atoll.storage.lock import Lock

OF_IT = ("s", None)  # the study's name and uid


@pytest.fixture
def folder(tmp_path):
    """A study that has started."""
    study = Study(name="s", workload="digits_mlp", method="ddp", trials=3)
    folder = journals.start_folder(tmp_path / "s", definition=study.model_dump(mode="json"))
    JournalWriter(folder.launcher_journal()).append(StudyStarted(definition={}, num_trials=3, time=1.0))
    return folder


def place(folder, process, hostname, world_rank=0):
    placed = RankPlaced(
        world_rank=world_rank, island=0, worker=0, rank=0, node=0, hostname=hostname, device="cpu", threads=1,
        process=process, time=2.0,
    )  # fmt: skip
    JournalWriter(folder.root_journal(world_rank)).append(placed)


@pytest.fixture
def rank(folder):
    """A process that looks like a rank of the study."""
    program = [sys.executable, "-c", "import time; time.sleep(60)", "atoll.platform.ranks.main", str(folder.path)]
    with subprocess.Popen(program) as process:
        place(folder, process.pid, socket.gethostname())
        wait_until(lambda: is_rank_of(folder, process.pid))  # for an instant after exec it has no command line
        yield process
        process.kill()


@pytest.mark.process
def test_those_of_this_host_are_ended(folder, rank):
    assert orphans.end(folder, launches.replay(folder.journals)) == 1
    assert rank.wait(5) == -9
    assert orphans.end(folder, launches.replay(folder.journals)) == 0


@pytest.mark.process
def test_a_process_with_the_number_of_a_rank_is_left_alone(folder):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        place(folder, other.pid, socket.gethostname())
        assert orphans.end(folder, launches.replay(folder.journals)) == 0
        assert other.poll() is None
        other.kill()


def test_those_of_other_hosts_are_named_until_they_fall_silent(folder):
    place(folder, 77, "node7", world_rank=3)
    folder.heartbeats.mkdir(exist_ok=True)
    beat = folder.heartbeat(3)
    beat.touch()
    still = r"rank 3 \(process 77 on node7\) still searches .* alive 0 s ago; it ends within 120 s"
    with pytest.raises(LaunchError, match=still):
        orphans.end(folder, launches.replay(folder.journals))
    long_ago = time.time() - 61
    os.utime(beat, (long_ago, long_ago))
    assert orphans.end(folder, launches.replay(folder.journals)) == 0
    assert [path.name for path in folder.heartbeats.iterdir()] == [beat.name]


def test_after_a_proper_end_no_rank_is_expected(folder):
    place(folder, 77, "node7")
    folder.heartbeats.mkdir(exist_ok=True)
    folder.heartbeat(0).touch()
    with next_launch(folder.journals) as lines:
        lines.append(StudyEnded(state="stopped", reason=None))
    assert orphans.end(folder, launches.replay(folder.journals)) == 0


@pytest.mark.process
def test_an_interrupted_study_is_ended_with_its_ranks(folder, rank):
    assert liveness.true_state(folder, *OF_IT) == "interrupted"
    assert lifecycle.end_interrupted(folder) == ("stopped", 1)
    assert rank.wait(5) == -9
    assert liveness.true_state(folder, *OF_IT) == "stopped"
    assert lifecycle.end_interrupted(folder) is None


def test_a_study_that_runs_is_not_interrupted(folder):
    lock = Lock(folder.lock)
    lock.acquire()
    assert liveness.true_state(folder, *OF_IT) == "running"
    assert lifecycle.end_interrupted(folder) is None
    lock.release()
    assert liveness.true_state(folder, *OF_IT) == "interrupted"


def test_of_another_studys_folder_nothing_is_said(folder):
    assert liveness.true_state(folder, "t", None) == "running"
