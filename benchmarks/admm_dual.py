"""Dual nets against the single network: accuracy, and the largest batch that fits (Dziwulski 2017, section 9.5.1).

python benchmarks/admm_dual.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Accuracy: on two ranks, global batches of 32, SGD with momentum 0.9, seeds 0, 1, 2: digits_mlp (30 epochs) and, on
cifar10_subset.npz, the 7-layer network with an eighth of its channels (10 epochs). The single network trains
data-parallel; the dual nets with each loss, in turn, with duals, and with net1 frozen. The learning rate is the better
of two for the single network by its validation accuracy with seed 0, and equal for all; net1's is a fifth of it.

Memory (section 9.7.1): the growth of a process's largest resident size over three steps; for the dual nets, the larger
of the two. The batch that takes 1 GiB is found by secants through the last two measured batches, starting from a small
and a large one, until memory is within 3 % (`checked`). The batch itself, which every rank gets, is not counted. Two
networks: cifar10_cnn7, most of whose activations are its first layer's, and speech_mlp, whose hidden layers are equal.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from comparison import Trainings, best_rate, parse_options, report
from job import build, connect, evaluate_all, make_models, on_ranks

NUM_RANKS, BATCH_SIZE, SEEDS, RATES = 2, 32, (0, 1, 2), (0.02, 0.05)
NARROW = Path(__file__).resolve().parent / "narrow.py"
WORKLOADS = {"digits_mlp": ("digits_mlp", 30), "cifar10 subset": (f"{NARROW}:NarrowCifar10", 10)}
SHARED = {"schedule": "constant", "batch_size": BATCH_SIZE // NUM_RANKS}
SINGLE = "single network"
METHODS = {
    SINGLE: ("ddp", {}),
    "dual, euclidean (9.2)": ("admm_dual", {}),
    "dual, normalised (9.3)": ("admm_dual", {"loss": "normalised"}),
    "dual, normalised by the copy (9.4)": ("admm_dual", {"loss": "normalised_by_copy"}),
    "dual, held for 20 batches (9.5.3)": ("admm_dual", {"hold": 20}),
    "dual, with duals (5.5)": ("admm_dual", {"duals": True, "rho": 0.1}),
    "dual, net1 frozen (9.5.1)": ("admm_dual", {"freeze_net1": True}),
}
MEMORY = "--memory"  # what the script is started with by itself, to measure one batch
BUDGET = 2**30
# Of each network the batches, and the groupings: none is the single network.
CUTS = {
    "cifar10_cnn7": ((256, 1024), (None, "1,4", "2,3")),
    "speech_mlp": ((32768, 131072), (None, "1,5", "2,4", "3,3")),
}


def train_all(data: str, quick: bool, trials: Path | None) -> list[dict] | None:
    """One rank's program; rank 0 returns all trainings."""
    from mpi4py import MPI

    trainings = Trainings(trials)
    done = trainings.rows

    def train(name: str, wanted: list[tuple[str, float, int]]) -> None:
        workload, epochs = WORKLOADS[name]
        epochs = 2 if quick else epochs
        known = {(r["workload"], r["epochs"], r["method"], r["rate"], r["seed"]) for r in done}
        wanted = [w for w in wanted if (name, epochs, *w) not in known]
        configurations = (
            {
                "workload": workload,
                "method": METHODS[method][0],
                "hyperparameters": SHARED
                | {"learning_rate": rate}
                | ({"net1_lr": rate / 5} if method != SINGLE else {})
                | METHODS[method][1],
                "epochs": epochs,
                "seed": seed,
                "data": data,
            }
            for method, rate, seed in wanted
        )
        for outcome, (method, rate, seed) in zip(evaluate_all(configurations), wanted, strict=False):
            key = {"workload": name, "epochs": epochs, "method": method, "rate": rate, "seed": seed}
            kept = ("test_accuracy", "net1_loss", "net2_loss", "dual_norm", "dual_spread", "collapsed")
            metrics = {n: outcome.metrics[n] for n in kept if n in outcome.metrics}
            trainings.add(key | {"validation": outcome.objective, "metrics": metrics, "reason": outcome.reason})

    for name in WORKLOADS:
        train(name, [(SINGLE, rate, 0) for rate in RATES])
        rate = tuned([r for r in done if r["workload"] == name])
        train(name, [(method, rate, seed) for method in METHODS for seed in SEEDS[: 1 if quick else None]])
    return done if MPI.COMM_WORLD.rank == 0 else None


def tuned(results: list[dict]) -> float:
    """The learning rate with which the single network validates best with seed 0."""
    pilot = [r for r in results if (r["method"], r["seed"]) == (SINGLE, 0)]
    return best_rate(pilot) if pilot else RATES[0]  # a rank that only obeys


