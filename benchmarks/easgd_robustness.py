"""Sensitivity of DOWNPOUR, EASGD and EAMSGD to the communication period: the central claim of Zhang 2016, chapter 4.

python benchmarks/easgd_robustness.py [--quick] [--data FOLDER] [--output FOLDER] [--json FILE]

4 ranks, the asynchronous forms, beta = 0.9, alpha = beta/p, delta = 0.99, batches of 8 per rank.

- digits_mlp: tau in {1, 4, 16, 64}, seeds 0, 1, 2, constant rates: the three of table 4.1 for each method, times 20 for
  DOWNPOUR, 4 for EASGD, 1 for EAMSGD. Zhang trains for hours with batches of 128, this script for 2,340 steps; at
  tau = 1 the factors put the largest rate within a factor of 5 of divergence (a pilot on validation accuracy, seed 0).
- cifar10_subset (if --data or ATOLL_DATA has it): a narrow version of the 7-layer network (8, 16, 16 channels, 64
  units), 13,440 steps, tau in {1, 16, 64}, seed 0, one rate per method with cosine decay: DOWNPOUR 0.02, EASGD 0.1,
  EAMSGD 0.002, the better of two in a pilot at tau = 1 on validation accuracy.

The results are the test accuracies of the trained center for each rate, and for the rate with the best mean validation
accuracy at tau = 1, kept fixed as tau grows. A trial that diverges counts as chance level, 0.1, and is marked. Writes a
table (easgd_robustness.md), a figure, and the numbers as JSON.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from comparison import to_json, write
from job import evaluate_all, on_ranks

RATES = {"downpour": (0.1, 0.02, 0.01), "easgd": (0.2, 0.04, 0.02), "eamsgd": (0.01, 0.005, 0.001)}
CIFAR_RATES = {"downpour": 0.02, "easgd": 0.1, "eamsgd": 0.002}
MOMENTUM = {"downpour": 0.0, "easgd": 0.0, "eamsgd": 0.99}
NUM_RANKS, BATCH_SIZE, CHANCE = 4, 8, 0.1
NARROW = f"{Path(__file__).resolve().parent}/narrow.py:NarrowCifar10"


def plan(quick: bool, with_cifar: bool) -> list[dict]:
    """The entries of all trainings."""
    seeds = (0,) if quick else (0, 1, 2)
    digits = [
        {"workload": "digits_mlp", "epochs": 10 if quick else 60, "method": m, "tau": tau, "rate": rate, "seed": seed}
        for m, rates in RATES.items()
        for tau in ((1, 64) if quick else (1, 4, 16, 64))
        for rate in (rates[1:2] if quick else rates)
        for seed in seeds
    ]
    cifar = [
        {"workload": NARROW, "epochs": 1 if quick else 80, "method": m, "tau": tau, "rate": rate, "seed": seed}
        for m, rate in CIFAR_RATES.items()
        for tau in ((1, 64) if quick else (1, 16, 64))
        for seed in (0,)
    ]
    return digits + (cifar if with_cifar else [])


def train_all(entries: list[dict], data: str | None) -> list[dict]:
    """One rank's program; rank 0 returns the results."""
    results = []
    configurations = (
        {
            "workload": entry["workload"],
            "method": entry["method"],
            "hyperparameters": {
                "tau": entry["tau"],
                "learning_rate": entry["rate"],
                "momentum": MOMENTUM[entry["method"]],
                "batch_size": BATCH_SIZE,
                "schedule": "cosine" if entry["workload"] == NARROW else "constant",
            },
            "epochs": entry["epochs"],
            "seed": entry["seed"],
            "data": data,
        }
        for entry in entries
    )
    # the outcomes first: their end dismisses the other ranks, which have none
    for outcome, entry in zip(evaluate_all(configurations), entries, strict=False):
        complete = outcome.state == "complete"
        results.append(
            entry
            | {
                "validation_accuracy": outcome.objective if complete else CHANCE,
                "test_accuracy": outcome.metrics["test_accuracy"] if complete else CHANCE,
                "reason": outcome.reason,
                "seconds": outcome.seconds,
            }
        )
        print(f"{len(results)}/{len(entries)} {results[-1]}", file=sys.stderr, flush=True)
    return results


