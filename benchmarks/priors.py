"""What priors gain and cost: the best value with good, vague and wrong priors, and without.

python benchmarks/priors.py [--quick] [--output FOLDER] [--json FILE]

Three functions of six parameters with their optimum at random: a quadratic along the axes, a rotated one, and a rugged
one. A good prior's mode is off by a tenth of each range (one standard deviation; sigma 0.15), a vague one's by a fifth
(sigma 0.25), a wrong one's is at the farther end of each range (sigma 0.15). Four workers on a simulated clock.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from comparison import report
from optuna.distributions import FloatDistribution
from search_quality import SAMPLERS, simulated

from atoll.searchspaces.prior import Prior
from atoll.searchspaces.space import Parameter, SearchSpace

DIMENSION = 6
TASKS = ("quadratic", "rotated", "rugged")
PRIORS = ("none", "good", "vague", "wrong")
USED = ("random", "evolution", "optuna-tpe", "optuna-gp")
AT = (8, 16, 32, 64)


def task(name: str, prior: str, seed: int) -> tuple[SearchSpace, Callable[[dict[str, Any]], float]]:
    """A function's space with priors, and its loss, 0 at the optimum."""
    draws = np.random.default_rng(seed)
    optimum = draws.uniform(0.15, 0.85, DIMENSION)
    turned = np.linalg.qr(draws.normal(size=(DIMENSION, DIMENSION)))[0] if name == "rotated" else np.eye(DIMENSION)
    scales = 10 ** np.linspace(0, 1.5, DIMENSION)
    off = draws.normal(size=DIMENSION)

    def of(place: int) -> Prior | None:
        if prior == "none":
            return None
        if prior == "wrong":
            return Prior(float(optimum[place] < 0.5), 0.15)
        error, sigma = (0.1, 0.15) if prior == "good" else (0.2, 0.25)
        return Prior(float(np.clip(optimum[place] + error * off[place], 0, 1)), sigma)

    names = [f"x{place}" for place in range(DIMENSION)]
    unit = FloatDistribution(0.0, 1.0)
    parameters = (Parameter(name=n, distribution=unit, default=0.5, prior=of(place)) for place, n in enumerate(names))

    def loss(values: dict[str, Any]) -> float:
        away = np.array([values[n] for n in names]) - optimum
        if name == "rugged":
            return float(np.sum(np.abs(away)) + 0.3 * np.sum(1 - np.cos(12 * away)))
        return float(np.sum(scales * (turned @ away) ** 2))

    return SearchSpace(tuple(parameters)), loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, without the Gaussian process")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    seeds, used = (2, USED[:3]) if options.quick else (10, USED)
    figures: dict[str, Any] = {}
    lines = [f"| sampler | task | prior | {' | '.join(f'after {at}' for at in AT)} |", "| --- " * (3 + len(AT)) + "|"]
    for sampler in used:
        for name in TASKS:
            for prior in PRIORS:
                curves = [
                    simulated(*task(name, prior, seed), SAMPLERS[sampler], seed, AT[-1], num_workers=4)
                    for seed in range(seeds)
                ]
                medians = [statistics.median(curve[at - 1] for curve in curves) for at in AT]
                figures.setdefault(sampler, {}).setdefault(name, {})[prior] = medians
                lines.append(f"| {sampler} | {name} | {prior} | {' | '.join(f'{m:.3g}' for m in medians)} |")
    words = f"Medians of the best loss over {seeds} seeds; the optimum is 0."
    report(options, "Priors", words, "\n".join(lines) + "\n", {"seeds": seeds, "at": AT, "figures": figures})


if __name__ == "__main__":
    main()
