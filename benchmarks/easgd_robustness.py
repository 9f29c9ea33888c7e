"""Sensitivity of DOWNPOUR, EASGD and EAMSGD to the communication period: the central claim of Zhang 2016, chapter 4.

python benchmarks/easgd_robustness.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

4 ranks, the asynchronous forms, beta = 0.9, alpha = beta/p, delta = 0.99, batches of 8 per rank.

- digits_mlp: tau in {1, 4, 16, 64, 256}, seeds 0, 1, 2, constant rates: the three of table 4.1 by method, times 20
  for DOWNPOUR, 4 for EASGD, 1 for EAMSGD. Zhang trains for hours with batches of 128, this script for 2,340 steps; at
  tau = 1 the factors put the largest rate within a factor of 5 of divergence (a pilot on validation accuracy, seed 0).
  At the largest rate also with gamma = 0.001 (figure 4.13), so that the last rate is 0.55 of the first. SGD, MSGD, ASGD
  and MVASGD take as many steps on one rank as each worker, with the rates of EASGD, or EAMSGD for MSGD.
- cifar10_subset: a narrow version of the 7-layer network (8, 16, 16 channels, 64 units), 13,440 steps, tau in
  {1, 16, 64}, seed 0, one rate per method with cosine decay: DOWNPOUR 0.02, EASGD 0.1, EAMSGD 0.002, the better of two
  in a pilot at tau = 1 on validation accuracy.

The results are test accuracies of the trained center by two protocols: the rate with the best mean validation accuracy
at tau = 1 is kept as tau grows, or the best one is chosen for each tau, as Zhang does (section 4.2); of equal ones the
smaller. A trial that diverges counts as chance level, 0.1, and is marked.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comparison import Trainings, best_rate, mean_and_range, parse_options, report
from job import evaluate_all, on_ranks

RATES = {"downpour": (0.1, 0.02, 0.01), "easgd": (0.2, 0.04, 0.02), "eamsgd": (0.01, 0.005, 0.001)}
SEQUENTIAL = {"sgd": RATES["easgd"], "msgd": RATES["eamsgd"], "asgd": RATES["easgd"], "mvasgd": RATES["easgd"]}
CIFAR_RATES = {"downpour": 0.02, "easgd": 0.1, "eamsgd": 0.002}
MOMENTUM = {"eamsgd": 0.99, "msgd": 0.99}
NUM_RANKS, BATCH_SIZE, CHANCE, GAMMA, EPOCHS = 4, 8, 0.1, 1e-3, 60
DIGITS, CIFAR = "digits_mlp", "cifar10_subset, narrow cnn7"
NARROW = f"{Path(__file__).resolve().parent}/narrow.py:NarrowCifar10"
KEYS = ("workload", "epochs", "method", "tau", "rate", "gamma", "seed")

Rows = Sequence[dict[str, Any]]


def plan(num_ranks: int, quick: bool) -> Iterator[dict]:
    """The trainings on so many ranks."""
    seeds, epochs = ((0,), 8) if quick else ((0, 1, 2), EPOCHS)
    digits = {"workload": DIGITS, "epochs": epochs}
    if num_ranks == 1:
        digits["epochs"] = epochs // NUM_RANKS
        for method, rates in SEQUENTIAL.items():
            for rate in rates[1:2] if quick else rates:
                yield from (
                    digits | {"method": method, "tau": 0, "rate": rate, "gamma": 0.0, "seed": seed} for seed in seeds
                )
        return
    for tau in (1, 64) if quick else (1, 4, 16, 64, 256):
        for method, rates in RATES.items():
            decayed = [(rates[0], GAMMA)] if not quick else []
            for rate, gamma in [(rate, 0.0) for rate in (rates[1:2] if quick else rates)] + decayed:
                yield from (
                    digits | {"method": method, "tau": tau, "rate": rate, "gamma": gamma, "seed": seed}
                    for seed in seeds
                )
    cifar = {"workload": CIFAR, "epochs": 1 if quick else 80, "gamma": 0.0, "seed": 0}
    for tau in (1, 64) if quick else (1, 16, 64):
        yield from (cifar | {"method": method, "tau": tau, "rate": rate} for method, rate in CIFAR_RATES.items())


def _configuration(entry: dict, data: str) -> dict:
    schedule = {"schedule": "cosine"} if entry["workload"] == CIFAR else {"schedule": "constant"}
    if entry["gamma"]:
        schedule = {"schedule": "inverse_sqrt", "lr_decay": entry["gamma"]}
    hyperparameters = {
        "learning_rate": entry["rate"],
        "momentum": MOMENTUM.get(entry["method"], 0.0),
        "batch_size": BATCH_SIZE,
    }
    return {
        "workload": NARROW if entry["workload"] == CIFAR else entry["workload"],
        "method": entry["method"],
        "hyperparameters": hyperparameters | schedule | ({"tau": entry["tau"]} if entry["tau"] else {}),
        "epochs": entry["epochs"],
        "seed": entry["seed"],
        "data": data,
    }


def train_all(data: str, quick: bool, trials: Path | None) -> list[dict] | None:
    """A rank's program; rank 0 returns all trainings."""
    from mpi4py import MPI

    trainings = Trainings(trials)
    known = {tuple(row[key] for key in KEYS) for row in trainings.rows}
    wanted = [e for e in plan(MPI.COMM_WORLD.size, quick) if tuple(e[key] for key in KEYS) not in known]
    # the outcomes first: their end dismisses the other ranks, which have none
    for outcome, entry in zip(evaluate_all(_configuration(e, data) for e in wanted), wanted, strict=False):
        complete = outcome.state == "complete"
        trainings.add(
            entry
            | {
                "validation": outcome.objective if complete else CHANCE,
                "test": outcome.metrics["test_accuracy"] if complete else CHANCE,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 2),
            }
        )
    return trainings.rows or None


