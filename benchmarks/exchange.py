"""The waiting time of asynchronous methods' steps for the center, which a rank serves from its poll points.

python benchmarks/exchange.py [--ranks N] [--quick] [--json FILE]

One MPI job takes turns: blocks of steps of each method, again and again. A rank's step is its block's time divided by
its steps; `waited` is what its ledger says. The owner of the center, rank 0, never waits for it, so the figures are
medians over blocks of the mean over the other ranks.
"""

from __future__ import annotations

import copy
import statistics
import time

from job import build, connect, make_batch, make_models, measured, parse

CASES = {
    "local_sgd, H = 10": ("local_sgd", {"H": 10}),
    "easgd, tau = 1": ("easgd", {"tau": 1}),
    "easgd, tau = 10": ("easgd", {"tau": 10}),
    "easgd, jacobi, tau = 1": ("easgd", {"form": "jacobi", "tau": 1}),
    "downpour, tau = 1": ("downpour", {"tau": 1}),
    "downpour, tau = 10": ("downpour", {"tau": 10}),
    "mdownpour": ("mdownpour", {}),
    "easgd_tree": ("easgd_tree", {"degree": 2}),
}


def measure(num_rounds: int, seconds_per_block: float) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    import torch
    from mpi4py import MPI

    from atoll.communication.mpi import MpiFamily

    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    figures = {}
    for name, (factory, shape) in make_models().items():
        torch.manual_seed(0)
        model, batch, family, methods = factory(), make_batch(shape), MpiFamily(), {}
        for case, (method, hyperparameters) in CASES.items():
            communicator = connect(world, family, case)
            settings = {"learning_rate": 1e-4}
            methods[case] = build(method, hyperparameters, copy.deepcopy(model), communicator, settings), communicator
        rows: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
        num_steps = 0
        for round_number in range(num_rounds + 1):
            for case, (method, communicator) in methods.items():
                if num_steps == 0:  # with local_sgd, whose first steps do not wait
                    started = time.perf_counter()
                    for _ in range(5):
                        method.step(batch)
                    num_steps = max(10, round(5 * seconds_per_block / (time.perf_counter() - started)))
                    num_steps = world.bcast(num_steps)
                communicator.barrier()
                waited, started = communicator.ledger.seconds_waited(), time.perf_counter()
                for _ in range(num_steps):
                    method.step(batch)
                seconds = (time.perf_counter() - started) / num_steps
                waited = (communicator.ledger.seconds_waited() - waited) / num_steps
                communicator.barrier()  # it serves; MPI's own would not
                others = world.gather((seconds, waited))
                if others is not None and round_number > 0:  # the first round warms up
                    others = others[1:]
                    rows[case].append(tuple(statistics.mean(column) for column in zip(*others, strict=True)))
        for method, _ in methods.values():
            method.finalize()
        family.close()
        figures[name] = {
            case: {
                "step_ms": 1e3 * statistics.median(s for s, _ in pairs),
                "waited_ms": 1e3 * statistics.median(w for _, w in pairs),
            }
            for case, pairs in rows.items()
            if pairs
        }
    return figures if world.rank == 0 else None


def main() -> None:
    options = parse(__doc__.splitlines()[0], quick="3 rounds of short blocks instead of 9")
    quick = options.quick
    figures = measured(options, lambda: measure(3 if quick else 9, 0.1 if quick else 0.4)) or {}
    for name, cases in figures.items():
        print(name)
        for case, f in cases.items():
            share = f["waited_ms"] / f["step_ms"]
            print(f"  {case:24} step {f['step_ms']:8.3f} ms   waited {f['waited_ms']:7.3f} ms ({share:.1%})")


if __name__ == "__main__":
    main()
