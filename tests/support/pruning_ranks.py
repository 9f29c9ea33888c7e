"""Prunes a trial of every method, whatever it has under way at an epoch's end, and trains another on the same ranks.

mpiexec -n 2 python pruning_ranks.py
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from exercised import EXERCISED

from atoll.communication.world import World
from atoll.methods import METHODS
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker


def prune_every_method(world: World, serve: Callable[[], None] = lambda: None) -> dict[str, tuple]:
    """At the root, of every method: how the pruned trial ended, after which epochs, and how the next one did."""
    places = arrange(Shape((1,), world.size), [HostFacts("host", {0, 1})] * world.size, ranks_per_node=1)
    worker = Worker(world, places, spin=False, serve=serve)
    outcomes: dict[str, tuple] = {}
    if not worker.is_root:
        worker.obey()
    else:
        for name in METHODS:
            method = registry.method(name)
            if method.max_ranks is not None and method.max_ranks < world.size:
                continue
            configuration = Configuration(
                workload="digits_mlp",
                method=name,
                hyperparameters={key: value for part in EXERCISED.get(name, ()) for key, value in part.items()},
                epochs=2,
                ranks=world.size,
            )
            pruned = worker.evaluate(configuration, Hooks(prunes=lambda progress: progress.epoch == 1))
            whole = worker.evaluate(configuration, Hooks(prunes=lambda progress: False))
            outcomes[name] = (pruned.state, pruned.reason, list(pruned.curve or ()), whole.state, whole.reason)
        worker.dismiss()
    worker.close()
    return outcomes


def main() -> None:
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld

    torch.set_num_threads(1)
    outcomes = prune_every_method(MpiWorld(MPI.COMM_WORLD.Dup()))
    if outcomes:
        print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
