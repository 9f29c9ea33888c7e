"""The time of fast ranks while another one is slow: the owner of the center, which trains or only serves.

python benchmarks/slow_rank.py [--ranks N] [--quick] [--json FILE]

The first rank that trains sleeps 0.1 s before each of 30 steps, as in slow loading of data, and answers nobody
meanwhile. With `server: shared` that is rank 0, which owns the center; with `server: dedicated` rank 0 only serves, and
rank 1 sleeps. The figures are medians over rounds of the mean seconds of the 30 steps of the other ranks that train.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time

from job import build, connect, make_batch, make_models, measured, parse

NUM_STEPS = 30
METHODS = {
    "easgd, tau = 1": ("easgd", {"tau": 1}),
    "easgd, tau = 10": ("easgd", {"tau": 10}),
    "downpour, tau = 1": ("downpour", {"tau": 1}),
    "mdownpour": ("mdownpour", {}),
}
SERVERS = ("shared", "dedicated")


def measure(num_rounds: int, pause: float) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    import torch
    from mpi4py import MPI

    from atoll.communication.mpi import MpiFamily

    world, family = MPI.COMM_WORLD, MpiFamily()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    factory, shape = make_models()["digits_mlp"]
    model, batch = factory(), make_batch(shape)
    rows: dict[tuple[str, str, float], list[float]] = {}
    for number in range(num_rounds + 1):
        for case, server, slow in itertools.product(METHODS, SERVERS, (0.0, pause)):
            name, hyperparameters = METHODS[case]
            communicator = connect(world, family, f"{case} {server} {slow} {number}")
            settings = {"learning_rate": 1e-4}
            method = build(name, hyperparameters | {"server": server}, copy.deepcopy(model), communicator, settings)
            first = 1 if server == "dedicated" else 0  # that trains
            communicator.barrier()
            started = time.perf_counter()
            for _ in range(NUM_STEPS):
                if world.rank == first:
                    time.sleep(slow)
                method.step(batch)
            seconds = time.perf_counter() - started
            method.finalize()
            others = world.gather(seconds)
            if others is not None and number > 0:  # the first round warms up
                rows.setdefault((case, server, slow), []).append(statistics.mean(others[first + 1 :]))
        family.close()
        family = MpiFamily()
    if world.rank:
        return None
    figures: dict = {}
    for (case, server, slow), seconds in rows.items():
        figures.setdefault(case, {}).setdefault(server, {})["slow" if slow else "even"] = statistics.median(seconds)
    return figures


def main() -> None:
    options = parse(__doc__.splitlines()[0], quick="1 round with pauses of 0.02 s instead of 5 with 0.1 s")
    figures = measured(options, lambda: measure(1 if options.quick else 5, 0.02 if options.quick else 0.1)) or {}
    for case, servers in figures.items():
        for server, seconds in servers.items():
            print(f"{case:18} {server:10} all even {seconds['even']:.3f} s   one slow {seconds['slow']:.3f} s")


if __name__ == "__main__":
    main()
