"""What DASO's communication dtypes cost in accuracy: digits on two nodes, by optimizer and learning rate.

python benchmarks/daso_wire.py [--quick] [--json FILE]

Two ranks, each a node of its own; digits_mlp for 20 epochs, of which the first and the last 4 are blocking, defaults
otherwise; seeds 0, 1, 2. Validation accuracy in percent, the mean over seeds. `wire` is the dtype while cycling,
`blocking_wire` that of warm-up and cool-down.
"""

from __future__ import annotations

import argparse
import statistics

from comparison import say
from job import evaluate_all, on_ranks

DTYPES = {
    "float32, float32": ("float32", "float32"),
    "bfloat16, bfloat16 (Coquelin 2024)": ("bfloat16", "bfloat16"),
    "bfloat16, float32 (default)": ("bfloat16", "float32"),
    "float16, float16": ("float16", "float16"),
    "float16, float32": ("float16", "float32"),
}
OPTIMIZERS = (("sgd", 0.001), ("adamw", 0.0001), ("sgd", 0.01), ("adamw", 0.001), ("sgd", 0.1))


def train_all(quick: bool) -> dict[str, dict[str, float]] | None:
    """A rank's program; rank 0 returns the accuracies by dtypes and optimizer."""
    seeds, epochs = ((0,), 9) if quick else ((0, 1, 2), 20)
    cells = [(name, *optimizer) for name in DTYPES for optimizer in OPTIMIZERS]
    configurations = (
        {
            "workload": "digits_mlp",
            "method": "daso",
            "hyperparameters": {
                "optimizer": optimizer,
                "learning_rate": rate,
                "wire": DTYPES[name][0],
                "blocking_wire": DTYPES[name][1],
            },
            "epochs": epochs,
            "seed": seed,
        }
        for name, optimizer, rate in cells
        for seed in seeds
    )
    found = [100 * float(outcome.objective or 0.0) for outcome in evaluate_all(configurations, ranks_per_node=1)]
    if not found:
        return None
    rows: dict[str, dict[str, float]] = {name: {} for name in DTYPES}
    for number, (name, optimizer, rate) in enumerate(cells):
        of_cell = found[number * len(seeds) : (number + 1) * len(seeds)]
        rows[name][f"{optimizer} {rate:g}"] = round(statistics.mean(of_cell), 1)
    return rows


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, nine epochs")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    figures = on_ranks(2, lambda: train_all(options.quick))
    if figures is not None:
        say(options, figures, (f"{name}: {row}" for name, row in figures.items()))


if __name__ == "__main__":
    main()
