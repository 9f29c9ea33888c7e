"""A cluster in numbers, and what communication costs on it (Hockney 1994: latency plus size over bandwidth).

All-reduce algorithms and their costs: Thakur, Rabenseifner, Gropp (2005), "Optimization of Collective Communication
Operations in MPICH". Sizes are bytes, times seconds, bandwidths bytes per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Algorithm = Literal["ring", "tree", "recursive_halving", "hierarchical"]
# Which ranks a communicator spans: all; those of a node; one of each node; or a fixed number of neighbours.
Span = Literal["all", "node", "peers", "part"]


class Link(BaseModel):
    """What a message meets between two ranks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    microseconds: float = Field(ge=0, description="latency of a message")
    gigabytes_per_second: float = Field(gt=0, description="bandwidth in each direction, 1e9 bytes")

    @property
    def latency(self) -> float:
        """Seconds."""
        return self.microseconds * 1e-6

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.gigabytes_per_second * 1e9

    def seconds(self, size: float) -> float:
        """One message."""
        return self.latency + size / self.bandwidth


class Cluster(BaseModel):
    """A described cluster: what a projection needs to know of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    ranks_per_node: int = Field(ge=1, description="GPUs, or ranks, of a node")
    speed: float = Field(default=1.0, gt=0, description="of a rank's computation, over that of the measuring machine")
    node: Link = Field(description="between two ranks of a node; each pair has its own")
    network: Link = Field(description="between two nodes, through one port of each")
    ports: int = Field(default=1, ge=1, description="of a node to the network; a rank uses one, all share them")
    algorithm: Algorithm = Field(default="hierarchical", description="of sums over ranks")
    overlaps: bool = Field(default=True, description="whether communication goes on while a rank computes")

    def crossing(self, num_flows: int) -> Link:
        """What each of a node's ranks that send to other nodes at a time gets of the network."""
        share = min(1.0, self.ports / num_flows)
        return self.network.model_copy(update={"gigabytes_per_second": share * self.network.gigabytes_per_second})


@dataclass(frozen=True)
class Layout:
    """Where the ranks of a communicator are: `per_node` of them on each of `num_nodes` nodes."""

    num_nodes: int
    per_node: int

    @property
    def size(self) -> int:
        """Ranks."""
        return self.num_nodes * self.per_node


def layout(cluster: Cluster, span: Span, num_nodes: int, size: int) -> Layout:
    """The layout of a communicator's ranks at `num_nodes` nodes; `size` is that of a part, which does not grow."""
    if span == "all":
        return Layout(num_nodes, cluster.ranks_per_node)
    if span == "node":
        return Layout(1, cluster.ranks_per_node)
    if span == "peers":
        return Layout(num_nodes, 1)
    per_node = min(size, cluster.ranks_per_node)
    return Layout(math.ceil(size / per_node), per_node)


def ring(size: float, num_ranks: int, link: Link) -> float:
    """2(p-1) steps, each of a pth."""
    return 2 * (num_ranks - 1) * link.seconds(size / num_ranks)


def recursive_halving(size: float, num_ranks: int, link: Link) -> float:
    """Rabenseifner's: reduce-scatter and all-gather by halves; beyond a power of 2 a message more each way."""
    whole = 1 << (num_ranks.bit_length() - 1)
    more = 2 * link.seconds(size) if whole < num_ranks else 0.0
    return 2 * math.log2(whole) * link.latency + 2 * (whole - 1) / whole * size / link.bandwidth + more


def tree(size: float, where: Layout, cluster: Cluster) -> float:
    """A binomial tree's depth of messages: over nodes, then inside them."""
    return _depth(where.num_nodes) * cluster.network.seconds(size) + _depth(where.per_node) * cluster.node.seconds(size)


def _depth(num_ranks: int) -> int:
    return math.ceil(math.log2(num_ranks))


def all_reduce(cluster: Cluster, size: float, where: Layout) -> float:
    """Seconds of a sum of `size` bytes over ranks, with the cluster's algorithm."""
    if where.size == 1:
        return 0.0
    if cluster.algorithm == "tree":
        return 2 * tree(size, where, cluster)
    if where.num_nodes == 1:
        flat = ring if cluster.algorithm in ("ring", "hierarchical") else recursive_halving
        return flat(size, where.size, cluster.node)
    if cluster.algorithm == "recursive_halving":
        # The nearest first: what is left of the vector crosses between nodes.
        inside = recursive_halving(size, where.per_node, cluster.node)
        crossing = cluster.crossing(where.per_node)
        return inside + recursive_halving(size / where.per_node, where.num_nodes, crossing)
    if cluster.algorithm == "ring" or where.per_node == 1:
        # One message crosses between two neighbouring nodes at a time; each step is as slow as its slowest message.
        return ring(size, where.size, slower(cluster.node, cluster.network) if where.per_node > 1 else cluster.network)
    # Reduce-scatter and all-gather in the node; between, each rank sums its share with its peers of other nodes.
    inside = ring(size, where.per_node, cluster.node)
    return inside + ring(size / where.per_node, where.num_nodes, cluster.crossing(where.per_node))


def slower(first: Link, second: Link) -> Link:
    """The larger latency and the smaller bandwidth of two links."""
    return Link(
        microseconds=max(first.microseconds, second.microseconds),
        gigabytes_per_second=min(first.gigabytes_per_second, second.gigabytes_per_second),
    )


def broadcast(cluster: Cluster, size: float, where: Layout) -> float:
    """Seconds of a broadcast: a binomial tree, or scattered and gathered where that is sooner (van de Geijn)."""
    if where.size == 1:
        return 0.0
    link = cluster.node if where.num_nodes == 1 else slower(cluster.node, cluster.network)
    if where.per_node == 1:
        link = cluster.network
    p = where.size
    scattered = (_depth(p) + p - 1) * link.latency + 2 * (p - 1) / p * size / link.bandwidth
    return min(tree(size, where, cluster), scattered)
