"""Places from parallel lists of host facts, which are shorter to write in tests."""

from collections.abc import Collection, Sequence

from atoll.platform.study import topology
from atoll.platform.study.topology import HostFacts, Place, Shape


def arrange(
    shape: Shape,
    hostnames: Sequence[str],
    *,
    cores: Sequence[Collection[int]],
    num_gpus: Sequence[int] | None = None,
    processors: Sequence[Sequence[str]] | None = None,
    ranks_per_node: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> list[Place]:
    """The place of each rank, from its host's name, its cores, its number of GPUs and their names."""
    facts = [
        HostFacts(
            hostname=hostname,
            cores=cores[rank],
            num_gpus=num_gpus[rank] if num_gpus else 0,
            processors=processors[rank] if processors else ("",),
        )
        for rank, hostname in enumerate(hostnames)
    ]
    return topology.arrange(shape, facts, ranks_per_node=ranks_per_node, device=device, threads=threads)
