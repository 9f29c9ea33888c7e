"""World -> islands -> workers -> ranks -> devices: the placement of a search's ranks, without MPI."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from atoll.analysis.formatting import counted


class TopologyError(ValueError):
    """An impossible arrangement of ranks; the message has the rule, the values and a remedy."""


@dataclass(frozen=True)
class Shape:
    """The number of workers of each island, and the number of ranks of each worker."""

    island_sizes: tuple[int, ...]
    ranks: int

    @property
    def num_workers(self) -> int:
        """The number of workers on all islands."""
        return sum(self.island_sizes)

    @property
    def world_size(self) -> int:
        """The number of ranks of all workers."""
        return self.num_workers * self.ranks

    def __str__(self) -> str:
        sizes = set(self.island_sizes)
        mixed = "+".join(map(str, self.island_sizes))
        workers = counted(self.island_sizes[0], "worker") if len(sizes) == 1 else f"{mixed} workers"
        return f"{counted(len(self.island_sizes), 'island')} x {workers} x {counted(self.ranks, 'rank')}"


@dataclass(frozen=True)
class HostFacts:
    """What one rank runs on.

    Attributes:
        hostname: its host.
        cores: the processor cores that it may use; ranks bound to the same cores share them.
        num_gpus: number of GPUs that it sees.
        process: its process id.
        processors: the names of the host's processor and of the GPUs.
        gpus: what tells each GPU from all others; a launcher may show each rank one of its own, as the first.
        started_as: its rank in the MPI job.
    """

    hostname: str
    cores: Collection[int]
    num_gpus: int = 0
    process: int = 0
    processors: Sequence[str] = ("",)
    gpus: Sequence[str] = ()
    started_as: int = 0


@dataclass(frozen=True)
class Place:
    """One rank's place.

    Attributes:
        world_rank: the rank in the whole search.
        island, worker, rank: the island; the worker, counted over all islands; the rank in the worker.
        node: the node as the methods see it: the host, or a virtual node.
        hostname: the host.
        device: `cpu` or `cuda:N`.
        threads: number of torch threads.
        process: the process id.
        may_spin: whether each rank has a core of its own, so that busy waiting is harmless.
        processor, cores: the name of the rank's GPU or processor, and the number of cores it may use.
        oversubscribed: whether it shares its GPU, or cores with too many threads; its times are then not comparable.
        gpu: what tells its GPU from all others; empty if that is unknown, or it trains on its processor.
        started_as: its rank in the MPI job, by which process managers name it.
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
    gpu: str = ""
    started_as: int = 0

    @property
    def takes_turns(self) -> bool:
        """Whether its computing is the time of its one thread, as it shares cores with other ranks."""
        return self.oversubscribed and self.device == "cpu" and self.threads == 1


def share_out(world_size: int, islands: int, ranks: int) -> Shape:
    """Distribute a world over islands by Propulate's rule: evenly, with the remainder on the first islands."""
    if world_size % ranks:
        raise TopologyError(
            f"the number of ranks must be divisible by {counted(ranks, 'rank')} per worker; got {world_size}"
        )
    workers = world_size // ranks
    if islands > workers:
        raise TopologyError(
            f"{islands} islands need at least {islands} workers; the world has {workers} of {counted(ranks, 'rank')}"
        )
    base, remainder = divmod(workers, islands)
    return Shape(tuple(base + (island < remainder) for island in range(islands)), ranks)


def check_world_size(shape: Shape, world_size: int) -> None:
    """Raise TopologyError unless MPI started the number of ranks that the shape needs."""
    if world_size == shape.world_size:
        return
    if world_size == 1:
        raise TopologyError(
            f"the search needs {counted(shape.world_size, 'rank')} ({shape}) but MPI made worlds of 1: launcher and "
            "library belong to different MPI installations; use the mpiexec of the MPI that mpi4py loads, as `atoll "
            "search` does"
        )
    raise TopologyError(
        f"the search needs {counted(shape.world_size, 'rank')} ({shape}) but MPI started {world_size}; "
        f"start {shape.world_size}, or change islands, workers or ranks"
    )


def by_host(hostnames: Sequence[str], ranks: int) -> list[int]:
    """An order of the ranks in which each `ranks` of them, a worker's, are on few hosts, and those of a host neighbors.

    MPI may number its ranks round the hosts. As many workers as possible are on one host each; the others are made of
    what is left, the largest part that fits first. Rank 0 stays the first one.

    Args:
        hostnames: the host of each rank.
        ranks: the number of ranks of a worker, which divides their number.
    """
    on_host: dict[str, list[int]] = defaultdict(list)
    for rank, hostname in enumerate(hostnames):
        on_host[hostname].append(rank)
    workers: list[list[int]] = []
    left: list[list[int]] = []
    for numbers in on_host.values():
        whole = len(numbers) - len(numbers) % ranks
        workers += [numbers[start : start + ranks] for start in range(0, whole, ranks)]
        left += [numbers[whole:]] if whole < len(numbers) else []
    while left:
        parts: list[list[int]] = []
        while left and (need := ranks - sum(map(len, parts))) > 0:
            fitting = [numbers for numbers in left if len(numbers) <= need]
            numbers = max(fitting, key=len) if fitting else min(left, key=len)
            left.remove(numbers)
            parts.append(numbers[:need])
            left += [numbers[need:]] if numbers[need:] else []
        workers.append([rank for part in sorted(parts) for rank in part])
    return [rank for worker in sorted(workers, key=min) for rank in worker]