def measure_memory(network: str, grouping: str | None, batch_size: int) -> float | None:
    """One rank's program: rank 0 returns the largest growth of a rank's memory over three steps, in bytes."""
    import torch
    from mpi4py import MPI

    from atoll.communication.mpi import MpiFamily
    from atoll.methods.common.memory import peak_memory
    from atoll.methods.method import Batch
    from atoll.platform.study import registry

    torch.set_num_threads(1)
    torch.manual_seed(0)
    world, family = MPI.COMM_WORLD, MpiFamily()
    models = make_models() | {"speech_mlp": (registry.workload("speech_mlp").model, (40,))}
    make, shape = models[network]
    communicator = connect(world, family, "memory")
    inputs = torch.randn(batch_size, *shape)
    batch = Batch(indices=torch.arange(batch_size), inputs=inputs, targets=torch.randint(10, (batch_size,)))
    name, given = ("ddp", {}) if grouping is None else ("admm_dual", {"grouping": grouping})
    method = build(name, given, make(), communicator, {"learning_rate": 0.01}, inputs=inputs[:1])
    before = peak_memory()
    for _ in range(3):
        method.step(batch)
    method.finalize()
    grown = world.allgather(peak_memory() - before)
    family.close()
    return float(max(grown)) if world.rank == 0 else None


def memory_of(*what: object) -> float:
    """The same, in processes of its own; the single network is on one rank."""
    command = [sys.executable, __file__, MEMORY, json.dumps(what)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout.split()[-1])


def find_batch(network: str, grouping: str | None, small: int, large: int) -> tuple[int, float, float]:
    """The batch that takes the budget, its memory, and what a sample takes there, in bytes."""
    points = [(batch, memory_of(network, grouping, batch)) for batch in (small, large)]
    for _ in range(6):
        (a, low), (b, high) = points[-2:]
        per_sample = (high - low) / (b - a)
        if abs(high - BUDGET) < 0.03 * BUDGET:
            break
        batch = max(1, int(b + (BUDGET - high) / per_sample))
        points.append((batch, memory_of(network, grouping, batch)))
    return *points[-1], per_sample


def measure_batches(quick: bool) -> list[dict]:
    """One row for each network and cut: memory, and the largest batch that fits."""
    rows = []
    for network, ((small, large), groupings) in CUTS.items():
        single = 0
        for grouping in groupings[: 2 if quick else None]:
            largest, checked, per_sample = find_batch(network, grouping, small, large)
            single = single or largest
            row = {"network": network, "grouping": grouping, "bytes_per_sample": per_sample, "largest": largest}
            rows.append(row | {"to_single": largest / single, "checked": checked})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def summarize(results: list[dict]) -> list[dict]:
    """One row for each workload and method."""
    rows = []
    for name in WORKLOADS:
        of_workload = [r for r in results if r["workload"] == name]
        rate = tuned(of_workload)
        for method in METHODS:
            mine = [r for r in of_workload if (r["method"], r["rate"]) == (method, rate)]
            whole = [r for r in mine if r["metrics"]]
            values = sorted(r["metrics"]["test_accuracy"] for r in whole)
            row = {"workload": name, "method": method, "rate": rate, "num_diverged": len(mine) - len(whole)}
            for key in ("net1_loss", "net2_loss", "dual_norm", "dual_spread", "collapsed"):
                if whole and key in whole[0]["metrics"]:
                    row[key] = statistics.median(r["metrics"][key] for r in whole)
            rows.append(row | {"test": statistics.median(values) if values else None, "all": values})
    return rows


def tables(rows: list[dict], memory: list[dict]) -> str:
    head = "| workload | network | test accuracy | seeds | net1's loss | net2's loss | norm of a | spread of a |"
    lines = [head + " collapsed |", "| --- " * 9 + "|"]
    for r in rows:
        accuracy = "diverged" if r["test"] is None else f"{100 * r['test']:.1f} %"
        if r["test"] is not None and r["num_diverged"]:
            accuracy += f", {r['num_diverged']} diverged"
        spread = " ".join(f"{100 * value:.1f}" for value in r["all"])
        collapsed = {1.0: "yes", 0.0: "no"}.get(r.get("collapsed"), "")
        losses = " | ".join(
            f"{r[k]:.3g}" if k in r else "" for k in ("net1_loss", "net2_loss", "dual_norm", "dual_spread")
        )
        lines.append(f"| {r['workload']} | {r['method']} | {accuracy} | {spread} | {losses} | {collapsed} |")
    lines += ["", "| network | cut | memory a sample | largest batch in 1 GiB | to the single | checked |"]
    lines += ["| --- " * 6 + "|"]
    for m in memory:
        size = f"{m['checked'] / m['largest'] / 1024:.1f} KiB"
        lines.append(
            f"| {m['network']} | {m['grouping'] or 'none'} | {size} | {m['largest']:,} | {m['to_single']:.2f} "
            f"| {m['checked'] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    if MEMORY in sys.argv[1:]:
        case = json.loads(sys.argv[-1])
        growth = on_ranks(1 if case[1] is None else NUM_RANKS, lambda: measure_memory(*case))
        if growth is not None:
            print(growth)
        return
    options = parse_options(__doc__.splitlines()[0], "two epochs, one seed, one cut", "cifar10_subset.npz")
    results = on_ranks(NUM_RANKS, lambda: train_all(options.data, options.quick, options.trials))
    if results is None:
        return
    rows, memory = summarize(results), measure_batches(options.quick)
    words = "Medians of seeds 0, 1, 2; losses and the norm of net1's dual layer are means over the last epoch."
    content = {"ranks": NUM_RANKS, "rows": rows, "memory": memory}
    report(options, "Dual nets against the single network", words, tables(rows, memory), content)


if __name__ == "__main__":
    main()
