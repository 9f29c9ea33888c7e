"""The cost of a call of a function, beside the engine's own cost per evaluation and stock Propulate's.

python benchmarks/objective.py [--quick] [--json FILE]

The function is engine.py's empty objective: the squared distance from a point in ten dimensions, with the genetic
operators and a breeding population of 32. Milliseconds per evaluation of one worker, medians of the last 200, over
rounds that alternate:

engine       engine.py's figure: a worker that does nothing, so the loop and the journal alone.
function     atoll.search with mpiexec, one rank: all of it, such as putting back what a function changes.
two ranks    the same on a worker of two ranks, with a sum over the ranks in each call.
stock        Propulate 1.2.2's own loop after as many evaluations, on one rank.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import engine
from comparison import say

import atoll

SPACE = {f"x{n}": atoll.Float(0.0, 1.0) for n in range(engine.DIMENSION)}
WINDOW = 200


def squared(trial: Any) -> float:
    """The squared distance from (0.3, ..., 0.3)."""
    return sum((value - 0.3) ** 2 for value in trial.values())


def summed(trial: Any) -> float:
    """The same, each rank a part of the dimensions."""
    mine = sum((value - 0.3) ** 2 for value in list(trial.values())[trial.comm.rank :: trial.comm.size])
    return float(trial.comm.allreduce(mine))


def milliseconds(function: Any, ranks: int, count: int) -> float:
    """Between the starts of successive trials, the median of the last ones."""
    with tempfile.TemporaryDirectory() as folder:
        study = atoll.search(
            function,
            space=SPACE,
            trials=count,
            ranks=ranks,
            sampler={"name": "propulate", "population": engine.POPULATION},
            name="cost",
            store=Path(folder) / "atoll.db",
            folder=f"{folder}/cost",
            in_process=False,
            show=False,
        )
        starts = study.trials()["started"].sort_values()
    gaps = starts.diff().dt.total_seconds().dropna() * 1000
    return float(gaps[-WINDOW:].median())


def measure(quick: bool) -> dict[str, Any]:
    """All figures."""
    rounds, count = (1, 1000) if quick else (5, 5000)
    measures = {
        "engine": lambda: engine.run_ranks("ours", 1, count)[0]["late_ms"],
        "function": lambda: milliseconds(squared, 1, count),
        "two ranks": lambda: milliseconds(summed, 2, count),
    }
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, of in measures.items():
            figures[name].append(of())
    found = {name: statistics.median(values) for name, values in figures.items()}
    found["stock"] = engine.run_ranks("stock", 1, count)[0]["late_ms"]
    return {
        "evaluations": count,
        "milliseconds": found,
        "rounds": figures,
        "ratio_to_engine": found["function"] / found["engine"],
        "ratio_to_stock": found["function"] / found["stock"],
    }


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as a table."""
    shown = [f"{name:10}{value:8.3f} ms per evaluation" for name, value in figures["milliseconds"].items()]
    return [
        *shown,
        f"a function's call costs {figures['ratio_to_engine']:.2f} times the engine alone, and "
        f"{figures['ratio_to_stock']:.3f} times stock Propulate, after {figures['evaluations']} evaluations",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer evaluations, under a minute")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    figures = measure(options.quick)
    say(options, figures, lines(figures))


if __name__ == "__main__":
    main()
