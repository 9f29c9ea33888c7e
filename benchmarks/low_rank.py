"""OIALR and AB training against their full-rank baseline: quality, size and traffic (Coquelin 2024, chapters 4 and 5).

python benchmarks/low_rank.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

The published counterparts are tables 4.3, 4.4, 5.1 and 5.3. 4 ranks as two virtual nodes of two, AdamW with cosine
decay, seeds 0, 1, 2. On cifar10_subset.npz a vision transformer of width 96 and a VGG16 with an eighth of its channels,
16 epochs in batches of 16 per rank; on ETTh1.csv an Autoformer of width 32, 4 epochs. All methods train a workload with
the same learning rate, the better of two for the baseline by its validation metric with seed 0; everything else is the
methods' defaults, and AB training's groups are the nodes.

The results are means over seeds on the test data, the sizes to train and to store, and the traffic, in total and
between nodes. Each training is added to the file of --trials at once, and is not repeated.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from comparison import Trainings, best_rate, parse_options, report
from job import evaluate_all, on_ranks

NUM_RANKS, PER_NODE, BATCH_SIZE, SEEDS = 4, 2, 16, (0, 1, 2)
RATES = (1e-3, 3e-3)
NARROW = Path(__file__).resolve().parent / "narrow.py"
WORKLOADS = {
    "ViT, width 96": {"workload": "cifar10_mini_vit_small", "epochs": 16},
    "VGG16, an eighth": {"workload": f"{NARROW}:NarrowVgg16", "epochs": 16},
    "Autoformer, width 32": {"workload": f"{NARROW}:NarrowAutoformer", "epochs": 4},
}
METHODS = {
    "baseline (ddp)": ("ddp", {}),
    "OIALR": ("oialr", {}),
    "AB": ("ab", {"group_size": PER_NODE}),
    "AB without groups": ("ab", {"merge": "only_b"}),
}
BASELINE = "baseline (ddp)"


def train_all(data: str, quick: bool, trials: Path | None) -> list[dict] | None:
    """One rank's program; rank 0 returns all trainings."""
    trainings = Trainings(trials)
    done = trainings.rows
    seeds = SEEDS[:1] if quick else SEEDS
    for name, entry in WORKLOADS.items():
        epochs = 1 if quick else entry["epochs"]

        def train(wanted: list[tuple[str, float, int]], name=name, entry=entry, epochs=epochs) -> None:
            known = {(r["workload"], r["epochs"], r["method"], r["rate"], r["seed"]) for r in done}
            wanted = [w for w in wanted if (name, epochs, *w) not in known]
            configurations = (
                {
                    "workload": entry["workload"],
                    "method": METHODS[method][0],
                    "hyperparameters": METHODS[method][1]
                    | {"optimizer": "adamw", "learning_rate": rate, "batch_size": BATCH_SIZE, "min_lr": 1e-5},
                    "epochs": epochs,
                    "seed": seed,
                    "data": data,
                }
                for method, rate, seed in wanted
            )
            # the outcomes first: their end dismisses the other ranks, which have none
            for outcome, (method, rate, seed) in zip(evaluate_all(configurations, PER_NODE), wanted, strict=False):
                if outcome.state != "complete":
                    raise SystemExit(f"{name}, {method}, rate {rate}, seed {seed}: {outcome.reason}")
                key = {"workload": name, "epochs": epochs, "method": method, "rate": rate, "seed": seed}
                trainings.add(key | _row(outcome))

        train([(BASELINE, rate, 0) for rate in (RATES[:1] if quick else RATES)])
        rate = tuned([r for r in done if r["workload"] == name and r["epochs"] == epochs])
        train([(method, rate, seed) for method in METHODS for seed in seeds])
    from mpi4py import MPI

    return done if MPI.COMM_WORLD.rank == 0 else None


def _row(outcome) -> dict:
    kept = ("trainable_share", "compression", "test_accuracy", "test_mse", "test_mae")
    return {
        "validation": outcome.objective,
        "metrics": {name: outcome.metrics[name] for name in kept if name in outcome.metrics},
        "sent": outcome.wire_bytes,
        "sent_between_nodes": sum(row["wire_bytes"] for row in outcome.ledger if row["scope"] == "global"),
        "seconds": outcome.seconds,
    }


