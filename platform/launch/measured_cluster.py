"""The description of this cluster for projections, from latencies and bandwidths that ranks measure."""

from __future__ import annotations

import socket
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from atoll.analysis.cluster import Algorithm, Cluster, Link
from atoll.analysis.formatting import counted
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.examination import examine_hosts


def measure(name: str | None, ranks_per_node: int | None, num_ranks: int | None) -> Cluster:
    """Measure the links of the allocation.

    Args:
        name: the cluster's name. Default: the first host's.
        ranks_per_node: what one node has, for the projection, and at least two of which measure. Default: the first
            host's GPUs, or without any two.
        num_ranks: the number of ranks to start, placed as the launcher places them. Default: on each host of the
            allocation as many as `ranks_per_node`, at most eight.

    Raises:
        LaunchError: if ranks cannot be started, or none of them share a host and none do not.
        OSError: if the working directory cannot be written.
    """
    found = examine_hosts(min(8, max(2, ranks_per_node or 2)), num_ranks)
    if not found.facts:
        raise LaunchError(f"{counted(found.num_ranks, 'rank')} did not run: {found.output}; `atoll doctor` says more")
    return described(found.facts, name, ranks_per_node)


def described(facts: dict[str, Any], name: str | None, ranks_per_node: int | None) -> Cluster:
    """The cluster that the facts of `mpi_check.run` show; medians over the links that were measured."""
    links, hosts = facts["links"], Counter(rank["hostname"] for rank in facts["ranks"])
    within = [link for link in links if link["hosts"][0] == link["hosts"][1]]
    between = [link for link in links if link["hosts"][0] != link["hosts"][1]]
    if not links:
        raise LaunchError(f"links need at least two ranks; got {facts['size']} on {', '.join(hosts)}")
    gpus = max(rank["gpus"] for rank in facts["ranks"])
    per_node = ranks_per_node or gpus or max(hosts.values())
    remarks = [
        f"Measured with {facts['library']} on {len(hosts)} {'host' if len(hosts) == 1 else 'hosts'} "
        f"({', '.join(list(hosts)[:3])}{' ...' if len(hosts) > 3 else ''}), {time.strftime('%Y-%m-%d')}: medians of "
        f"{len(within)} links within hosts and {len(between)} between them, host memory through MPI."
    ]
    if not between:
        remarks.append("There was one host only, so network is a copy of node.")
    if not within:
        remarks.append("There was one rank on each host, so node is a copy of network.")
    network = link_of(between or within)
    return Cluster(
        name=(name or next(iter(hosts), socket.gethostname()))[:100],
        description=" ".join(remarks),
        ranks_per_node=per_node,
        node=link_of(within or between),
        network=network,
        ports=_ports(facts["together"], network),
        algorithm=_algorithm(per_node, len(hosts)),
        overlaps=bool(facts["overlaps"]),
    )


def link_of(links: Sequence[dict[str, Any]]) -> Link:
    """The median of some links, with three digits, as repeated measurements differ by more."""
    latency = statistics.median(link["latency"] for link in links) * 1e6
    bandwidth = statistics.median(link["bandwidth"] for link in links) * 1e-9
    return Link(microseconds=float(f"{latency:.3g}"), gigabytes_per_second=float(f"{bandwidth:.3g}"))


def _ports(together: dict[str, Any] | None, network: Link) -> int:
    """As many as make up for what all pairs of two hosts reach at once, in bandwidths of one pair."""
    if together is None:
        return 1
    wanted: int = max(1, round(together["bandwidth"] / network.bandwidth))
    return min(int(together["pairs"]), wanted)


def _algorithm(ranks_per_node: int, num_hosts: int) -> Algorithm:
    return "hierarchical" if ranks_per_node > 1 and num_hosts > 1 else "recursive_halving"
