"""`atoll doctor`: checks what a search needs, and says what to fix."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.platform.launch import errors, extras, mpiexec
from atoll.storage.store import Store

TIMEOUT = 60.0
CLOCK_TOLERANCE = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: whether it is well, what was found, and what to do where it is not."""

    check: str
    ok: bool
    found: str
    advice: str = ""


def examine(url: str, data: str | None, num_ranks: int) -> list[Finding]:
    """Check packages, MPI, GPUs, store, data folder and clocks."""
    findings = [_packages()]
    if findings[0].ok:
        findings += _over_mpi(num_ranks)
    return [*findings, _store(url), *_data(data)]


def _packages() -> Finding:
    try:
        extras.require_search_extra()
    except errors.LaunchError as error:
        return Finding("packages", False, str(error), "install the search extra")
    return Finding("packages", True, "mpi4py, torch, propulate, cmaes and sortedcontainers are installed")


def _over_mpi(num_ranks: int) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="atoll-doctor-") as name:
        result, log = Path(name) / "result.json", Path(name) / "ranks.log"
        try:
            job = mpiexec.start_ranks(num_ranks, ["doctor", str(result)], log)
        except errors.LaunchError as error:
            return [Finding("MPI launch", False, str(error), "python -m pip install mpich")]
        try:
            job.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            mpiexec.end_job(job)
        if not result.exists():
            said = log.read_text(errors="replace")[-500:].strip()
            return [Finding("MPI launch", False, f"{mpiexec.mpiexec()} did not run {num_ranks} ranks: {said}", _MIXED)]
        found = json.loads(result.read_text())
    return _judge(found, num_ranks)


_MIXED = "use the mpiexec of the MPI that mpi4py loads; ATOLL_MPIEXEC names another one"


def _judge(found: dict[str, Any], num_ranks: int) -> list[Finding]:
    drift = max(found["clocks"]) - min(found["clocks"])
    return [
        Finding(
            "MPI launch", found["size"] == num_ranks, f"a world of {found['size']} ranks; {found['library']}", _MIXED
        ),
        Finding(
            "MPI threads",
            found["is_serialized"],
            f"thread level {found['thread_level']}; serialized is {'there' if found['is_serialized'] else 'needed'}",
            "use an MPI built with thread support: backward passes on GPUs call it from threads of their own",
        ),
        Finding(
            "sums", not found["wrong_sums"], f"wrong: {', '.join(found['wrong_sums']) or 'none'}", "use another MPI"
        ),
        Finding(
            "progress without waiting",
            found["progress"],
            "a non-blocking sum completes while it is only tested"
            if found["progress"]
            else "a non-blocking sum did not complete in 5 s of testing",
            "use another MPI, or another network provider of it",
        ),
        Finding(
            "clocks",
            drift < CLOCK_TOLERANCE,
            f"hosts differ by {drift:.3f} s at most",
            "synchronise the hosts' clocks: journals of several hosts are read in the order of their times",
        ),
        Finding("GPUs", True, f"{', '.join(f'{host}: {count}' for host, count in sorted(found['gpus'].items()))}"),
    ]


def _store(url: str) -> Finding:
    try:
        store = Store(url)
        count = len(store.studies())
        store.close()
    except Exception as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        return Finding("store", False, reason, "name another store with --store or ATOLL_STORE, or start its server")
    return Finding("store", True, f"{store} holds {count} studies")


def _data(folder: str | None) -> list[Finding]:
    from atoll.platform.study import registry
    from atoll.platform.workloads.workload import DataMissing, LibraryMissing

    findings = []
    for name in registry.names("workload"):
        try:
            registry.workload(name).check_data(Path(folder) if folder else None)
        except DataMissing as error:
            findings.append(Finding(f"data of {name}", False, str(error), "only if you want this workload"))
        except LibraryMissing as error:
            findings.append(Finding(f"library of {name}", False, str(error), "only if you want this workload"))
        except Exception as error:
            findings.append(Finding(f"workload {name}", False, f"{type(error).__name__}: {error}", "mend or remove it"))
        else:
            findings.append(Finding(f"data of {name}", True, "there"))
    return findings
