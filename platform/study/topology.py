"""World -> islands -> workers -> ranks -> devices: who is who in a search, without MPI."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace


class TopologyError(ValueError):
    """The ranks cannot be arranged as asked; the message says the rule, the values, and what would do."""


@dataclass(frozen=True)
class Shape:
    """How many workers each island has, and how many ranks each worker."""

    island_sizes: tuple[int, ...]
    ranks: int

    @property
    def num_workers(self) -> int:
        """Workers of all islands."""
        return sum(self.island_sizes)

    @property
    def world_size(self) -> int:
        """Ranks of all workers."""
        return self.num_workers * self.ranks

    def __str__(self) -> str:
        sizes = set(self.island_sizes)
        workers = str(self.island_sizes[0]) if len(sizes) == 1 else "+".join(map(str, self.island_sizes))
        return f"{len(self.island_sizes)} islands x {workers} workers x {self.ranks} ranks"


@dataclass(frozen=True)
class Place:
    """One rank's place.

    Attributes:
        world_rank: in all of the search.
        island, worker, rank: island; worker of all islands; rank in the worker.
        node: which ranks share a node, as the methods see it: by host, or as declared.
        hostname: where the rank runs.
        device: `cpu` or `cuda:N`.
        threads: torch threads of the rank.
        process: its process id.
        may_spin: whether every rank has a core, so that waiting ones may keep theirs busy.
        processor, cores: what the rank computes on, its GPU or its processor, and how many cores it may use.
        oversubscribed: whether it shares its GPU, or its host's ranks have more threads than cores; its seconds then
            cannot be compared.
    """

    world_rank: int
    island: int
    worker: int
    rank: int
    node: int
    hostname: str
    device: str
    threads: int
    process: int
    may_spin: bool
    processor: str = ""
    cores: int = 0
    oversubscribed: bool = False


def share_out(world_size: int, islands: int, ranks: int) -> Shape:
    """Share a world out over islands by Propulate's rule: as evenly as it goes, the first ones get the remainder."""
    if world_size % ranks:
        raise TopologyError(f"the world's {world_size} ranks are not divisible by {ranks} ranks per worker")
    workers = world_size // ranks
    if islands > workers:
        raise TopologyError(
            f"{islands} islands need at least as many workers; the world has {workers} of {ranks} ranks"
        )
    base, remainder = divmod(workers, islands)
    return Shape(tuple(base + (island < remainder) for island in range(islands)), ranks)


def check_world_size(shape: Shape, world_size: int) -> None:
    """Raise TopologyError unless MPI started as many ranks as the shape has."""
    if world_size == shape.world_size:
        return
    if world_size == 1:
        raise TopologyError(
            f"the search needs {shape.world_size} ranks ({shape}) but MPI made worlds of 1: launcher and library "
            "belong to different MPI installations; use the mpiexec of the MPI that mpi4py loads (`atoll search` does)"
        )
    raise TopologyError(
        f"the search needs {shape.world_size} ranks ({shape}) but MPI started {world_size}; "
        f"start {shape.world_size}, or change islands, workers or ranks"
    )


def arrange(
    shape: Shape,
    hostnames: Sequence[str],
    *,
    ranks_per_node: int | None = None,
    device: str = "auto",
    num_gpus: Sequence[int] | None = None,
    cores: Sequence[Collection[int]],
    threads: int | None = None,
    processes: Sequence[int] | None = None,
    processors: Sequence[Sequence[str]] | None = None,
) -> list[Place]:
    """Give every rank its place.

    Args:
        shape: islands, workers, ranks.
        hostnames: the host of every world rank.
        ranks_per_node: how many ranks of a worker count as one node; None for the hosts as they are.
        device: `cpu`, `cuda`, or `auto`: cuda where the host has GPUs.
        num_gpus: GPUs that every world rank sees.
        cores: the processor cores that every world rank may use; ranks bound to the same ones share them.
        processes: process id of every world rank.
        threads: torch threads per rank; None for the host's cores shared out over its ranks.
        processors: of every world rank the names of its processor and of its GPUs.
    """
    gpus = num_gpus or [0] * len(hostnames)
    if device == "cuda" and not all(gpus):
        without = sorted({host for host, count in zip(hostnames, gpus, strict=True) if not count})
        raise TopologyError(f"device cuda needs a GPU on every host; there is none on {', '.join(without)}")
    hosts = {host: number for number, host in enumerate(dict.fromkeys(hostnames))}
    islands = [island for island, size in enumerate(shape.island_sizes) for _ in range(size)]
    sharing = Counter((hostname, frozenset(own)) for hostname, own in zip(hostnames, cores, strict=True))
    places, seen = [], dict.fromkeys(hosts, 0)
    for world_rank, hostname in enumerate(hostnames):
        worker, rank = divmod(world_rank, shape.ranks)
        local_rank, seen[hostname] = seen[hostname], seen[hostname] + 1
        on_gpu = device != "cpu" and gpus[world_rank] > 0
        gpu = local_rank % gpus[world_rank] if on_gpu else None
        names = processors[world_rank] if processors else [""]
        places.append(
            Place(
                world_rank=world_rank,
                island=islands[worker],
                worker=worker,
                rank=rank,
                node=rank // ranks_per_node if ranks_per_node else hosts[hostname],
                hostname=hostname,
                device="cpu" if gpu is None else f"cuda:{gpu}",
                threads=threads or max(1, len(cores[world_rank]) // sharing[hostname, frozenset(cores[world_rank])]),
                process=processes[world_rank] if processes else 0,
                may_spin=sharing[hostname, frozenset(cores[world_rank])] <= len(cores[world_rank]),
                processor=names[0 if gpu is None else min(1 + gpu, len(names) - 1)],
                cores=len(cores[world_rank]),
            )
        )
    return _with_crowds(places, cores)


def _with_crowds(places: list[Place], cores: Sequence[Collection[int]]) -> list[Place]:
    """Say of every rank whether it shares its GPU, or its cores with more threads than these are."""
    on_device = Counter((place.hostname, place.device) for place in places)
    on_host: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        on_host[place.hostname].append(place)

    def oversubscribed(place: Place) -> bool:
        own = set(cores[place.world_rank])
        near = [p for p in on_host[place.hostname] if not own.isdisjoint(cores[p.world_rank])]
        together = set().union(*(cores[p.world_rank] for p in near))
        shares_gpu = place.device != "cpu" and on_device[place.hostname, place.device] > 1
        return shares_gpu or sum(p.threads for p in near) > len(together)

    return [replace(place, oversubscribed=oversubscribed(place)) for place in places]
