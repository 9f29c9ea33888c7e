"""The arithmetic of a prediction: a recorded training at another number of ranks of a described cluster.

`projection.py` predicts for trials of the store, and a search for a trial that has just ended. Without the store's
libraries, as ranks import it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atoll.analysis.cluster import Cluster
from atoll.analysis.formatting import counted
from atoll.analysis.replay import CannotReplay, Replayed, replay

Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class Recorded:
    """The recorded steps of a training.

    Attributes:
        traces: of its ranks.
        steps_per_epoch: global batches per epoch.
        batch_size: samples per rank and step.
    """

    traces: Sequence[Mapping[str, Any]]
    steps_per_epoch: int
    batch_size: int

    @property
    def num_ranks(self) -> int:
        """The number of ranks that trained it."""
        return int(self.traces[0]["num_ranks"])

    @property
    def num_servers(self) -> int:
        """How many of them only served the others; on any number of ranks as many do."""
        return self.num_ranks - num_training(self.traces)

    @property
    def grows(self) -> bool:
        """Whether its method runs on any number of ranks."""
        return bool(self.traces[0]["grows"])


@dataclass(frozen=True)
class Scaled:
    """A training at another scale; times are seconds.

    Attributes:
        num_nodes, num_ranks: the scale.
        replayed: the mean step there.
        fewer_steps: how many steps it takes, relative to the recorded training.
    """

    num_nodes: int
    num_ranks: int
    replayed: Replayed
    fewer_steps: float

    def steps(self, recorded: float) -> float:
        """The number of steps that stand for so many recorded ones: one at least."""
        return max(1.0, recorded * self.fewer_steps)

    def seconds(self, recorded: float) -> float:
        """The time of the steps that stand for so many recorded ones."""
        return self.replayed.step * self.steps(recorded)


def num_training(traces: Sequence[Mapping[str, Any]]) -> int:
    """The ranks of a recorded training that had samples: all but those that only served."""
    return int(traces[0]["num_ranks"]) - int(traces[0].get("num_servers", 0))


def batch_size(hyperparameters: Mapping[str, Any], num_ranks: int) -> int:
    """Samples per rank and step; a batch that is held in total is shared by the ranks, which are those that train."""
    whole = int(hyperparameters.get("global_batch_size", 0))
    return whole // num_ranks if whole else int(hyperparameters.get("batch_size", 1))


def num_ranks_of(measured: int, grows: bool, cluster: Cluster, num_nodes: int) -> int:
    """The ranks on so many nodes: all of theirs, or the measured ones of a method that keeps them."""
    return num_nodes * cluster.ranks_per_node if grows else measured


def why_too_few_samples(batch: int, measured: int, num_nodes: int, num_ranks: int) -> str | None:
    """The reason why strong scaling leaves ranks without samples; None if it does not.

    Args:
        batch: samples per rank and step.
        measured: the number of ranks that trained.
        num_nodes, num_ranks: where it is scaled to.
    """
    if batch * measured >= num_ranks:
        return None
    return (
        f"strong scaling leaves ranks without samples: the global batch is {batch * measured}, "
        f"{counted(num_nodes, 'node')} with {counted(num_ranks, 'rank')}"
    )


def scaled(
    recorded: Recorded, cluster: Cluster, num_nodes: int, scaling: Scaling, *, until: float | None = None
) -> Scaled:
    """A training on so many nodes of a cluster.

    Args:
        recorded: the training.
        cluster, num_nodes: where it is predicted.
        scaling: weak keeps the samples per rank and the epochs, strong the global batch and the steps.
        until: the number of recorded steps that count. Default: all.

    Raises:
        CannotReplay: if it cannot be predicted; the message says why.
    """
    num_ranks = num_ranks_of(recorded.num_ranks, recorded.grows, cluster, num_nodes)
    measured, training = recorded.num_ranks - recorded.num_servers, num_ranks - recorded.num_servers
    if training < 1:
        raise CannotReplay(f"{counted(num_nodes, 'node')} with {counted(num_ranks, 'rank')} have a server and no other")
    if scaling == "strong" and (reason := why_too_few_samples(recorded.batch_size, measured, num_nodes, training)):
        raise CannotReplay(reason)
    share = measured / training
    fewer_steps, work = (share, 1.0) if scaling == "weak" else (1.0, share)
    replayed = replay(
        recorded.traces,
        cluster,
        num_nodes,
        until=None if until is None else math.ceil(until),
        per_epoch=recorded.steps_per_epoch,
        work=work,
    )
    return Scaled(num_nodes, num_ranks, replayed, fewer_steps)