# Tables.


def by_tau(rows: Rows, **chosen: object) -> dict[int, list[dict]]:
    """The trainings of a method with these settings, by communication period."""
    found: dict[int, list[dict]] = defaultdict(list)
    for row in rows:
        if all(row[key] == value for key, value in chosen.items()):
            found[row["tau"]].append(row)
    return found


def tuned(rows: Rows, tau: int, method: str) -> float:
    """The constant rate that validates best at a period."""
    return best_rate(by_tau(rows, method=method, gamma=0.0)[tau])


def _cell(rows: Rows) -> str:
    """Mean test accuracy in percent, and half the range if there are several seeds."""
    diverged = sum(row["reason"] is not None for row in rows)
    return mean_and_range([100 * row["test"] for row in rows]) + (f" ({diverged} diverged)" if diverged else "")


def _row(label: str, by_period: dict[int, list[dict]], taus: Sequence[int]) -> str:
    cells = [_cell(by_period[tau]) for tau in taus]
    first, last = (statistics.mean(row["test"] for row in by_period[tau]) for tau in (taus[0], taus[-1]))
    seeds = len({row["seed"] for tau in taus for row in by_period[tau]})
    return f"| {label} | {seeds} | {' | '.join(cells)} | {100 * (last - first):+.1f} |"


