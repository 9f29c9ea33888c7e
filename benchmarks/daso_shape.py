"""DASO's accuracy against B and S: the shape of Coquelin 2024, table 3.1, with small networks on 8 nodes.

python benchmarks/daso_shape.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Eight ranks, each a node of its own, B and S constant, no warm-up or cool-down, sums in float32, batches of 8 per rank,
SGD with momentum 0.9, weight decay 1e-4, and the rate divided by 10 after a third, two thirds and eight ninths of the
epochs, as in Goyal et al. 2017. digits_cnn trains for 30 epochs (510 steps), seeds 0, 1, 2; on cifar10_subset.npz the
7-layer network with an eighth of its channels for 20, seed 0. The rate of each network is the best of three at
B = 1, S = 0 by validation accuracy, of equal ones the smallest, and stays for all B and S.

The source's claims are that the accuracy falls as B grows, at S = 0, and is higher at S = B than at smaller S. Its
networks train for 112,500 steps and more on 32 GPUs, where B = 32 leaves 3,500 synchronizations; here it leaves 16.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comparison import Trainings, best_rate, mean_and_range, parse_options, report
from job import evaluate_all, on_ranks

NUM_NODES, BATCH_SIZE = 8, 8
NARROW = f"{Path(__file__).resolve().parent}/narrow.py:NarrowCifar10"
WORKLOADS = {"digits_cnn": ("digits_cnn", 30, (0, 1, 2)), "cifar10 subset, narrow cnn7": (NARROW, 20, (0,))}
RATES = (0.0125, 0.025, 0.05)
# Coquelin 2024, table 3.1: top-1 accuracy of ResNet-50 on ImageNet, on 32 and 128 GPUs.
PUBLISHED = {
    (1, 0): (76.77, 76.54),
    (1, 1): (76.09, 74.92),
    (2, 0): (76.88, 76.30),
    (2, 1): (75.81, 74.89),
    (2, 2): (75.92, 75.09),
    (4, 0): (76.43, 74.35),
    (4, 1): (75.83, 73.30),
    (4, 2): (75.50, 71.96),
    (4, 4): (75.71, 73.86),
    (8, 0): (75.26, 69.27),
    (8, 4): (74.61, 65.47),
    (8, 8): (75.26, 69.67),
    (16, 0): (73.13, 58.54),
    (16, 4): (73.18, 56.89),
    (16, 8): (73.21, 54.53),
    (16, 16): (74.21, 62.37),
    (32, 0): (70.75, 43.69),
    (32, 4): (70.28, 44.06),
    (32, 16): (69.58, 41.25),
    (32, 32): (72.55, 50.95),
}
KEYS = ("workload", "epochs", "B", "S", "rate", "seed")

Rows = Sequence[dict[str, Any]]


def train_all(data: str, quick: bool, trials: Path | None) -> list[dict] | None:
    """A rank's program; rank 0 returns all trainings."""
    trainings = Trainings(trials)
    for name in WORKLOADS:
        _train(trainings, _tuning(name, quick), data)
        # Other ranks than 0 know no trainings, and train what they are told.
        is_tuned = any(row["workload"] == name for row in trainings.rows)
        _train(trainings, _grid(name, quick, trainings.rows) if is_tuned else [], data)
    return trainings.rows or None


def _train(trainings: Trainings, wanted: list[dict], data: str) -> None:
    known = {tuple(row[key] for key in KEYS) for row in trainings.rows}
    wanted = [entry for entry in wanted if tuple(entry[key] for key in KEYS) not in known]
    # the outcomes first: their end dismisses the other ranks, which have none
    configurations = (_configuration(entry, data) for entry in wanted)
    for outcome, entry in zip(evaluate_all(configurations, ranks_per_node=1), wanted, strict=False):
        complete = outcome.state == "complete"
        accuracies = {
            "validation": outcome.objective if complete else 0.1,
            "test": outcome.metrics["test_accuracy"] if complete else 0.1,
        }
        trainings.add(entry | accuracies | {"reason": outcome.reason, "seconds": round(outcome.seconds, 2)})


def _entry(name: str, quick: bool, b: int, s: int, rate: float, seed: int) -> dict:
    epochs = 2 if quick else WORKLOADS[name][1]
    return {"workload": name, "epochs": epochs, "B": b, "S": s, "rate": rate, "seed": seed}


