"""A cluster and a rank's recorded steps, whose predicted times have closed formulas."""

from atoll.analysis.cluster import Cluster, Link

WHERE = Cluster(
    name="c",
    ranks_per_node=2,
    node=Link(microseconds=0, gigabytes_per_second=1e6),
    network=Link(microseconds=0, gigabytes_per_second=1),
    algorithm="ring",
)
SUM = [["post", "all_reduce", "all", 2, 1_000_000], ["wait", 1]]


def schedule(compute, *, events=SUM, num_steps=100, **changes):
    """The trace of a rank that computes for `compute` seconds in each step, with these events after it."""
    samples = [[compute, *(0.0 for _ in events)]]
    return {
        "rank": 0,
        "num_ranks": 2,
        "ranks_per_node": 2,
        "grows": True,
        "patterns": [{"events": events, "samples": samples, "count": num_steps, "seconds": compute, "is_last": True}],
        "segments": [[0, [[0, num_steps]]]],
        "num_steps": num_steps,
        "service": None,
    } | changes


def exposed(num_nodes):
    """Seconds of a ring's sum of 1 MB over nodes, 1 GB/s, where its ranks are more than one node's."""
    p = 2 * num_nodes
    return 2 * (p - 1) / p * 1e-3 if num_nodes > 1 else 0.0
