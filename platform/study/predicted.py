"""Objectives that are predictions: times on a cluster that is described, from the steps that each trial records."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema

from atoll.analysis import clusters
from atoll.analysis.cluster import Cluster
from atoll.analysis.formatting import counted
from atoll.analysis.replay import MAX_CENTER
from atoll.analysis.scaling import Scaling, num_ranks_of, why_too_few_samples
from atoll.platform.study.fields import Strict

if TYPE_CHECKING:
    from atoll.methods.method import Method

H = TypeVar("H")  # a method's dataclass of hyperparameters

# Smaller is better for all of them.
PREDICTED = {
    "projected_seconds": "predicted time of the whole training",
    "projected_seconds_to_target": "predicted time to the workload's target; infinite if the trial misses it",
    "projected_seconds_per_step": "predicted mean time of a step",
}


def _read(cluster: object, info: ValidationInfo) -> object:
    """The cluster of a name or a file; the study keeps its content, as the file may change or be on one host only."""
    if not isinstance(cluster, str):
        return cluster
    if os.sep not in cluster and not Path(cluster).suffix:
        return clusters.cluster(cluster)  # those that are bundled have no batch system
    context = info.context or {}
    folder = Path(context.get("folder", "."))
    path = folder / Path(cluster).expanduser()
    if context.get("inside") and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"a cluster file must be in the study file's folder {folder.resolve()}; got {cluster!r}, which is outside: "
            "move it there, or use --outside if you trust it"
        )
    return clusters.cluster(str(path)).model_copy(update={"batch": None})


class Projection(Strict):
    """The cluster for which a time is predicted, and how many of its nodes."""

    cluster: Annotated[Cluster, BeforeValidator(_read), WithJsonSchema({"type": "string"})] = Field(
        description="a cluster file, relative to the study file, or the name of a bundled cluster"
    )
    nodes: int = Field(ge=1, le=clusters.MAX_NODES, description="number of nodes")
    scaling: Scaling = Field(
        default="weak",
        description="weak: fixed per-rank batch and epochs; strong: fixed global batch and steps",
    )
    speed: float | None = Field(
        default=None, gt=0, description="a rank's computing speed over the one that trains. Default: the cluster's"
    )

    @property
    def where(self) -> Cluster:
        """The cluster with the speed."""
        return self.cluster if self.speed is None else self.cluster.model_copy(update={"speed": self.speed})

    def label(self, name: str) -> str:
        """An objective's name that says that, and for what, it is predicted."""
        details = [self.cluster.name, f"{self.nodes} node{'s' if self.nodes > 1 else ''}"]
        details += ["strong scaling"] if self.scaling == "strong" else []
        details += [] if self.speed is None else [f"speed {self.speed:g}"]
        return f"{name} (predicted: {', '.join(details)})"


def grows(method: type[Method[Any]]) -> bool:
    """Whether a method runs on any number of ranks; others keep those that train."""
    return method.max_ranks is None and not method.layer_parallel


def check(
    name: str, projection: Projection, method: type[Method[Any]], num_ranks: int, ranks_per_node: int | None
) -> None:
    """Raise ValueError if no trial could be projected.

    Args:
        name: the objective's.
        projection: where.
        method: what trains.
        num_ranks: of a worker.
        ranks_per_node: of a virtual node; None if nodes are hosts.
    """
    per_node = projection.cluster.ranks_per_node
    if method.takes_turns and ranks_per_node and per_node % ranks_per_node:
        raise ValueError(
            f"{name} of {method.__name__}, whose ranks of a node take turns, needs a cluster with a multiple of "
            f"topology.ranks_per_node, {ranks_per_node}, as ranks per node; {projection.cluster.name} has {per_node}"
        )
    if method.point_to_point:
        raise ValueError(
            f"{name} cannot be predicted of {method.__name__}: its ranks wait for messages from one another, and who "
            "sends at other numbers of ranks is not recorded"
        )
    if grows(method):
        if num_ranks == 1:
            raise ValueError(
                f"{name} is predicted from what ranks communicate, and one rank has nothing to communicate: set "
                "topology.ranks to at least 2"
            )
        return
    if projection.nodes != (own := math.ceil(num_ranks / per_node)):
        raise ValueError(
            f"nodes of {name} must be {own}: {method.__name__} does not grow, so it stays on the "
            f"{counted(num_ranks, 'rank')} of a worker, and {projection.cluster.name} has {counted(per_node, 'rank')} "
            f"per node; got {projection.nodes}"
        )


def infeasibility(
    projection: Projection, method: type[Method[H]], hyperparameters: H, num_ranks: int, samples_per_rank: int
) -> str | None:
    """The reason why a configuration cannot be projected; None if it can.

    Args:
        projection: where.
        method, hyperparameters: what trains.
        num_ranks: of a worker.
        samples_per_rank: and step.
    """
    there = num_ranks_of(num_ranks, grows(method), projection.cluster, projection.nodes)
    num_servers = method.num_servers(hyperparameters)
    if there <= num_servers:
        return f"{projection.cluster.name} with {counted(projection.nodes, 'node')} has a server and no other rank"
    if grows(method) and method.serves(hyperparameters) and there > MAX_CENTER:
        return (
            f"a projection follows all ranks of an asynchronous method, at most {MAX_CENTER}; "
            f"{projection.cluster.name} with {counted(projection.nodes, 'node')} has {there}"
        )
    if projection.scaling == "weak":
        return None
    return why_too_few_samples(samples_per_rank, num_ranks - num_servers, projection.nodes, there - num_servers)


def note(name: str, projection: Projection, num_ranks: int) -> str:
    """What the user should know of an objective that is a prediction."""
    assumed = (
        f"samples per rank and epochs are those of {counted(num_ranks, 'rank')}, although the global batch grows "
        "with the ranks"
        if projection.scaling == "weak"
        else f"steps are those of {counted(num_ranks, 'rank')}, and computing shrinks with the samples per rank"
    )
    return (
        f"{name} is predicted, not measured, from the steps that each trial records: {assumed}; a rank there computes "
        f"{projection.where.speed:g} times as fast as here"
    )