def summarize(results: list[dict]) -> dict[str, dict[str, dict[float, dict[int, dict]]]]:
    """Workload -> method -> rate -> tau -> accuracies over seeds."""
    trials: dict[tuple, list[dict]] = defaultdict(list)
    for r in results:
        name = "cifar10_subset, narrow cnn7" if r["workload"].endswith(":NarrowCifar10") else r["workload"]
        trials[name, r["method"], r["rate"], r["tau"]].append(r)
    summary: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for (name, method, rate, tau), group in trials.items():
        summary[name][method][rate][tau] = {
            "validation": statistics.mean(r["validation_accuracy"] for r in group),
            "test": statistics.mean(r["test_accuracy"] for r in group),
            "test_all": [r["test_accuracy"] for r in group],
            "diverged": sum(r["reason"] is not None for r in group),
        }
    return summary


def tuned(rates: dict[float, dict[int, dict]]) -> float:
    """The rate that validates best at the shortest period; of equal ones the largest."""
    return max(rates, key=lambda rate: (rates[rate][min(rates[rate])]["validation"], rate))


def table(summary: dict) -> str:
    lines = []
    for workload, methods in summary.items():
        taus = sorted(next(iter(next(iter(methods.values())).values())))
        head = " | ".join(f"tau = {t}" for t in taus)
        lines += [
            f"## {workload}",
            "",
            f"| method | rate | {head} | from first to last |",
            "| --- " * (len(taus) + 3) + "|",
        ]
        for method, rates in methods.items():
            for rate, rows in rates.items():
                cells = []
                for tau in taus:
                    row = rows[tau]
                    spread = max(row["test_all"]) - min(row["test_all"])
                    word = f", {row['diverged']} diverged" if row["diverged"] else ""
                    cells.append(f"{row['test']:.3f} (± {spread / 2:.3f}{word})")
                change = 100 * (rows[taus[-1]]["test"] - rows[taus[0]]["test"])
                mark = " (tuned at tau = 1)" if rate == tuned(rates) else ""
                lines.append(f"| {method} | {rate:g}{mark} | {' | '.join(cells)} | {change:+.1f} points |")
        lines.append("")
    return "\n".join(lines)


def draw(summary: dict, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "atoll"  # the same figures make the same file
    from matplotlib import pyplot as plt

    colors = {"downpour": "#d55e00", "easgd": "#0072b2", "eamsgd": "#009e73"}
    figure, axes = plt.subplots(1, len(summary), figsize=(5 * len(summary), 3.6), squeeze=False)
    for axis, (workload, methods) in zip(axes[0], summary.items(), strict=True):
        for method, rates in methods.items():
            rows = rates[tuned(rates)]
            taus = sorted(rows)
            means = [rows[t]["test"] for t in taus]
            below = [m - min(rows[t]["test_all"]) for t, m in zip(taus, means, strict=True)]
            above = [max(rows[t]["test_all"]) - m for t, m in zip(taus, means, strict=True)]
            labels = [str(t) for t in taus]
            axis.errorbar(
                labels,
                means,
                [below, above],
                label=f"{method}, rate {tuned(rates):g}",
                color=colors[method],
                marker="o",
                capsize=3,
            )
        axis.set(title=workload, xlabel="communication period tau, steps", ylabel="test accuracy of the center")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one rate, one seed, two periods, short trainings")
    parser.add_argument("--data", default=os.environ.get("ATOLL_DATA"), help="folder of cifar10_subset.npz")
    parser.add_argument("--output", metavar="FOLDER", help="write table, figure and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    with_cifar = options.data is not None and (Path(options.data) / "cifar10_subset.npz").is_file()
    entries = plan(options.quick, with_cifar)
    results = on_ranks(NUM_RANKS, lambda: train_all(entries, options.data) or None)
    if results is None:
        return
    summary = summarize(results)
    text = table(summary)
    command = f"python benchmarks/easgd_robustness.py{' --quick' if options.quick else ''}"
    content = {
        "command": command,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "ranks": NUM_RANKS,
        "seeds": sorted({r["seed"] for r in results}),
        "summary": summary,
        "trials": [r | {"workload": r["workload"].rpartition("/")[2]} for r in results],
    }
    if options.output:
        folder = Path(options.output)
        head = f"# Test accuracy against the communication period\n\n`{command}`, seeds {content['seeds']}, "
        head += f"{NUM_RANKS} ranks on {content['machine']}. Mean over seeds (± half their range).\n\n"
        picture = "![The same as a figure](easgd_robustness.svg)\n"
        (folder / "easgd_robustness.md").write_text(head + text + "\n" + picture)
        (folder / "easgd_robustness.json").write_text(to_json(content))
        draw(summary, folder / "easgd_robustness.svg")
    write(options, content)
    if options.json != "-":
        print(text)


if __name__ == "__main__":
    main()