def tuned(results: list[dict]) -> float:
    """The learning rate with which the baseline validates best with seed 0; errors are better when small."""
    pilot = [r for r in results if r["method"] == BASELINE and r["seed"] == 0]
    if not pilot:  # a rank that only obeys
        return RATES[0]
    sign = -1 if "test_mse" in pilot[0]["metrics"] else 1
    return best_rate(pilot, lambda r: sign * r["validation"])


def summarize(results: list[dict]) -> list[dict]:
    """One row for each workload and method."""
    rows = []
    for name in WORKLOADS:
        mine = [r for r in results if r["workload"] == name]
        rate = tuned(mine)
        of = {m: [r for r in mine if (r["method"], r["rate"]) == (m, rate)] for m in METHODS}

        def mean(method: str, key: str, of=of) -> float:
            return statistics.mean(r["metrics"].get(key, 1.0) for r in of[method])

        metric = "test_accuracy" if "test_accuracy" in mine[0]["metrics"] else "test_mse"
        for method, trials in of.items():
            values = [r["metrics"][metric] for r in trials]
            sent = {key: statistics.mean(r[key] for r in trials) for key in ("sent", "sent_between_nodes")}
            base = {key: statistics.mean(r[key] for r in of[BASELINE]) for key in sent}
            row = {
                "workload": name,
                "method": method,
                "rate": rate,
                "metric": metric,
                "mean": statistics.mean(values),
                "half_range": (max(values) - min(values)) / 2,
                "to_baseline": statistics.mean(values) - mean(BASELINE, metric),
                "trainable_share": mean(method, "trainable_share"),
                "compression": mean(method, "compression"),
                "sent": sent["sent"],
                "sent_to_baseline": sent["sent"] / base["sent"],
                "between_nodes_to_baseline": sent["sent_between_nodes"] / base["sent_between_nodes"],
            }
            if metric == "test_mse":
                row["test_mae"] = mean(method, "test_mae")
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    head = "| network | method | test | to baseline | trainable | compression | sent | of baseline | between nodes |"
    lines = [head, "| --- " * 9 + "|"]
    for r in rows:
        percent = r["metric"] == "test_accuracy"
        value = f"{100 * r['mean']:.1f} ± {100 * r['half_range']:.1f} %" if percent else _errors(r)
        change = f"{100 * r['to_baseline']:+.1f} points" if percent else f"{r['to_baseline']:+.4f}"
        lines.append(
            f"| {r['workload']} | {r['method']} | {value} | {change} | {r['trainable_share']:.1%} "
            f"| {r['compression']:.2f} : 1 | {r['sent'] / 1e6:.0f} MB | {r['sent_to_baseline']:.1%} "
            f"| {r['between_nodes_to_baseline']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def _errors(row: dict) -> str:
    return f"MSE {row['mean']:.4f} ± {row['half_range']:.4f}, MAE {row['test_mae']:.4f}"


def draw(rows: list[dict], file: Path) -> None:
    """Quality against traffic between nodes, one panel a workload."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "atoll"
    figure, axes = pyplot.subplots(1, len(WORKLOADS), figsize=(13, 4))
    for axis, name in zip(axes, WORKLOADS, strict=True):
        for r in (r for r in rows if r["workload"] == name):
            x = 100 * r["between_nodes_to_baseline"]
            axis.errorbar(x, r["mean"], r["half_range"], marker="o", capsize=3, label=r["method"])
        axis.set(title=name, xlabel="sent between nodes, % of the baseline", ylabel=rows_metric(rows, name))
        axis.set_xlim(0, None)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def rows_metric(rows: list[dict], workload: str) -> str:
    return next(r["metric"] for r in rows if r["workload"] == workload).replace("_", " ")


def main() -> None:
    data = "cifar10_subset.npz and ETTh1.csv"
    options = parse_options(__doc__.splitlines()[0], "one epoch, one rate, one seed", data)
    results = on_ranks(NUM_RANKS, lambda: train_all(options.data, options.quick, options.trials))
    if results is None:
        return
    rows = summarize(results)
    words = f"Seeds 0, 1, 2 on {NUM_RANKS} ranks: mean ± half their range; traffic is relative to the baseline's."
    content = {"ranks": NUM_RANKS, "rows": rows, "trials": results}
    figure = ("Quality against traffic", lambda file: draw(rows, file))
    report(options, "Low-rank against full-rank training", words, table(rows), content, figure)


if __name__ == "__main__":
    main()
