"""Starts and terminates the processes of an MPI job."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from atoll.platform.launch.errors import LaunchError
from atoll.storage.events import RankPlaced
from atoll.storage.folder import StudyFolder
from atoll.storage.process import Process

KILLED_WITHIN = 5.0  # seconds in which the system ends a killed process, unless a file system keeps it

_RANK_VARIABLES = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_", "SLURM_PROCID", "SLURM_STEP")


def mpiexec() -> str:
    """The launcher of the MPI library that mpi4py loads: the wheel's, next to this Python, or the one on the PATH."""
    of_wheel = Path(sys.executable).parent / "mpiexec"
    command = os.environ.get("ATOLL_MPIEXEC") or (str(of_wheel) if of_wheel.exists() else shutil.which("mpiexec"))
    if command is None:
        raise LaunchError(
            "mpiexec must be next to this Python or on the PATH, and is not: install it with "
            "`python -m pip install mpich`, or set ATOLL_MPIEXEC"
        )
    return command


def start_ranks(
    num_ranks: int, arguments: Sequence[str], log: Path, content: bytes | None = None
) -> subprocess.Popen[bytes]:
    """Start an MPI job of our ranks in its own session, which ends with this process.

    Args:
        num_ranks: the number of ranks.
        arguments: of the program of a rank.
        log: the file for the job's output.
        content: what rank 0 reads from its standard input.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
    rank = [sys.executable, "-m", "atoll.platform.ranks.main", f"--launcher={Process.current()}", *arguments]
    command = [*tether, mpiexec(), "-n", str(num_ranks), *rank]
    with log.open("ab") as output:
        job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if content is None else subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=rank_environment(),
        )
    if content is not None:
        threading.Thread(target=_write, args=(job, content), daemon=True).start()  # the ranks read when they are up
    return job


def _write(job: subprocess.Popen[bytes], content: bytes) -> None:
    assert job.stdin is not None
    with contextlib.suppress(OSError):  # the job has ended
        job.stdin.write(len(content).to_bytes(8, "big") + content)
        job.stdin.close()


def rank_environment() -> dict[str, str]:
    """The ranks' environment: libraries must not start a thread per core before a rank knows its share of the cores."""
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | without_rank_variables()


def without_rank_variables() -> dict[str, str]:
    """This process's environment without the variables that make a child a rank of its parent's MPI job."""
    return {name: value for name, value in os.environ.items() if not is_rank_variable(name)}


def is_rank_variable(name: str) -> bool:
    """Whether an environment variable makes a process a rank of an MPI job."""
    return name.startswith(_RANK_VARIABLES)


def end_job(job: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """Terminate an MPI job that still runs: TERM, then KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if job.poll() is not None:
            return
        os.killpg(job.pid, number)
        try:
            job.wait(grace)
        except subprocess.TimeoutExpired:
            continue


def kill_ranks(folder: StudyFolder, placed: Iterable[RankPlaced]) -> list[RankPlaced]:
    """Kill those of the placed ranks that live on this host; returns them when they have ended.

    One that was killed may still write for an instant: a line that comes after the next launch has closed the journals
    would be recorded, and taken for one that the journals have lost.
    """
    alive = [rank for rank in placed if rank.hostname == socket.gethostname() and is_rank_of(folder, rank.process)]
    for rank in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank.process, signal.SIGKILL)
    until = time.monotonic() + KILLED_WITHIN
    while any(is_rank_of(folder, rank.process) for rank in alive) and time.monotonic() < until:
        time.sleep(0.005)
    return alive


def is_rank_of(folder: StudyFolder, process: int) -> bool:
    """Whether a process of this host is a rank that searches `folder`."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return "atoll.platform.ranks.main" in command and str(folder.path) in command
