"""What a step of the asynchronous methods waits for the center that a rank serves from its poll points.

python benchmarks/exchange.py [--ranks N] [--quick] [--json FILE]

One MPI job takes turns: blocks of steps of each method, again and again. A rank's step is its block's time divided by
its steps; `waited` is what its ledger says. The owner of the center, rank 0, never waits for it, so the figures are
medians over blocks of the mean over the other ranks.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from step import BATCH_SIZE, make_models

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


def build(name: str, hyperparameters: dict, model, communicator):
    from torch.nn.functional import cross_entropy

    from atoll.methods.method import Context
    from atoll.methods.optimizers import OptimizerFactory, OptimizerSettings
    from atoll.platform import registry

    method = registry.method(name)
    settings = OptimizerSettings(**dict(method.optimizer_defaults) | {"learning_rate": 1e-4, "schedule": "constant"})
    context = Context(
        model=model,
        loss=cross_entropy,
        optimizers=OptimizerFactory(settings, 1),
        communicator=communicator,
        aside=communicator,
        num_epochs=1,
        steps_per_epoch=10**9,
        seed=0,
    )
    return method(method.Hyperparameters(**hyperparameters), context)


def measure(num_rounds: int, seconds_per_block: float) -> dict | None:
    """What one rank does; rank 0 returns the figures."""
    import torch
    from mpi4py import MPI

    from atoll.methods.communicator import Ledger
    from atoll.methods.communicator_mpi import MpiCommunicator, MpiFamily
    from atoll.methods.method import Batch

    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    spin = world.size <= len(os.sched_getaffinity(0))
    figures = {}
    for name, (factory, shape) in make_models().items():
        torch.manual_seed(0)
        model = factory()
        batch = Batch(
            indices=torch.arange(BATCH_SIZE),
            inputs=torch.randn(BATCH_SIZE, *shape),
            targets=torch.randint(10, (BATCH_SIZE,)),
        )
        family, made = MpiFamily(), {}
        for number, (case, (method, hyperparameters)) in enumerate(CASES.items()):
            communicator = MpiCommunicator(
                world.Dup(),
                [0] * world.size,
                ledger=Ledger(),
                poll=lambda: None,
                spin=spin,
                family=family,
                name=str(number),
            )
            made[case] = build(method, hyperparameters, copy.deepcopy(model), communicator), communicator
        rows: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
        num_steps = 0
        for round_number in range(num_rounds + 1):
            for case, (method, communicator) in made.items():
                if num_steps == 0:  # with local_sgd, whose first steps wait for nobody
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
        for method, _ in made.values():
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="3 rounds of short blocks instead of 9")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    if "ATOLL_EXCHANGE_RANK" in os.environ:
        figures = measure(3 if options.quick else 9, 0.1 if options.quick else 0.4)
        if figures is not None:
            print(json.dumps(figures), flush=True)
        return
    from atoll.platform import supervise

    environment = supervise.rank_environment() | {"ATOLL_EXCHANGE_RANK": "1", "OMP_NUM_THREADS": "1"}
    command = [supervise.mpiexec(), "-n", str(options.ranks), sys.executable, *sys.argv]
    job = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=1200)
    figures = json.loads(job.stdout.splitlines()[-1])
    if options.json:
        said = {"command": "python " + " ".join(sys.argv), "ranks": options.ranks, "models": figures}
        text = json.dumps(said, indent=1)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    if options.json != "-":
        for name, cases in figures.items():
            print(name)
            for case, f in cases.items():
                share = f["waited_ms"] / f["step_ms"]
                print(f"  {case:24} step {f['step_ms']:8.3f} ms   waited {f['waited_ms']:7.3f} ms ({share:.1%})")


if __name__ == "__main__":
    main()
