"""Whether the bound of `stop: {regret: ...}` is above the true regret, and its cost, on functions with a known optimum.

python benchmarks/regret.py [--quick] [--json FILE]

Random configurations of a quadratic function of 3 and 12 variables, and of one with 10 local minima along each of them
(both with optimum 0 at 0.3 in each variable). After 20 to 1,000 trials: the true regret of the incumbent, our bound,
that of Optuna's RegretBoundEvaluator, and the CPU seconds of ours. Five seeds; medians, and in how many of them the
bound is at least the true regret.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import create_trial

from atoll.platform.search.propagators.optuna_sampler import gene_distribution
from atoll.platform.search.regret import bound
from atoll.searchspaces.space import Parameter, SearchSpace

FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "quadratic": lambda x: (x - 0.3) ** 2,
    "rugged": lambda x: (x - 0.3) ** 2 + 0.05 * (1 - math.cos(20 * math.pi * (x - 0.3))),
}
COUNTS = (20, 50, 100, 200, 400, 1000)


def measured(of: Callable[[float], float], dimensions: int, count: int, seed: int) -> dict[str, float]:
    """The regret and the bounds after so many random trials."""
    names = [f"x{n}" for n in range(dimensions)]
    space = SearchSpace(tuple(Parameter.of_function(name, FloatDistribution(0.0, 1.0)) for name in names))
    draw = random.Random(seed)
    genes = [{parameter.name: draw.random() for parameter in space.parameters} for _ in range(count)]
    losses = [sum(map(of, one.values())) for one in genes]
    distributions = {parameter.name: gene_distribution(parameter) for parameter in space.parameters}
    trials = [
        create_trial(params=dict(one), distributions=distributions, value=loss)
        for one, loss in zip(genes, losses, strict=True)
    ]
    began = time.process_time()
    ours = bound(genes, losses, space, seed).value
    assert ours is not None
    seconds = time.process_time() - began
    optunas = RegretBoundEvaluator(seed=seed).evaluate(trials, StudyDirection.MINIMIZE)
    return {"regret": min(losses), "bound": ours, "optunas_bound": float(optunas), "cpu_seconds": seconds}


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians, and in how many seeds the bounds hold."""
    medians = {name: float(f"{statistics.median(row[name] for row in rows):.3g}") for name in rows[0]}
    holds = {f"{name}_holds": sum(row[name] >= row["regret"] for row in rows) for name in ("bound", "optunas_bound")}
    return medians | holds | {"seeds": len(rows)}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, up to 100 trials")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ExperimentalWarning)
    seeds, counts = (range(2), COUNTS[:3]) if options.quick else (range(5), COUNTS)
    measured(FUNCTIONS["quadratic"], 3, 20, 0)  # imports
    figures: dict[str, Any] = {}
    for name, of in FUNCTIONS.items():
        for dimensions in (3, 12):
            for count in counts:
                found = summary([measured(of, dimensions, count, seed) for seed in seeds])
                figures.setdefault(f"{name}, {dimensions} variables", {})[str(count)] = found
                print(name, dimensions, count, found, file=sys.stderr, flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    content = {"command": f"python benchmarks/regret.py{' --quick' if options.quick else ''}"} | machine
    text = json.dumps(content | {"figures": figures}, indent=1) + "\n"
    if options.json == "-":
        print(text, end="")
    elif options.json:
        Path(options.json).write_text(text)


if __name__ == "__main__":
    main()
