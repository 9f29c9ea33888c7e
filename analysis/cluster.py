"""The description of a cluster, and the cost of communication on it (Hockney 1994: latency plus size over bandwidth).

All-reduce algorithms and their costs: Thakur, Rabenseifner, Gropp (2005), "Optimization of Collective Communication
Operations in MPICH". Sizes are bytes, times seconds, bandwidths bytes per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atoll.analysis.batch import Batch

Algorithm = Literal["ring", "tree", "recursive_halving", "hierarchical"]
# The ranks of a communicator: all, those of a node, one of each node, or a fixed number of neighbors.
Span = Literal["all", "node", "peers", "part"]


class Link(BaseModel):
    """The link between two ranks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    microseconds: float = Field(ge=0, description="latency of a message")
    gigabytes_per_second: float = Field(gt=0, description="bandwidth in each direction, 1e9 bytes")

    @property
    def latency(self) -> float:
        """Latency in seconds."""
        return self.microseconds * 1e-6

    @property
    def bandwidth(self) -> float:
        """Bandwidth in bytes per second."""
        return self.gigabytes_per_second * 1e9

    def seconds(self, size: float) -> float:
        """Seconds of one message of `size` bytes."""
        return self.latency + size / self.bandwidth


class Cluster(BaseModel):
    """The description of a cluster: what a projection needs, and the batch system that runs jobs on it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    ranks_per_node: int = Field(ge=1, le=4096, description="GPUs, or ranks, per node")
    speed: float = Field(default=1.0, gt=0, description="a rank's computing speed over the measured one")
    node: Link = Field(description="between two ranks of a node; each pair has its own link")
    network: Link = Field(description="between two nodes, through one port of each")
    ports: int = Field(
        default=1, ge=1, description="network ports per node, which its ranks share; a rank uses one at a time"
    )
    algorithm: Algorithm = Field(default="hierarchical", description="of all-reduces")
    overlaps: bool = Field(default=True, description="whether communication overlaps with computing")
    # The store keeps a cluster with its predictions, and needs no accounts.
    batch: Batch | None = Field(default=None, exclude=True, description="how jobs run there; `atoll submit` needs it")

    def crossing(self, num_flows: int) -> Link:
        """The share of the network for each of `num_flows` ranks of a node that send at the same time."""
        share = min(1.0, self.ports / num_flows)
        return self.network.model_copy(update={"gigabytes_per_second": share * self.network.gigabytes_per_second})


@dataclass(frozen=True)
class Layout:
    """The placement of a communicator's ranks: `per_node` on each of `num_nodes` nodes."""

    num_nodes: int
    per_node: int

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.num_nodes * self.per_node


def layout(cluster: Cluster, span: Span, num_nodes: int, size: int) -> Layout:
    """The layout of a communicator on `num_nodes` nodes; `size` counts the ranks of a part, which does not grow."""
    if span == "all":
        return Layout(num_nodes, cluster.ranks_per_node)
    if span == "node":
        return Layout(1, cluster.ranks_per_node)
    if span == "peers":
        return Layout(num_nodes, 1)
    per_node = min(size, cluster.ranks_per_node)
    return Layout(math.ceil(size / per_node), per_node)


def ring(size: float, num_ranks: int, link: Link) -> float:
    """Ring all-reduce: 2(p-1) steps, each with 1/p of the data."""
    return 2 * (num_ranks - 1) * link.seconds(size / num_ranks)


def recursive_halving(size: float, num_ranks: int, link: Link) -> float:
    """Rabenseifner's all-reduce: reduce-scatter and all-gather by halves, with two more messages off powers of 2."""
    whole = 1 << (num_ranks.bit_length() - 1)
    more = 2 * link.seconds(size) if whole < num_ranks else 0.0
    return 2 * math.log2(whole) * link.latency + 2 * (whole - 1) / whole * size / link.bandwidth + more


def tree(size: float, where: Layout, cluster: Cluster) -> float:
    """One message per level of a binomial tree: over nodes, then inside them."""
    return _depth(where.num_nodes) * cluster.network.seconds(size) + _depth(where.per_node) * cluster.node.seconds(size)


def _depth(num_ranks: int) -> int:
    return math.ceil(math.log2(num_ranks))


def all_reduce(cluster: Cluster, size: float, where: Layout) -> float:
    """Seconds of an all-reduce of `size` bytes with the cluster's algorithm."""
    if where.size == 1:
        return 0.0
    if cluster.algorithm == "tree":
        return 2 * tree(size, where, cluster)
    if where.num_nodes == 1:
        flat = ring if cluster.algorithm in ("ring", "hierarchical") else recursive_halving
        return flat(size, where.size, cluster.node)
    if cluster.algorithm == "recursive_halving":
        # Halving starts inside the nodes, so only 1/per_node of the vector crosses between nodes.
        inside = recursive_halving(size, where.per_node, cluster.node)
        crossing = cluster.crossing(where.per_node)
        return inside + recursive_halving(size / where.per_node, where.num_nodes, crossing)
    if cluster.algorithm == "ring" or where.per_node == 1:
        # One message at a time crosses between neighboring nodes; each step is as slow as its slowest message.
        return ring(size, where.size, slower(cluster.node, cluster.network) if where.per_node > 1 else cluster.network)
    # Between reduce-scatter and all-gather in the node, each rank sums its share with its peers in other nodes.
    inside = ring(size, where.per_node, cluster.node)
    return inside + ring(size / where.per_node, where.num_nodes, cluster.crossing(where.per_node))


def all_gather(cluster: Cluster, size: float, where: Layout) -> float:
    """Seconds of a ring in which each of p ranks passes on `size` bytes of each other one, in p - 1 steps."""
    if where.size == 1:
        return 0.0
    return (where.size - 1) * _neighbors(cluster, where).seconds(size)


def _neighbors(cluster: Cluster, where: Layout) -> Link:
    """The slowest link between a rank and the next one."""
    if where.num_nodes == 1:
        return cluster.node
    return cluster.network if where.per_node == 1 else slower(cluster.node, cluster.network)


def slower(first: Link, second: Link) -> Link:
    """The larger latency and the smaller bandwidth of two links."""
    return Link(
        microseconds=max(first.microseconds, second.microseconds),
        gigabytes_per_second=min(first.gigabytes_per_second, second.gigabytes_per_second),
    )


def broadcast(cluster: Cluster, size: float, where: Layout) -> float:
    """Seconds of a broadcast: by a binomial tree or by scatter and all-gather (van de Geijn), whichever is faster."""
    if where.size == 1:
        return 0.0
    link, p = _neighbors(cluster, where), where.size
    scattered = (_depth(p) + p - 1) * link.latency + 2 * (p - 1) / p * size / link.bandwidth
    return min(tree(size, where, cluster), scattered)
