"""What a job needs of the batch system, from the study, the cluster and the options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.analysis.batch import Batch, seconds
from atoll.analysis.formatting import counted

if TYPE_CHECKING:
    from atoll.analysis.cluster import Cluster
    from atoll.platform.study.study import Study

MAX_JOBS = 1000  # of one `atoll submit`


class BatchError(ValueError):
    """A job that cannot be submitted as asked; the message has the rule, the value and the valid choices."""


@dataclass(frozen=True)
class Chain:
    """How many jobs follow one another, and how many such chains there are.

    Attributes:
        limit: the most jobs of a chain; None: until the study is done, or a job made no progress.
        lanes: number of chains side by side, which share the study.
    """

    limit: int | None = 1
    lanes: int = 1

    def __post_init__(self) -> None:
        for option, number in (("--chain", self.limit), ("--array", self.lanes)):
            if number is not None and not 1 <= number <= MAX_JOBS:
                raise BatchError(f"{option} must be between 1 and {MAX_JOBS} jobs; got {number}")
        if (self.limit or 1) * self.lanes > MAX_JOBS:
            raise BatchError(f"--chain times --array must be at most {MAX_JOBS} jobs; got {self.limit} x {self.lanes}")

    @property
    def is_single(self) -> bool:
        """Whether no job follows another."""
        return self.limit == 1

    def told(self, position: int) -> str:
        """A job's place in its chain."""
        of = "until the study is done" if self.limit is None else f"of at most {self.limit}"
        return f"job {position} {of}"


@dataclass(frozen=True)
class Job:
    """A job that searches a study.

    Attributes:
        name: the study's.
        batch: the cluster's batch system.
        nodes, ranks, ranks_per_node: number of nodes, of ranks, and of ranks per node (fewer on the last node if they
            do not divide evenly).
        seconds: the time limit.
        chain: its chain.
        study_file: the study's file.
        directory: where it was submitted, and where it searches.
        folder: the submission's files, with the jobs' logs; `records.Submission`.
        programs: the folder of the `atoll` to call.
        store: the store's URL, unless the study's or the default one is used.
        arguments: further arguments of `atoll search`.
    """

    name: str
    batch: Batch
    nodes: int
    ranks: int
    ranks_per_node: int
    seconds: int
    chain: Chain
    study_file: Path
    directory: Path
    folder: Path
    programs: Path
    store: str | None = None
    arguments: tuple[str, ...] = ()

    @property
    def cores_per_rank(self) -> int | None:
        """The cores of each rank, if the cluster tells."""
        cores = self.batch.cores_per_node
        return None if cores is None else cores // self.ranks_per_node

    @property
    def gpus_per_node(self) -> int:
        """The GPUs requested on each node: one for each of its ranks."""
        return min(self.ranks_per_node, self.batch.gpus_per_node)

    @property
    def array(self) -> int | None:
        """The number of tasks of an array job: lanes of several jobs are submitted one by one, as chains differ."""
        return self.chain.lanes if self.chain.is_single and self.chain.lanes > 1 else None


def batch_of(cluster: Cluster) -> Batch:
    """The cluster's batch system. Raises BatchError if it has none, or too little on a node for the ranks there.

    A projection may put more ranks on a node than a job can.
    """
    batch, ranks = cluster.batch, cluster.ranks_per_node
    if batch is None:
        raise BatchError(
            f"the cluster {cluster.name} has no section `batch`; give it one, such as `batch: {{system: slurm}}` "
            "(systems: slurm, pbs, torque, lsf)"
        )
    if 0 < batch.gpus_per_node < ranks:
        raise BatchError(
            f"batch.gpus_per_node of the cluster {cluster.name} must be at least ranks_per_node, as each rank has a "
            f"GPU to itself, or 0; got {counted(batch.gpus_per_node, 'GPU')} for {counted(ranks, 'rank')}"
        )
    cores = batch.cores_per_node or ranks
    if cores < ranks:
        raise BatchError(
            f"batch.cores_per_node of the cluster {cluster.name} must be at least ranks_per_node; got "
            f"{counted(cores, 'core')} for {counted(ranks, 'rank')}"
        )
    return batch


def spread(study: Study, cluster: Cluster, nodes: int | None) -> tuple[int, int]:
    """Numbers of nodes and of ranks per node for a study's ranks. Raises BatchError."""
    ranks = study.topology.shape().world_size
    least = math.ceil(ranks / cluster.ranks_per_node)
    if nodes is not None and not least <= nodes <= ranks:
        raise BatchError(
            f"--nodes must be between {least} and {ranks} for the study's {counted(ranks, 'rank')} "
            f"({study.topology.shape()}; {cluster.name} has {counted(cluster.ranks_per_node, 'rank')} per node); got "
            f"{nodes}"
        )
    used = nodes or least
    return used, math.ceil(ranks / used)


def limit(batch: Batch, time: str | None) -> int:
    """The time limit in seconds. Raises BatchError."""
    try:
        total = seconds(time or batch.time)
    except ValueError as error:
        raise BatchError(f"--time: {error}") from None
    if total <= batch.stop_seconds:
        raise BatchError(
            f"the time limit must be longer than batch.stop_seconds of the cluster file, after which the search is "
            f"asked to stop; got {total} s and {batch.stop_seconds} s"
        )
    return total
