"""Synthetic gradients against backpropagation: accuracy per iteration and per second (Tong et al. 2016, section 7).

python benchmarks/dni_mnist_like.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

On two ranks, global batches of 32, Adam, seeds 0, 1, 2: digits_mlp (30 epochs) and, on cifar10_subset.npz, the 7-layer
network with an eighth of its channels (8 epochs). Each method's learning rate is the best of three by its validation
accuracy with seed 0; everything else is dni's defaults, except for the settings that the rows name. Accuracies are on
validation data after every epoch; seconds are training time. The discussion there is section 8.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from comparison import Trainings, best_rate, parse_options, report
from job import evaluate_all, on_ranks

NUM_RANKS, BATCH_SIZE, SEEDS, RATES = 2, 32, (0, 1, 2), (3e-4, 1e-3, 3e-3)
NARROW = Path(__file__).resolve().parent / "narrow.py"
WORKLOADS = {"digits_mlp": ("digits_mlp", 30), "cifar10 subset": (f"{NARROW}:NarrowCifar10", 8)}
FULLY = {"mode": "fully_decoupled"}
METHODS = {
    "backprop (ddp)": ("ddp", {}),
    "backprop over ranks, M beside (gradient_loss)": ("dni", {"mode": "gradient_loss"}),
    "update_decoupled": ("dni", {"mode": "update_decoupled"}),
    "update_decoupled, labels": ("dni", {"mode": "update_decoupled", "conditioned": True}),
    "fully_decoupled": ("dni", FULLY),
    "fully_decoupled, I frozen": ("dni", FULLY | {"freeze_inputs": True}),
    "fully_decoupled, first group blocked": ("dni", FULLY | {"block_first": True}),
}
BASELINE = "backprop (ddp)"


def train_all(data: str, quick: bool, trials: Path | None) -> list[dict] | None:
    """One rank's program; rank 0 returns all trainings."""
    from mpi4py import MPI

    trainings = Trainings(trials)
    done = trainings.rows
    curve: list[tuple[int, float, float]] = []

    def remember(progress) -> None:
        curve.append((progress.step, progress.seconds, progress.metric))

    def train(name: str, wanted: list[tuple[str, float, int]]) -> None:
        workload, epochs = WORKLOADS[name]
        epochs = 2 if quick else epochs
        known = {(r["workload"], r["epochs"], r["method"], r["rate"], r["seed"]) for r in done}
        wanted = [w for w in wanted if (name, epochs, *w) not in known]
        configurations = (
            {
                "workload": workload,
                "method": METHODS[method][0],
                "hyperparameters": METHODS[method][1]
                | {"optimizer": "adamw", "learning_rate": rate, "batch_size": BATCH_SIZE // NUM_RANKS},
                "epochs": epochs,
                "seed": seed,
                "data": data,
            }
            for method, rate, seed in wanted
        )
        for outcome, (method, rate, seed) in zip(
            evaluate_all(configurations, on_progress=remember), wanted, strict=False
        ):
            key = {"workload": name, "epochs": epochs, "method": method, "rate": rate, "seed": seed}
            waited = outcome.metrics.get("seconds_waiting", 0.0) / outcome.seconds
            test = outcome.metrics.get("test_accuracy", 0.0)
            trainings.add(key | {"curve": curve[:], "test": test, "waited": waited}, shown=key | {"test": test})
            curve.clear()

    for name in WORKLOADS:
        train(name, [(method, rate, SEEDS[0]) for method in METHODS for rate in (RATES[1:2] if quick else RATES)])
        rates = {method: tuned([r for r in done if r["workload"] == name], method) for method in METHODS}
        train(name, [(method, rates[method], seed) for method in METHODS for seed in SEEDS[1 : 1 if quick else None]])
    return done if MPI.COMM_WORLD.rank == 0 else None


def tuned(results: list[dict], method: str) -> float:
    """The learning rate with which a method validates best with seed 0."""
    pilot = [r for r in results if (r["method"], r["seed"]) == (method, SEEDS[0])]
    return best_rate(pilot, lambda r: r["curve"][-1][2]) if pilot else RATES[0]  # a rank that only obeys


def summarize(results: list[dict]) -> list[dict]:
    """One row for each workload and method: validation accuracy after parts of the steps and of backprop's time."""
    rows = []
    for name in WORKLOADS:
        of_workload = [r for r in results if r["workload"] == name]
        rates = {method: tuned(of_workload, method) for method in METHODS}
        mine = {m: [r for r in of_workload if (r["method"], r["rate"]) == (m, rates[m])] for m in METHODS}
        base = statistics.median(r["curve"][-1][1] for r in mine[BASELINE])
        for method, trials in mine.items():
            curves = [r["curve"] for r in trials]
            rows.append(
                {
                    "workload": name,
                    "method": method,
                    "rate": rates[method],
                    "after_a_tenth_of_the_steps": _median(c[max(0, len(c) // 10 - 1)][2] for c in curves),
                    "after_all_steps": _median(c[-1][2] for c in curves),
                    "after_half_of_backprops_time": _median(_at(c, base / 2) for c in curves),
                    "after_backprops_time": _median(_at(c, base) for c in curves),
                    "test": _median(r["test"] for r in trials),
                    "half_range": (max(r["test"] for r in trials) - min(r["test"] for r in trials)) / 2,
                    "ms_per_step": 1000 * _median(c[-1][1] / c[-1][0] for c in curves),
                    "waiting": _median(r["waited"] for r in trials),
                }
            )
    return rows


def _median(values) -> float:
    return statistics.median(values)


def _at(curve: list, seconds: float) -> float:
    return max((accuracy for _, passed, accuracy in curve if passed <= seconds), default=0.0)


def table(rows: list[dict]) -> str:
    head = "| workload | method | rate | 1/10 of the steps | all steps | half of backprop's time | backprop's time "
    lines = [head + "| test | step | waiting |", "| --- " * 10 + "|"]
    for r in rows:
        shown = (
            "after_a_tenth_of_the_steps",
            "after_all_steps",
            "after_half_of_backprops_time",
            "after_backprops_time",
        )
        values = " | ".join(f"{100 * r[name]:.1f}" for name in shown)
        test = f"{100 * r['test']:.1f} ± {100 * r['half_range']:.1f}"
        lines.append(
            f"| {r['workload']} | {r['method']} | {r['rate']:g} | {values} | {test} | {r['ms_per_step']:.2f} ms "
            f"| {r['waiting']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: list[dict], file: Path) -> None:
    """Validation accuracy against iterations and against seconds, the median seed by its last value."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "atoll"
    figure, axes = pyplot.subplots(len(WORKLOADS), 2, figsize=(12, 8))
    for row, name in zip(axes, WORKLOADS, strict=True):
        of_workload = [r for r in results if r["workload"] == name]
        for number, method in enumerate(METHODS):
            rate = tuned(of_workload, method)
            trials = [r for r in of_workload if (r["method"], r["rate"]) == (method, rate)]
            curve = sorted(trials, key=lambda r: r["curve"][-1][2])[len(trials) // 2]["curve"]
            steps, seconds, accuracy = zip(*curve, strict=True)
            for axis, x in zip(row, (steps, seconds), strict=True):
                axis.plot(x, accuracy, color=f"C{number}", label=method)
        row[0].set(title=name, xlabel="iterations", ylabel="validation accuracy")
        row[1].set(title=name, xlabel="training time, s")
        for axis in row:
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], "two epochs, one seed", "cifar10_subset.npz")
    results = on_ranks(NUM_RANKS, lambda: train_all(options.data, options.quick, options.trials))
    if results is None:
        return
    rows = summarize(results)
    words = "Medians of seeds 0, 1, 2 on two ranks, in percent; validation accuracy, and test accuracy of the trained "
    words += "network ± half its range."
    figure = ("Accuracy against iterations and time", lambda file: draw(results, file))
    title = "Synthetic gradients against backpropagation"
    report(options, title, words, table(rows), {"ranks": NUM_RANKS, "rows": rows}, figure)


if __name__ == "__main__":
    main()
