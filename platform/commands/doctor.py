"""`atoll doctor`: checks everything that a search needs, and suggests fixes."""

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
    """The result of one check: whether it passed, the observation, and advice if it failed."""

    check: str
    ok: bool
    found: str
    advice: str = ""


def examine(url: str, data: str | None, num_ranks: int) -> list[Finding]:
    """Check packages, MPI, GPUs, store, data folder and clocks."""
    findings = [_packages()]
    if findings[0].ok:
        findings += _over_mpi(num_ranks)
    try:
        of_data = _data(data)
    except ModuleNotFoundError as error:  # which the first finding has told
        of_data = [Finding("workloads", False, f"cannot be examined without {error.name}", "install the search extra")]
    return [*findings, _store(url), *of_data]


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
            output = log.read_text(errors="replace")[-500:].strip()
            reason = f"{mpiexec.mpiexec()} did not run {num_ranks} ranks: {output}"
            return [Finding("MPI launch", False, reason, _MIXED)]
        facts = json.loads(result.read_text())
    return _judge(facts, num_ranks)


_MIXED = "use the mpiexec of the MPI library that mpi4py loads; set ATOLL_MPIEXEC to its path"


def _judge(facts: dict[str, Any], num_ranks: int) -> list[Finding]:
    drift = max(facts["clocks"]) - min(facts["clocks"])
    wrong_sums = ", ".join(facts["wrong_sums"])
    return [
        Finding(
            "MPI launch", facts["size"] == num_ranks, f"a world of {facts['size']} ranks; {facts['library']}", _MIXED
        ),
        Finding(
            "MPI threads",
            facts["is_serialized"],
            f"thread level {facts['thread_level']}; serialized is "
            f"{'supported' if facts['is_serialized'] else 'required'}",
            "use an MPI library built with thread support: backward passes on GPUs call MPI from their own threads",
        ),
        Finding(
            "sums",
            not facts["wrong_sums"],
            f"wrong results for {wrong_sums}" if wrong_sums else "correct for all dtypes",
            "use another MPI library",
        ),
        Finding(
            "progress without waiting",
            facts["progress"],
            "a non-blocking sum completes under test calls alone"
            if facts["progress"]
            else "a non-blocking sum did not complete within 5 s of test calls",
            "use another MPI library, or another of its network providers",
        ),
        Finding(
            "clocks",
            drift < CLOCK_TOLERANCE,
            f"the hosts' clocks differ by at most {drift:.3f} s",
            "synchronize the hosts' clocks: journals from several hosts are merged by time",
        ),
        Finding("GPUs", True, f"{', '.join(f'{host}: {count}' for host, count in sorted(facts['gpus'].items()))}"),
    ]


def _store(url: str) -> Finding:
    try:
        store = Store(url)
        count = len(store.studies())
        store.close()
    except Exception as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        return Finding(
            "store", False, reason, "choose another store with --store or ATOLL_STORE, or start the database server"
        )
    return Finding("store", True, f"{store} holds {count} studies")


def _data(folder: str | None) -> list[Finding]:
    from atoll.platform.study import registry
    from atoll.platform.workloads.workload import DataMissing, LibraryMissing

    findings = []
    for name in registry.names("workload"):
        try:
            registry.workload(name).check_data(Path(folder) if folder else None)
        except DataMissing as error:
            findings.append(Finding(f"data of {name}", False, str(error), "needed for this workload only"))
        except LibraryMissing as error:
            findings.append(Finding(f"library of {name}", False, str(error), "needed for this workload only"))
        except Exception as error:
            findings.append(Finding(f"workload {name}", False, f"{type(error).__name__}: {error}", "fix or remove it"))
        else:
            findings.append(Finding(f"data of {name}", True, "available"))
    return findings
