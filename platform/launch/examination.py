"""Starts ranks that examine MPI, the hosts of an allocation and their links, and reads what they found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.platform.launch import mpi_hosts, mpiexec
from atoll.platform.launch.mpi_launcher import choose

TIMEOUT = 60.0
TIMEOUT_OF_A_HOST = 5.0
_VISIBLE_WITHIN = 5.0  # seconds until a file of another host is seen, on file systems that keep names for a while


@dataclass(frozen=True)
class Examination:
    """What ranks have found.

    Attributes:
        num_ranks: the number of ranks that were asked for.
        facts: rank 0's, see `mpi_check.run`; empty if the ranks did not run.
        output: what the ranks and their launcher have printed, if they did not run.
        unseen: those ranks whose files in the launcher's folder it does not see.
        expected: the hosts of the allocation; empty if they are not known.
    """

    num_ranks: int
    facts: dict[str, Any]
    output: str = ""
    unseen: list[int] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


def examine(num_ranks: int) -> Examination:
    """Examine MPI with some ranks, wherever they are started; raises LaunchError."""
    with tempfile.TemporaryDirectory(prefix="atoll-doctor-") as name:
        return _run(Path(name), num_ranks, (), links=False, timeout=TIMEOUT)


def examine_hosts(ranks_per_host: int, num_ranks: int | None = None) -> Examination:
    """Examine every host of the allocation, and the links between them.

    Args:
        ranks_per_host: the number of ranks to start on each host.
        num_ranks: the number of ranks to start, placed as the launcher places them. Default: `ranks_per_host` on each
            host that the batch system or the launcher's options name.

    Raises:
        LaunchError: if ranks cannot be started.
        OSError: if the working directory, which the ranks must see, cannot be written.
    """
    launcher = choose()
    hosts = mpi_hosts.of_allocation(os.environ) or mpi_hosts.of_options(launcher.command)
    options = () if num_ranks is not None else mpi_hosts.per_host(launcher, ranks_per_host)
    total = num_ranks or ranks_per_host * max(1, len(hosts))
    with _folder_here() as folder:
        found = _run(folder, total, options, links=True, timeout=TIMEOUT + TIMEOUT_OF_A_HOST * len(hosts))
    return Examination(found.num_ranks, found.facts, found.output, found.unseen, hosts)


@contextmanager
def _folder_here() -> Iterator[Path]:
    """A folder in the working directory, where studies have theirs, so that every host must see it."""
    folder = Path(tempfile.mkdtemp(prefix=".atoll-doctor-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, num_ranks: int, options: tuple[str, ...], *, links: bool, timeout: float) -> Examination:
    result, log = folder / "result.json", folder / "ranks.log"
    (folder / "token").write_text("seen")
    arguments = ["doctor", str(result), *(["links"] if links else [])]
    job = mpiexec.start_ranks(num_ranks, arguments, log, options=options)
    try:
        job.wait(timeout)
    except subprocess.TimeoutExpired:
        mpiexec.end_job(job)
    if not _appears(result):
        return Examination(num_ranks, {}, log.read_text(errors="replace")[-1000:].strip())
    facts = json.loads(result.read_text())
    unseen = [rank for rank in range(facts["size"]) if not _appears(folder / f"rank-{rank:05d}")]
    return Examination(num_ranks, facts, unseen=unseen)


def _appears(file: Path) -> bool:
    until = time.monotonic() + _VISIBLE_WITHIN
    while not file.exists() and time.monotonic() < until:
        os.listdir(file.parent)  # makes a network file system look
        if file.exists():
            break
        time.sleep(0.1)
    return file.exists()
