"""Inside someone's own mpirun or srun: a small parent for each rank, so that a rank's death has a meaning.

mpirun and srun give back the exit code of what they have started. If that is the rank itself, a killed one makes 137 or
9 of what is a search that can go on (75). The parent is forked before anything is imported, passes signals on, and its
rank ends with it. MPICH's mpiexec kills all ranks as soon as one process ends, and may give back that signal. So the
parent of a killed rank makes a file (`tell`), upon which the other ranks leave, and waits, as their parents do, until
the one of rank 0 has ended with 75.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from atoll.platform.exit_codes import EXIT_PEER_KILLED, EXIT_STOPPED
from atoll.platform.stop_signals import STOP_SIGNALS

# What MPI libraries and Slurm tell a rank of an MPI job: its number, and how many there are.
RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")

GUARDED = ("search", "join")  # the commands whose ranks have a parent
OTHERS_LEAVE = 3.0  # seconds that the other ranks have to leave before rank 0 does
KILLED_WITHIN = 10.0  # seconds from the end of rank 0 in which mpiexec kills what is left
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_to_parent: int | None = None  # in a rank that has a parent: the pipe to it


def num_ranks(environment: Mapping[str, str]) -> int:
    """The number of ranks of the MPI job that this process belongs to; 1 if it is none, or if that is unknown."""
    sizes = [int(environment[name]) for name in SIZE_VARIABLES if environment.get(name, "").isdigit()]
    return sizes[0] if sizes else 1


def guard(arguments: list[str]) -> None:
    """Fork, if this process is a rank of several that search: the child returns, the parent ends with its exit code.

    Args:
        arguments: the command line, without the program.
    """
    if arguments[:1] and arguments[0] in GUARDED and num_ranks(os.environ) > 1:
        run_guarded()


def run_guarded() -> None:
    """Fork: the child returns, the parent waits for it, and exits with its code, or with 75 if it was killed."""
    global _to_parent
    parent = os.getpid()
    from_child, _to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(from_child)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already
            os._exit(EXIT_STOPPED)
        return
    os.close(_to_parent)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: _pass_on(child, number))
    _, status = os.waitpid(child, 0)  # is repeated after a signal
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        print(f"a rank of the search was ended by {name}; --continue goes on", file=sys.stderr, flush=True)
        is_first = _is_first(from_child)
        if is_first is not None:
            time.sleep(OTHERS_LEAVE if is_first else OTHERS_LEAVE + KILLED_WITHIN)
        code = EXIT_STOPPED
    elif code == EXIT_PEER_KILLED:
        time.sleep(OTHERS_LEAVE + KILLED_WITHIN)
        code = EXIT_STOPPED
    os._exit(code)


def tell(file: Path, *, is_first: bool) -> None:
    """Tell this rank's parent, if it has one, what to make if the rank is killed, and whether it is rank 0."""
    if _to_parent is not None:
        os.write(_to_parent, f"{int(is_first)}{file}".encode())


def _is_first(from_child: int) -> bool | None:
    """Whether the killed rank was rank 0, after the others have been told; None if they need not or cannot be."""
    os.set_blocking(from_child, False)
    try:
        told = os.read(from_child, 1 << 16).decode()
        if not told or "OMPI_COMM_WORLD_RANK" in os.environ:  # Open MPI gives back the first code
            return None
        Path(told[1:]).touch()
    except OSError:
        return None
    return told[0] == "1"


def _pass_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