def _seeds(name: str, quick: bool) -> tuple[int, ...]:
    return (0,) if quick else WORKLOADS[name][2]


def _tuning(name: str, quick: bool) -> list[dict]:
    rates = RATES[:1] if quick else RATES
    return [_entry(name, quick, 1, 0, rate, seed) for rate in rates for seed in _seeds(name, quick)]


def _grid(name: str, quick: bool, rows: Rows) -> list[dict]:
    rate = tuned(rows, name)
    cells = [(1, 0), (4, 4)] if quick else list(PUBLISHED)
    return [_entry(name, quick, b, s, rate, seed) for b, s in cells for seed in _seeds(name, quick)]


def _configuration(entry: dict, data: str) -> dict:
    settings = {
        "learning_rate": entry["rate"],
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": BATCH_SIZE,
        "schedule": "step",
        "decay_rate": 0.1,
        "milestones": "1/3,2/3,8/9",
    }
    own = {"B": entry["B"], "S": entry["S"], "adaptive": False, "warmup_epochs": 0, "cooldown_epochs": 0}
    return {
        "workload": WORKLOADS[entry["workload"]][0],
        "method": "daso",
        "hyperparameters": settings | own | {"wire": "float32"},
        "epochs": entry["epochs"],
        "seed": entry["seed"],
        "data": data,
    }


def tuned(rows: Rows, name: str) -> float:
    """The rate that validates best at B = 1, S = 0."""
    return best_rate(row for row in rows if (row["workload"], row["B"], row["S"]) == (name, 1, 0))


def accuracies(rows: Rows, name: str, rate: float) -> dict[tuple[int, int], list[float]]:
    """The test accuracies in percent of each B and S, over seeds."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        if (row["workload"], row["rate"]) == (name, rate):
            found.setdefault((row["B"], row["S"]), []).append(100 * row["test"])
    return found


def table(rows: Rows) -> str:
    """Ours next to the published accuracies, as Markdown, and what becomes of the two claims."""
    names = [name for name in WORKLOADS if any(row["workload"] == name for row in rows)]
    rates = {name: tuned(rows, name) for name in names}
    found = {name: accuracies(rows, name, rates[name]) for name in names}
    heads = [f"{name}, rate {rates[name]:g}" for name in names]
    lines = [f"| B | S | {' | '.join(heads)} | published, 32 GPUs | 128 GPUs |", "| --- " * (4 + len(names)) + "|"]
    for (b, s), (of_32, of_128) in PUBLISHED.items():
        cells = [mean_and_range(found[name].get((b, s), [])) for name in names]
        lines.append(f"| {b} | {s} | {' | '.join(cells)} | {of_32} | {of_128} |")
    lines += ["", *(line for name in names for line in _claims(name, found[name]))]
    return "\n".join(lines) + "\n"


def _claims(name: str, found: dict[tuple[int, int], list[float]]) -> Iterator[str]:
    means = {cell: statistics.mean(values) for cell, values in found.items()}
    alone = [f"{means[b, 0]:.1f} (B = {b})" for b in (1, 2, 4, 8, 16, 32) if (b, 0) in means]
    yield f"- {name}, S = 0: {', '.join(alone)}."
    for b in (4, 8, 16, 32):
        between = {s: means[other, s] for other, s in means if other == b and 0 < s < b}
        if between and (b, b) in means:
            least, lowest = min(between.items(), key=lambda item: item[1])
            change = means[b, b] - lowest
            yield f"- {name}, B = {b}: S = B has {change:+.1f} points against S = {least}, the lowest between."


def main() -> None:
    """Train what is not known yet, and write the table."""
    options = parse_options(__doc__.splitlines()[0], "two epochs, one seed, two cells", "cifar10_subset.npz")
    rows = on_ranks(NUM_NODES, lambda: train_all(options.data, options.quick, options.trials))
    if rows is None:
        return
    words = "Test accuracy in percent: the mean over seeds, ± half their range; one seed has no range."
    report(options, "DASO's accuracy against B and S", words, table(rows), {"nodes": NUM_NODES, "trials": rows})


if __name__ == "__main__":
    main()
