"""Examines MPI, its hosts and the links between them on every rank, for `atoll doctor` and `atoll measure-cluster`.

It needs mpi4py only: what torch is needed for is left out where it is not installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

SMALL, LARGE = 1, 8 << 20  # bytes of the messages that show latency and bandwidth
SECONDS = 0.5  # that each measurement of a link takes at most
_SYNCHRONIZATIONS = 7  # exchanges of the time with rank 0, the fastest of which counts
PROGRESS_TIMEOUT = 5.0


def run(result_file: str, world: Any, links: bool = False) -> None:
    """Examine MPI as one rank of `world`; rank 0 writes the results, as JSON.

    Args:
        result_file: where; the other ranks write a file beside it, to show that they see the folder.
        world: mpi4py's communicator of all ranks.
        links: whether to measure links.
    """
    from mpi4py import MPI

    from atoll.communication.mpi_library import short_name

    facts: dict[str, Any] = {
        "size": world.size,
        "library": short_name(MPI.Get_library_version()),
        "thread_level": MPI.Query_thread(),
        "is_serialized": MPI.Query_thread() >= MPI.THREAD_SERIALIZED,
    }
    facts |= _sums(world) if importlib.util.find_spec("torch") else {"wrong_sums": None, "progress": None}
    mine = _host() | {"offset": _offset(world)} | _folder(Path(result_file), world.rank)
    everyone = world.gather(mine)
    hosts = world.allgather(socket.gethostname())
    if links:
        facts |= _links(world, hosts)
    if world.rank == 0:
        partial = Path(f"{result_file}.partial")
        partial.write_text(json.dumps(facts | {"ranks": everyone}))
        partial.rename(result_file)


def _sums(world: Any) -> dict[str, Any]:
    """Whether sums are right in every dtype, and complete by tests alone."""
    import torch

    from atoll.communication.communicator import SUMMABLE
    from atoll.communication.ledger import Ledger
    from atoll.communication.mpi import MpiCommunicator, MpiFamily

    family = MpiFamily()
    communicator = MpiCommunicator(
        world.Dup(), [0] * world.size, ledger=Ledger(), poll=lambda: None, spin=False, family=family
    )
    expected = world.size * (world.size + 1) // 2
    wrong = []
    for dtype in SUMMABLE:
        tensor = torch.full((1000,), world.rank + 1, dtype=dtype)
        communicator.sum(tensor)
        if not bool((tensor == torch.tensor(expected, dtype=dtype)).all()):
            wrong.append(str(dtype))
    request = communicator.start_sum(torch.ones(1 << 20))
    progress = _within(PROGRESS_TIMEOUT, request.test)
    world.Barrier()
    if not progress:
        request.wait()
    family.close()
    return {"wrong_sums": wrong, "progress": progress}


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _host() -> dict[str, Any]:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "hostname": socket.gethostname(),
        "cores": sorted(cores),
        "gpus": _num_gpus(),
        "python": sys.version.split()[0],
        "atoll": metadata.version("atoll"),
        "executable": sys.executable,
    }


def _num_gpus() -> int:
    if importlib.util.find_spec("torch") is None:
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    import torch

    return torch.cuda.device_count()


def _folder(result: Path, rank: int) -> dict[str, str | None]:
    """Why this rank cannot read and write the folder of the launcher; None if it can."""
    try:
        (result.parent / f"rank-{rank:05d}").write_text((result.parent / "token").read_text())
    except OSError as error:
        return {"folder": f"{type(error).__name__}: {error.strerror}"}
    return {"folder": None}


def _offset(world: Any) -> float:
    """Seconds that this host's clock is ahead of rank 0's, but for half of a round trip (Cristian, 1989)."""
    found = 0.0
    for other in range(1, world.size):
        if world.rank == 0:
            for _ in range(_SYNCHRONIZATIONS):
                world.recv(source=other)
                world.send(time.time(), dest=other)
        elif world.rank == other:
            found = min(_exchange(world) for _ in range(_SYNCHRONIZATIONS))[1]
    return found


def _exchange(world: Any) -> tuple[float, float]:
    """The seconds of a round trip to rank 0, and how far this clock is ahead of its."""
    start = time.time()
    world.send(None, dest=0)
    theirs = world.recv(source=0)
    end = time.time()
    return end - start, (start + end) / 2 - theirs


# Links: between the first two ranks of each host, and between the first ranks of neighboring hosts.


def _links(world: Any, hosts: Sequence[str]) -> dict[str, Any]:
    """The measured links, and how many ranks of two hosts reach the full bandwidth at once; complete on rank 0."""
    on_host: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        on_host.setdefault(host, []).append(rank)
    within = [tuple(ranks[:2]) for ranks in on_host.values() if len(ranks) > 1]
    firsts = [ranks[0] for ranks in on_host.values()]
    between = list(itertools.pairwise(firsts))
    found = [_measured(world, first, second, hosts) for first, second in [*within, *between]]
    pairs = list(zip(*list(on_host.values())[:2], strict=False)) if between else []
    together = _together(world, pairs) if len(pairs) > 1 else None
    overlaps = _overlaps(world, *(between or within)[0]) if between or within else None
    _meet(world)
    gathered = [[link for link in one if link is not None] for one in zip(*world.allgather(found), strict=True)]
    return {"links": [of[0] for of in gathered if of], "together": together, "overlaps": overlaps}


def _meet(world: Any) -> None:
    """Wait until all ranks are here, and leave the cores to those that measure."""
    everybody = world.Ibarrier()
    while not everybody.Test():
        time.sleep(0.001)


def _measured(world: Any, first: int, second: int, hosts: Sequence[str]) -> dict[str, Any] | None:
    """The link of a pair, on its first rank."""
    _meet(world)
    if world.rank not in (first, second):
        return None
    peer = second if world.rank == first else first
    latency = statistics.median(_round_trips(world, peer, first, SMALL, at_least=20)) / 2
    seconds = statistics.median(_round_trips(world, peer, first, LARGE, at_least=3)) / 2
    if world.rank != first:
        return None
    bandwidth = LARGE / max(seconds - latency, 1e-9)
    return {
        "hosts": [hosts[first], hosts[second]],
        "ranks": [first, second],
        "latency": latency,
        "bandwidth": bandwidth,
    }


def _round_trips(world: Any, peer: int, first: int, size: int, at_least: int) -> list[float]:
    """Seconds of each round trip, without the first ones, which set up the link; the first rank ends it."""
    from mpi4py import MPI

    buffer, seconds = bytearray(size), list[float]()
    until = time.perf_counter() + SECONDS
    going_on = True
    while going_on:
        start = time.perf_counter()
        if world.rank == first:
            over = len(seconds) > at_least and start > until
            world.Send([buffer, MPI.BYTE], dest=peer, tag=int(not over))
            world.Recv([buffer, MPI.BYTE], source=peer)
            going_on = not over
        else:
            status = MPI.Status()
            world.Recv([buffer, MPI.BYTE], source=peer, status=status)
            world.Send([buffer, MPI.BYTE], dest=peer)
            going_on = status.Get_tag() == 1
        seconds.append(time.perf_counter() - start)
    return seconds[len(seconds) // 10 + 1 :] or seconds


def _together(world: Any, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The bandwidth of all pairs of ranks of two hosts that send at the same time, and their number; on all ranks."""
    _meet(world)
    mine = next((pair for pair in pairs if world.rank in pair), None)
    bandwidth = 0.0
    if mine is not None:
        peer = mine[1] if world.rank == mine[0] else mine[0]
        seconds = statistics.median(_round_trips(world, peer, mine[0], LARGE, at_least=3)) / 2
        bandwidth = LARGE / seconds if world.rank == mine[0] else 0.0
    _meet(world)
    return {"pairs": len(pairs), "bandwidth": sum(world.allgather(bandwidth))}


def _overlaps(world: Any, first: int, second: int) -> bool:
    """Whether a large message arrives while both ranks compute, without a call of MPI; on all ranks."""
    from mpi4py import MPI

    _meet(world)
    arrived = False
    if world.rank in (first, second):
        peer, buffer = second if world.rank == first else first, bytearray(LARGE)
        start = time.perf_counter()
        with _posted(world, peer, buffer, world.rank == first) as request:
            request.Wait()
        alone = time.perf_counter() - start
        world.sendrecv(None, dest=peer, source=peer)
        with _posted(world, peer, buffer, world.rank == first) as request:
            until = time.perf_counter() + 3 * alone + 0.01
            while time.perf_counter() < until:
                pass
            arrived = bool(request.Test())
            request.Wait()
    _meet(world)
    return bool(world.allreduce(arrived if world.rank == second else True, op=MPI.LAND))


@contextlib.contextmanager
def _posted(world: Any, peer: int, buffer: bytearray, sends: bool) -> Iterator[Any]:
    from mpi4py import MPI

    part = [buffer, MPI.BYTE]
    yield world.Isend(part, dest=peer) if sends else world.Irecv(part, source=peer)
