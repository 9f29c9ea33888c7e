"""`atoll doctor`: checks everything that a search needs, and suggests fixes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.analysis.formatting import counted, number
from atoll.platform.launch import errors, examination, extras, mpi_launcher
from atoll.platform.launch.examination import Examination
from atoll.storage.store import Store

CLOCK_TOLERANCE = 1.0
SLOW = 3.0  # how many times slower than the median a link is told as slow
RANKS_PER_HOST = 2
FOR_ONE_WORKLOAD = "needed for this workload only"
_MIXED = (
    "use the mpiexec of the MPI library that mpi4py loads: set ATOLL_MPIEXEC to it, or MPI4PY_LIBMPI to the library of "
    "your mpiexec"
)
_AS_ROOT = "in a container, set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
_INSTALL = "load your cluster's MPI module, or install a library: python -m pip install mpich"


@dataclass(frozen=True)
class Finding:
    """The result of one check: whether it passed, the observation, and advice if it failed."""

    check: str
    ok: bool
    found: str
    advice: str = ""


def examine(
    url: str, num_ranks: int | None, *, data: str | None = None, workloads: Sequence[str] = (), hosts: bool = False
) -> list[Finding]:
    """Check packages, MPI, GPUs, clocks and store, and on request hosts and data.

    Args:
        url: the store's URL.
        num_ranks: the number of ranks to start. Default: 2, or with `hosts` 2 on each.
        data: a folder with data files; all workloads are examined with it, unless some are named.
        workloads: the workloads whose data and libraries to look for.
        hosts: whether to examine all hosts of the allocation, and the links between them.
    """
    findings = [_packages(), *_mpi(num_ranks, hosts=hosts), _store(url)]
    return findings + (_data(data, workloads) if data is not None or workloads else [])


def _packages() -> Finding:
    try:
        extras.require_search_extra()
    except errors.LaunchError as error:
        return Finding("packages", False, str(error), "install the search extra")
    return Finding("packages", True, "mpi4py, torch, propulate, cmaes and sortedcontainers are installed")


def _mpi(num_ranks: int | None, *, hosts: bool) -> list[Finding]:
    """What mpi4py loads, which command starts the ranks, and what they find."""
    if not extras.is_installed("mpi4py"):
        return []  # which the first finding has told
    library = mpi_launcher.library()
    found = (
        f"mpi4py loads {library.name} ({library.file})" if library.name else f"mpi4py cannot load one: {library.error}"
    )
    findings = [Finding("MPI library", library.name is not None, found, _INSTALL)]
    try:
        launcher = mpi_launcher.choose()
        findings.append(Finding("MPI launcher", True, f"{launcher}, as {launcher.reason}"))
        if library.name is None:
            return findings
        ranks = examination.examine_hosts(RANKS_PER_HOST, num_ranks) if hosts else examination.examine(num_ranks or 2)
    except errors.LaunchError as error:
        return [*findings, Finding("MPI launcher", False, str(error), _INSTALL)]
    except OSError as error:
        advice = "run this in a folder that you may write, as studies have theirs there"
        return [*findings, Finding("study folder", False, f"{Path.cwd()}: {error.strerror}", advice)]
    return [*findings, *judge(ranks, hosts=hosts, launcher=str(launcher))]


def judge(ranks: Examination, *, hosts: bool, launcher: str) -> list[Finding]:
    """What the facts that ranks have found mean.

    Args:
        ranks: the facts.
        hosts: whether hosts and links were examined.
        launcher: the command that has started the ranks.
    """
    if not ranks.facts:
        reason = f"{launcher} did not run {counted(ranks.num_ranks, 'rank')}: {ranks.output}"
        return [Finding("MPI launch", False, reason, _AS_ROOT if "as root" in ranks.output else _MIXED)]
    findings = [_launch(ranks), _threads(ranks.facts)]
    if ranks.facts["wrong_sums"] is not None:  # else torch is absent
        findings += [_sums(ranks.facts), _progress(ranks.facts)]
    findings += [_clocks(ranks.facts), _gpus(ranks.facts)]
    return findings + ([*_hosts(ranks), *_links(ranks.facts)] if hosts else [])


def _launch(ranks: Examination) -> Finding:
    size = ranks.facts["size"]
    return Finding(
        "MPI launch", size == ranks.num_ranks, f"a world of {counted(size, 'rank')}; {ranks.facts['library']}", _MIXED
    )


def _threads(facts: dict[str, Any]) -> Finding:
    is_supported = "supported" if facts["is_serialized"] else "required"
    return Finding(
        "MPI threads",
        facts["is_serialized"],
        f"thread level {facts['thread_level']}; serialized is {is_supported}",
        "use an MPI library built with thread support: backward passes on GPUs call MPI from their own threads",
    )


def _sums(facts: dict[str, Any]) -> Finding:
    wrong = ", ".join(facts["wrong_sums"])
    found = f"wrong results for {wrong}" if wrong else "correct for all dtypes"
    return Finding("sums", not wrong, found, "use another MPI library")


def _progress(facts: dict[str, Any]) -> Finding:
    return Finding(
        "progress without waiting",
        facts["progress"],
        "a non-blocking sum completes under test calls alone"
        if facts["progress"]
        else "a non-blocking sum did not complete within 5 s of test calls",
        "use another MPI library, or another of its network providers",
    )


def _clocks(facts: dict[str, Any]) -> Finding:
    offsets = [rank["offset"] for rank in facts["ranks"]]
    drift = max(offsets) - min(offsets)
    return Finding(
        "clocks",
        drift < CLOCK_TOLERANCE,
        f"the hosts' clocks differ by at most {drift:.3f} s",
        "synchronize the hosts' clocks: journals from several hosts are merged by time",
    )


def _gpus(facts: dict[str, Any]) -> Finding:
    by_host = {rank["hostname"]: rank["gpus"] for rank in facts["ranks"]}
    return Finding("GPUs", True, ", ".join(f"{host}: {count}" for host, count in sorted(by_host.items())))


def _hosts(ranks: Examination) -> Iterator[Finding]:
    """Whether every host of the allocation runs ranks, sees the study's folder, and has the same software."""
    every = ranks.facts["ranks"]
    names = list(dict.fromkeys(rank["hostname"] for rank in every))
    absent = sorted({_short(name) for name in ranks.expected} - {_short(name) for name in names})
    missing = f"; without ranks: {', '.join(absent)}" if len(names) < len(ranks.expected) else ""
    of = f" of {len(ranks.expected)}" if ranks.expected else ""
    yield Finding(
        "hosts",
        len(names) >= len(ranks.expected),
        f"ranks run on {len(names)}{of}: {', '.join(names)}{missing}",
        "see which hosts your launcher uses; ATOLL_MPIEXEC may give it options, such as --map-by ppr:4:node",
    )
    blind = {rank["hostname"]: rank["folder"] for rank in every if rank["folder"] is not None}
    unseen = [every[rank]["hostname"] for rank in ranks.unseen if every[rank]["hostname"] not in blind]
    told = [f"{host}: {why}" for host, why in blind.items()]
    told += [f"{host}: its files are not seen here" for host in dict.fromkeys(unseen)]
    yield Finding(
        "study folder",
        not told,
        "; ".join(told) or f"every host reads and writes {Path.cwd()}",
        "search in a folder of a file system that all hosts share",
    )
    yield _same("software", every, lambda rank: f"Python {rank['python']}, atoll {rank['atoll']}, {rank['executable']}")
    yield _same("cores", every, lambda rank: f"{counted(len(rank['cores']), 'core')} for each rank", must=False)