def table(rows: Rows) -> str:
    """Both protocols, the sequential comparators and all rates, as Markdown."""
    lines = []
    for workload in (DIGITS, CIFAR):
        mine = [row for row in rows if row["workload"] == workload]
        taus = sorted({row["tau"] for row in mine if row["tau"]})
        head = f"| method, rate | seeds | {' | '.join(f'tau = {tau}' for tau in taus)} | first to last, points |"
        head += "\n| --- " + "| --- " * (len(taus) + 2) + "|"
        methods = [m for m in RATES if any(row["method"] == m for row in mine)]
        lines += [f"## {workload}", "", "### The rate tuned once, at the shortest period", "", head]
        for method in methods:
            rate = tuned(mine, taus[0], method)
            lines.append(_row(f"{method}, {rate:g}", by_tau(mine, method=method, rate=rate, gamma=0.0), taus))
        if workload == CIFAR:
            lines.append("\nOne rate was tried for each method, so it cannot be tuned for each period.\n")
            continue
        lines += ["", "### The rate tuned for each period (Zhang 2016, section 4.2)", "", head]
        for method in methods:
            rates = {tau: tuned(mine, tau, method) for tau in taus}
            best = {tau: by_tau(mine, method=method, rate=rates[tau], gamma=0.0)[tau] for tau in taus}
            lines.append(_row(f"{method}, {', '.join(f'{rates[tau]:g}' for tau in taus)}", best, taus))
        lines += ["", "### Every rate", "", head]
        for method in methods:
            for rate, gamma in sorted({(row["rate"], row["gamma"]) for row in mine if row["method"] == method}):
                decay = f", gamma {gamma:g}" if gamma else ""
                label = f"{method}, {rate:g}{decay}"
                lines.append(_row(label, by_tau(mine, method=method, rate=rate, gamma=gamma), taus))
        lines += ["", "### One rank, as many steps as each worker", ""]
        lines += ["| method | rate, tuned | seeds | test accuracy |", "| --- | --- | --- | --- |"]
        for method in (m for m in SEQUENTIAL if any(row["method"] == m for row in mine)):
            rate = tuned(mine, 0, method)
            found = by_tau(mine, method=method, rate=rate)[0]
            lines.append(f"| {method} | {rate:g} | {len(found)} | {_cell(found)} |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: Rows, file: Path) -> None:
    """Test accuracy against the period, with the rate tuned once and for each period."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "atoll"  # the same figures make the same file
    from matplotlib import pyplot as plt

    colors = {"downpour": "#d55e00", "easgd": "#0072b2", "eamsgd": "#009e73"}
    titles = ((DIGITS, False, "tuned at tau = 1"), (DIGITS, True, "tuned for each tau"), (CIFAR, False, "one rate"))
    figure, axes = plt.subplots(1, 3, figsize=(14, 3.6))
    for axis, (workload, each, title) in zip(axes, titles, strict=True):
        mine = [row for row in rows if row["workload"] == workload]
        taus = sorted({row["tau"] for row in mine if row["tau"]})
        for method in (m for m in RATES if any(row["method"] == m for row in mine)):
            rates = [tuned(mine, tau if each else taus[0], method) for tau in taus]
            tests = [
                [r["test"] for r in by_tau(mine, method=method, rate=rate, gamma=0.0)[tau]]
                for tau, rate in zip(taus, rates, strict=True)
            ]
            means = [statistics.mean(of) for of in tests]
            spread = [[m - min(of) for m, of in zip(means, tests, strict=True)]]
            spread.append([max(of) - m for m, of in zip(means, tests, strict=True)])
            labels = [str(tau) for tau in taus]
            axis.errorbar(labels, means, spread, label=method, color=colors[method], marker="o", capsize=3)
        axis.set(title=f"{workload}: {title}", xlabel="communication period tau, steps", ylabel="test accuracy")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Train what is not known yet, and write the table."""
    quick = "one rate, one seed, two periods, short trainings"
    options = parse_options(__doc__.splitlines()[0], quick, "cifar10_subset.npz")
    rows: list[dict] = []
    for num_ranks in (NUM_RANKS, 1):
        found = on_ranks(num_ranks, lambda: train_all(options.data, options.quick, options.trials))
        if found is None:
            return
        rows = found if options.trials else rows + found
    words = "Test accuracy in percent: the mean over seeds, ± half their range; one seed has no range."
    content = {"ranks": NUM_RANKS, "trials": rows}
    figure = ("The same as a figure", lambda file: draw(rows, file))
    report(options, "Test accuracy against the communication period", words, table(rows), content, figure)


if __name__ == "__main__":
    main()
