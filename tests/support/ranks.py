"""Starts real MPI ranks, and runs checks of a world on them and on threads: the same checks on both.

A check is a function named check_* that takes a World; @on_layouts says on how many ranks. Run as a program under
mpiexec, this file runs all checks of a module that need no more ranks than there are, and rank 0 prints one JSON line
with what each raised.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

Layout = tuple[int, ...]
SUPPORT = Path(__file__).parent
# As between hosts, on one.
TCP = {"MPIR_CVAR_NOLOCAL": "1", "FI_PROVIDER": "tcp", "MPIR_CVAR_CH4_NETMOD": "ofi"}


def on_layouts(*layouts: Layout) -> Callable[[Callable], Callable]:
    def mark(function: Callable) -> Callable:
        function.layouts = layouts
        return function

    return mark


def collect(module_name: str) -> list[tuple[str, Layout]]:
    module = importlib.import_module(module_name)
    found = [(name, f) for name, f in vars(module).items() if name.startswith("check_")]
    return [(name, layout) for name, function in found for layout in function.layouts]


def case_id(name: str, layout: Layout) -> str:
    return f"{name.removeprefix('check_')}[{','.join(map(str, layout))}]"


def run_on_thread_world(module_name: str, name: str, layout: Layout) -> None:
    from atoll.communication.thread_world import run_in_threads

    run_in_threads(len(layout), getattr(importlib.import_module(module_name), name))


def mpiexec(
    num_ranks: int,
    *arguments: str,
    timeout: float = 120.0,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python under mpiexec and kill what is left of it after `timeout`, by process group."""
    from atoll.platform.launch import job_variables, mpi_launcher

    command = [*mpi_launcher.choose().command, "-n", str(num_ranks), sys.executable, *arguments]
    environment = job_variables.rank_environment() | {"PYTHONPATH": str(SUPPORT)} | (env or {})
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
        cwd=cwd,
    )
    try:
        out, err = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        raise AssertionError(f"{command} was still there after {timeout} s:\n{out[-2000:]}\n{err[-4000:]}") from None
    return subprocess.CompletedProcess(command, job.returncode, out, err)


def run_on_mpi(module_name: str, num_ranks: int, env: dict[str, str] | None = None) -> dict[str, str | None]:
    """What each check of the module raised on `num_ranks` MPI ranks, by case id."""
    done = mpiexec(num_ranks, str(SUPPORT / "ranks.py"), module_name, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def _main(module_name: str) -> None:
    import torch
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld

    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    module = importlib.import_module(module_name)
    results: dict[str, str | None] = {}
    for name, layout in collect(module_name):
        if len(layout) > world.size:
            continue
        part = world.Split(0 if world.rank < len(layout) else MPI.UNDEFINED)
        error = None
        try:
            if part != MPI.COMM_NULL:
                getattr(module, name)(MpiWorld(part))
        except Exception:
            error = f"rank {world.rank}: {traceback.format_exc()}"
        errors = [e for e in world.allgather(error) if e]
        results[case_id(name, layout)] = "\n".join(errors) or None
        if errors:  # what is pending now would disturb the checks that follow
            break
    if world.rank == 0:
        print(json.dumps(results), flush=True)
    world.barrier()
    if any(results.values()):
        sys.stdout.flush()
        world.Abort(0)


if __name__ == "__main__":
    _main(sys.argv[1])
