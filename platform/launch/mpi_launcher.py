"""Which command starts the ranks, and why: it must be of the MPI library that mpi4py loads."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from atoll.communication.mpi_library import short_name
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.job_variables import without_rank_variables
from atoll.platform.study.launcher import words

# Loads the library, and does not start it: a process that has started MPI can start no ranks.
_PROBE = """
import json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
try:
    with open("/proc/self/maps") as file:
        files = [line.split()[-1] for line in file if line.rpartition("/")[2].startswith("libmpi")]
except OSError:
    files = []
print(json.dumps({"text": MPI.Get_library_version(), "file": files[0] if files else None}))
"""
_TIMEOUT = 120.0
_LEVELS = 5  # from a library's file up to its prefix: .../lib/release/libmpi.so.12
# What decides which library is loaded, apart from mpi4py itself.
_DECIDES = ("MPI4PY_LIBMPI", "MPI4PY_MPIABI", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH")


@dataclass(frozen=True)
class Library:
    """The MPI library that mpi4py loads.

    Attributes:
        name: its name and version; None if mpi4py cannot load one.
        file: where it was found, where the system tells.
        error: why it cannot be loaded.
    """

    name: str | None = None
    file: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Launcher:
    """The command that starts ranks.

    Attributes:
        command: the program and its options, before `-n`.
        reason: why this one.
    """

    command: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return shlex.join(self.command)


def library() -> Library:
    """The MPI library that ranks will load, as mpi4py in a process of its own does."""
    return _library(tuple((name, os.environ.get(name)) for name in _DECIDES))


@cache
def _library(_decides: tuple[tuple[str, str | None], ...]) -> Library:
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=without_rank_variables(), timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return Library(error=f"mpi4py has not loaded a library within {_TIMEOUT:g} s")
    if done.returncode != 0:
        return Library(error=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    return Library(short_name(found["text"]), found["file"])


def choose(given: str | None = None) -> Launcher:
    """The command that starts the ranks.

    ATOLL_MPIEXEC, as it is set for this machine, comes before the study's `launcher`, as a study file travels. Both are
    commands with options, such as `srun --mpi=pmix` or `mpiexec --map-by ppr:4:node -x NCCL_DEBUG`. Otherwise it is the
    mpiexec that belongs to the MPI library that mpi4py loads, or else the first one on the PATH.

    Args:
        given: the study's `launcher`.

    Raises:
        LaunchError: if there is none, or the one that is asked for cannot be found.
    """
    for command, reason in ((os.environ.get("ATOLL_MPIEXEC"), "ATOLL_MPIEXEC"), (given, "the study's launcher")):
        if command:
            return Launcher(_found(command, reason), f"{reason} says so")
    return _of_library(library(), os.environ)


def _found(command: str, source: str) -> tuple[str, ...]:
    try:
        found = words(command, source)
    except ValueError as error:
        raise LaunchError(str(error)) from None
    if shutil.which(found[0]) is None:
        raise LaunchError(f"{source} must name a program that can be started; got {found[0]!r}, which cannot be found")
    return found


def _of_library(of: Library, environment: Mapping[str, str]) -> Launcher:
    file = Path(of.file).resolve() if of.file else None
    for folder in [] if file is None else list(file.parents)[:_LEVELS]:
        program = folder / "bin" / "mpiexec"
        if os.access(program, os.X_OK):
            return Launcher((str(program),), f"it belongs to {of.name} in {of.file}, which mpi4py loads")
    for command in ("mpiexec", "mpirun"):
        if (path := shutil.which(command)) is not None:
            return Launcher((path,), f"it is the first {command} on the PATH")
    if "SLURM_JOB_ID" in environment and (path := shutil.which("srun")) is not None:
        return Launcher((path,), "there is no mpiexec on the PATH, and this is a job of Slurm")
    raise LaunchError(
        "mpiexec must be in the folder of the MPI library that mpi4py loads"
        f"{f' ({of.file})' if of.file else ''} or on the PATH, and is not: load your cluster's MPI module, install a "
        "library with `python -m pip install mpich`, or set ATOLL_MPIEXEC to the command that starts MPI jobs"
    )
