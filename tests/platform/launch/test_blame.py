"""Who died first, from the words of each process manager; those of Open MPI and MPICH are as the wheels wrote them."""

import pytest

from atoll.platform.launch import blame
from atoll.platform.launch.blame import Dead, named, suspected_workers, was_killed
from atoll.storage import launches
from atoll.storage.events import RankPlaced
from atoll.storage.folder import StudyFolder

OPEN_MPI = """--------------------------------------------------------------------------
prterun noticed that process rank 2 with PID 31854 on node vm exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""
OPEN_MPI_EXIT = """--------------------------------------------------------------------------
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-vm-19963@1,1]
   Exit code:    3
--------------------------------------------------------------------------
"""
OPEN_MPI_4_EXIT = """-------------------------------------------------------
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[57539,1],3]
  Exit code:    3
"""
OPEN_MPI_QUIET = """prterun has exited due to process rank 1 with PID 20062 on node vm exiting
improperly. There are three reasons this could occur:
"""
OPEN_MPI_ABORT = """MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD
  Proc: [[57539,1],1]
  Errorcode: 74

prterun has exited due to process rank 1 with PID 0 on node vm calling
"abort". This may have caused other processes in the application to be
"""
HYDRA = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID {process} RUNNING AT vm
=   EXIT CODE: {code}
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: {why}
"""
INTEL = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 0 PID 100 RUNNING AT node1
=   KILLED BY SIGNAL: 9 (Killed)
===================================================================================

===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 1 PID 101 RUNNING AT node1
=   KILLED BY SIGNAL: {signal} ({name})
===================================================================================
"""
SRUN = """slurmstepd: error: *** STEP 12.0 ON n1 CANCELLED AT 2026-12-02T07:00:00 ***
srun: error: n1: tasks 0-1: Terminated
srun: error: n2: task 3: Killed
srun: error: n2: task 2: Killed
"""
PALS = """nid001.hsn: rank 3 died from signal 15
nid002.hsn: rank 2 died from signal 11 and dumped core
"""


@pytest.mark.parametrize(
    ("log", "dead"),
    [
        (OPEN_MPI, Dead(ranks={2})),
        (OPEN_MPI_EXIT, Dead(ranks={1})),
        (OPEN_MPI_4_EXIT, Dead(ranks={3})),
        (OPEN_MPI_QUIET, Dead(ranks={1})),
        (OPEN_MPI_ABORT, Dead(ranks={1})),
        (HYDRA.format(process=31969, code=9, why="Killed (signal 9)"), Dead(processes={31969})),
        (HYDRA.format(process=15935, code=11, why="Segmentation fault (signal 11)"), Dead(processes={15935})),
        # It names a rank that it has killed itself: another one ended by signal 11.
        (HYDRA.format(process=15310, code=9, why="Segmentation fault (signal 11)"), Dead()),
        ("Abort(74) on node 1 (rank 1 in comm 0): application called MPI_Abort", Dead(ranks={1})),
        (INTEL.format(signal=11, name="Segmentation fault"), Dead(processes={101})),
        (INTEL.format(signal=9, name="Killed"), Dead(processes={100, 101})),
        (SRUN, Dead(ranks={3})),
        ("srun: error: n2: tasks 2,4-5: Exited with exit code 1\n", Dead(ranks={2, 4, 5})),
        (PALS, Dead(ranks={2})),
        ("ValueError: nothing", Dead()),
    ],
)  # fmt: skip
def test_who_died_first(log, dead):
    found = named(log)
    assert (set(found.processes), set(found.ranks)) == (set(dead.processes), set(dead.ranks))


@pytest.mark.parametrize(
    ("log", "killed"),
    [
        (OPEN_MPI, True),
        (OPEN_MPI_EXIT, False),
        (HYDRA.format(process=1, code=9, why="Killed (signal 9)"), True),
        (INTEL.format(signal=9, name="Killed"), True),
        (SRUN, True),
        ("srun: error: n2: task 3: Out Of Memory\n", True),
        ("srun: error: n2: task 3: Exited with exit code 9\n", False),
    ],
)
def test_who_was_killed_and_who_failed_by_itself(tmp_path, log, killed):
    folder = StudyFolder(tmp_path)
    folder.create()
    folder.log.write_text(log)
    assert was_killed(folder, 0, 1) is killed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four ranks of two workers, on two hosts."""
    folder = StudyFolder(tmp_path)
    folder.create()
    ranks = [
        RankPlaced(world_rank=r, island=0, worker=r // 2, rank=r % 2, node=0, hostname=f"n{r // 2}", device="cpu",
                   threads=1, process=100 + r % 2)
        for r in range(4)
    ]  # fmt: skip
    monkeypatch.setattr(launches, "events_of", lambda *_, **__: ranks)
    return folder


def test_the_worker_of_the_rank_that_is_named_is_suspected(folder):
    folder.log.write_text(OPEN_MPI)
    assert suspected_workers(folder, 1, 0, ()) == {1}
    assert suspected_workers(folder, 1, 0, (), {("n0", 100), ("n0", 101), ("n1", 101)}) == {1}
    assert suspected_workers(folder, 1, blame.log_size(folder.log), ()) is None


def test_a_rank_that_was_asked_to_end_has_not_died_first(folder):
    """The log is that of all launchers that search the study at this time."""
    folder.log.write_text(OPEN_MPI)  # another one's rank 2
    assert suspected_workers(folder, 1, 0, (), {("n0", 100), ("n1", 100), ("n1", 101)}) == {0}


def test_process_managers_count_ranks_as_they_were_started(tmp_path, monkeypatch):
    """Round the hosts; the study numbers those of a host one after another."""
    folder = StudyFolder(tmp_path)
    folder.create()
    folder.log.write_text(OPEN_MPI)  # rank 2
    ranks = [
        RankPlaced(world_rank=r, island=0, worker=r // 2, rank=r % 2, node=0, hostname="n", device="cpu", threads=1,
                   process=r, started_as=started_as)
        for r, started_as in enumerate((0, 2, 1, 3))
    ]  # fmt: skip
    monkeypatch.setattr(launches, "events_of", lambda *_, **__: ranks)
    assert suspected_workers(folder, 1, 0, ()) == {0}


def test_process_managers_count_from_the_first_rank_of_their_job(folder):
    folder.log.write_text(OPEN_MPI_QUIET)
    assert suspected_workers(folder, 1, 0, (), first_rank=1) == {1}


def test_where_nobody_is_named_the_ranks_that_were_not_asked_to_end_are(folder):
    folder.log.write_text("")
    # Both hosts have processes of these numbers.
    assert suspected_workers(folder, 1, 0, (), {("n0", 100), ("n1", 100), ("n1", 101)}) == {0}
    assert suspected_workers(folder, 1, 0, (3,)) == {1}
    assert suspected_workers(folder, 1, 0, (), ()) is None