def _same(
    check: str, every: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], str], must: bool = True
) -> Finding:
    found = {rank["hostname"]: of(rank) for rank in every}
    kinds = Counter(found.values()).most_common()
    if len(kinds) == 1:
        return Finding(check, True, f"the same on every host: {kinds[0][0]}")
    told = "; ".join(f"{host}: {what}" for host, what in found.items())
    return Finding(check, not must, told, "use the same environment on every host")


def _links(facts: dict[str, Any]) -> Iterator[Finding]:
    """Latency and bandwidth within hosts and between them; those that are much slower than others are named."""
    kinds = {"links within hosts": True, "links between hosts": False}
    for check, is_within in kinds.items():
        links = [link for link in facts["links"] if (len(set(link["hosts"])) == 1) is is_within]
        if not links:
            continue
        latency = statistics.median(link["latency"] for link in links)
        bandwidth = statistics.median(link["bandwidth"] for link in links)
        slow = [link for link in links if link["bandwidth"] * SLOW < bandwidth]
        told = "".join(f"; {' - '.join(link['hosts'])} has {_speed(link['bandwidth'])}" for link in slow)
        yield Finding(
            check,
            not slow,
            f"{len(links)} measured, median {number(latency * 1e6)} microseconds and {_speed(bandwidth)}{told}",
            "leave out the host that these links have in common, and tell those who run the cluster",
        )


def _speed(bandwidth: float) -> str:
    return f"{number(bandwidth / 1e9)} GB/s"


def _short(hostname: str) -> str:
    return hostname.partition(".")[0]


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
    return Finding("store", True, f"{store} holds {counted(count, 'study', 'studies')}")


def _data(folder: str | None, names: Sequence[str]) -> list[Finding]:
    try:
        from atoll.platform.study import registry
        from atoll.platform.workloads.workload import DataMissing, LibraryMissing
    except ModuleNotFoundError as error:  # which the first finding has told
        return [Finding("workloads", False, f"cannot be examined without {error.name}", "install the search extra")]

    findings = []
    for name in names or registry.names("workload"):
        try:
            registry.workload(name).check_data(Path(folder) if folder else None)
        except DataMissing as error:
            findings.append(Finding(f"data of {name}", False, str(error), FOR_ONE_WORKLOAD))
        except LibraryMissing as error:
            findings.append(Finding(f"library of {name}", False, str(error), FOR_ONE_WORKLOAD))
        except Exception as error:
            findings.append(Finding(f"workload {name}", False, f"{type(error).__name__}: {error}", "fix or remove it"))
        else:
            findings.append(Finding(f"data of {name}", True, "available"))
    return findings