def share_cores(facts: Sequence[HostFacts]) -> list[HostFacts]:
    """Give each rank cores of its own, where ranks of a host may use the same ones, and there are enough of them."""
    sharing: dict[tuple[str, frozenset[int]], list[int]] = defaultdict(list)
    for rank, fact in enumerate(facts):
        sharing[_core_set(fact)].append(rank)
    shared = list(facts)
    for ranks in sharing.values():
        cores = list(facts[ranks[0]].cores)
        if len(ranks) > len(cores):
            continue
        for number, rank in enumerate(ranks):
            start, end = (len(cores) * n // len(ranks) for n in (number, number + 1))
            shared[rank] = replace(facts[rank], cores=cores[start:end])
    return shared


def arrange(
    shape: Shape,
    facts: Sequence[HostFacts],
    *,
    ranks_per_node: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> list[Place]:
    """Give each rank its place.

    Args:
        shape: islands, workers, ranks.
        facts: by world rank, what each rank runs on.
        ranks_per_node: number of ranks of a worker that form a virtual node. Default: nodes are hosts.
        device: `cpu`, `cuda`, or `auto`: cuda on hosts with GPUs.
        threads: torch threads per rank. Default: the available cores, divided among the ranks that share them.
    """
    if device == "cuda":
        _check_gpus(facts)
    hosts = {host: number for number, host in enumerate(dict.fromkeys(fact.hostname for fact in facts))}
    islands = [island for island, size in enumerate(shape.island_sizes) for _ in range(size)]
    sharing = Counter(_core_set(fact) for fact in facts)
    places = []
    for world_rank, (fact, gpu) in enumerate(zip(facts, _assign_gpus(facts, device), strict=True)):
        worker, rank = divmod(world_rank, shape.ranks)
        num_cores, num_sharing = len(fact.cores), sharing[_core_set(fact)]
        places.append(
            Place(
                world_rank=world_rank,
                island=islands[worker],
                worker=worker,
                rank=rank,
                node=rank // ranks_per_node if ranks_per_node else hosts[fact.hostname],
                hostname=fact.hostname,
                device="cpu" if gpu is None else f"cuda:{gpu}",
                threads=threads or max(1, num_cores // num_sharing),
                process=fact.process,
                may_spin=num_sharing <= num_cores,
                processor=fact.processors[0 if gpu is None else min(1 + gpu, len(fact.processors) - 1)],
                cores=num_cores,
                gpu="" if gpu is None or gpu >= len(fact.gpus) else fact.gpus[gpu],
                started_as=fact.started_as,
            )
        )
    return _mark_oversubscribed(places, facts)


def _check_gpus(facts: Sequence[HostFacts]) -> None:
    if without := sorted({fact.hostname for fact in facts if not fact.num_gpus}):
        raise TopologyError(f"device cuda needs a GPU on every host; there is none on {', '.join(without)}")


def _assign_gpus(facts: Sequence[HostFacts], device: str) -> Iterator[int | None]:
    """The GPU of each rank, round robin on each host; None for a rank that trains on its processor."""
    num_placed: Counter[str] = Counter()
    for fact in facts:
        yield num_placed[fact.hostname] % fact.num_gpus if device != "cpu" and fact.num_gpus > 0 else None
        num_placed[fact.hostname] += 1


def _core_set(fact: HostFacts) -> tuple[str, frozenset[int]]:
    return fact.hostname, frozenset(fact.cores)


def _device(place: Place) -> tuple[str, str]:
    return place.hostname, place.gpu or place.device


def _mark_oversubscribed(places: list[Place], facts: Sequence[HostFacts]) -> list[Place]:
    """Mark each rank that shares a GPU or whose cores are oversubscribed."""
    on_device = Counter(_device(place) for place in places)
    on_host: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        on_host[place.hostname].append(place)

    def oversubscribed(place: Place) -> bool:
        own = set(facts[place.world_rank].cores)
        overlapping = [p for p in on_host[place.hostname] if not own.isdisjoint(facts[p.world_rank].cores)]
        cores = set().union(*(facts[p.world_rank].cores for p in overlapping))
        shares_gpu = place.device != "cpu" and on_device[_device(place)] > 1
        return shares_gpu or sum(p.threads for p in overlapping) > len(cores)

    return [replace(place, oversubscribed=oversubscribed(place)) for place in places]
