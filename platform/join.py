"""A search inside someone's own mpirun or srun: this process is one of its ranks.

Nobody can start the ranks again here: when they die, exit code 75 says that --resume goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable

from atoll.platform import launch
from atoll.platform.launch import Ending
from atoll.platform.study import Study
from atoll.storage.folder import StudyFolder
from atoll.storage.lock import Lock

_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "PMIX_RANK")
_RANK_VARIABLES = ("PMI", "OMPI", "MPI_", "SLURM", "HYDI", "HYDRA")


def inside_mpi() -> bool:
    """Whether this process is one rank of an MPI job that someone else has started."""
    return any(name in os.environ for name in _SIZE_VARIABLES) or (
        "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    )


def join(study: Study, url: str, *, resuming: bool) -> tuple[int, str | None]:
    """Take part in a search as one rank of the MPI job that this process belongs to.

    Returns:
        The exit code, and on rank 0 what there is to say.
    """
    import mpi4py

    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    from atoll.platform import search
    from atoll.platform.topology import check_world_size

    world = MPI.COMM_WORLD
    check_world_size(study.topology.shape(), world.size)
    folder, lock = launch.study_folder(study), Lock(launch.study_folder(study).lock)
    refused = _prepare(study, url, resuming, lock) if world.rank == 0 else None
    if world.bcast(refused is not None):
        if refused is not None:
            raise refused
        return 1, None
    recorder = _start_recorder(folder, url) if world.rank == 0 else None
    also: Callable[[], None] = lock.refresh if world.rank == 0 else lambda: None
    try:
        search.run(folder, world, also)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        world.Abort(launch.EXIT_STOPPED)
    if recorder is None:
        return int(world.bcast(None)), None
    ending = _end(folder, study, recorder, lock)
    world.bcast(ending.exit_code)
    unrecorded = None if ending.recorded else f"finish recording with `atoll record {folder.path}`"
    return ending.exit_code, ending.reason or unrecorded


def _prepare(study: Study, url: str, resuming: bool, lock: Lock) -> Exception | None:
    try:
        launch.check_name_is_free(study, url)
        launch.study_folder(study).path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        try:
            launch.prepare(study, resuming=resuming)
        except BaseException:
            lock.release()
            raise
    except Exception as error:
        return error
    return None


def _end(folder: StudyFolder, study: Study, recorder: subprocess.Popen[bytes], lock: Lock) -> Ending:
    state, reason = launch.end(folder, study, None)
    try:
        recorded = recorder.wait(launch.RECORDING_TIMEOUT) == 0
    except subprocess.TimeoutExpired:
        recorded = False
        recorder.terminate()
    lock.release()
    return Ending(state, reason, recorded)


def _start_recorder(folder: StudyFolder, url: str) -> subprocess.Popen[bytes]:
    # A child of a rank must not look like a rank.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_RANK_VARIABLES)}
    # The URL may hold a password, which a command line would show to everyone on the host.
    command = [sys.executable, "-m", "atoll.platform.cli", "record", str(folder.path), "--follow"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=environment | {"ATOLL_STORE": url}, start_new_session=True
    )
