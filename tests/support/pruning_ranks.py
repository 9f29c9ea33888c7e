"""Prunes a trial of every method, whatever it has under way at an epoch's end, and trains another on the same ranks.

mpiexec -n 2 python pruning_ranks.py
"""

from __future__ import annotations

import json

import torch
from method_contract import EXERCISED

from atoll.methods import METHODS


def main() -> None:
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld
    from atoll.platform.study import registry
    from atoll.platform.study.configuration import Configuration
    from atoll.platform.study.topology import HostFacts, Shape, arrange
    from atoll.platform.trial.worker import Hooks, Worker

    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    places = arrange(Shape((1,), world.size), [HostFacts("host", {0, 1})] * world.size, ranks_per_node=1)
    worker = Worker(MpiWorld(world.Dup()), places, spin=False)
    if not worker.is_root:
        worker.obey()
    else:
        found = {}
        for name in METHODS:
            method = registry.method(name)
            if method.max_ranks is not None and method.max_ranks < world.size:
                continue
            configuration = Configuration(
                workload="digits_mlp",
                method=name,
                hyperparameters=EXERCISED[name][0] | EXERCISED[name][1],
                epochs=3,
                ranks=world.size,
            )
            pruned = worker.evaluate(configuration, Hooks(prunes=lambda progress: progress.epoch == 1))
            whole = worker.evaluate(configuration, Hooks(prunes=lambda progress: False))
            found[name] = (pruned.state, pruned.reason, list(pruned.curve or ()), whole.state, whole.reason)
        worker.dismiss()
        print(json.dumps(found), flush=True)
    worker.close()


if __name__ == "__main__":
    main()
