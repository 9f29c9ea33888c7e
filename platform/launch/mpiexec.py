"""Starts and terminates the processes of an MPI job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from atoll.platform.launch import mpi_launcher
from atoll.platform.launch.job_variables import rank_environment
from atoll.storage.events import RankPlaced
from atoll.storage.files import make_folder
from atoll.storage.folder import StudyFolder
from atoll.storage.process import Process

KILLED_WITHIN = 5.0  # seconds in which the system ends a killed process, unless a file system keeps it


def start_ranks(
    num_ranks: int,
    arguments: Sequence[str],
    log: Path,
    content: bytes | None = None,
    launcher: str | None = None,
    options: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start an MPI job of our ranks in its own session, which ends with this process.

    Args:
        num_ranks: the number of ranks.
        arguments: of the program of a rank.
        log: the file for the job's output.
        content: what rank 0 reads from its standard input.
        launcher: the command that starts MPI jobs, with its options, if the study has one.
        options: further options of it.

    Raises:
        LaunchError: if there is no such command.
    """
    make_folder(log.parent)
    tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
    rank = [sys.executable, "-m", "atoll.platform.ranks.main", f"--launcher={Process.current()}", *arguments]
    command = [*tether, *mpi_launcher.choose(launcher).command, *options, "-n", str(num_ranks), *rank]
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
