"""Milliseconds that a proposal takes, by the evolutionary sampler and by Propulate's operators.

python benchmarks/proposals.py [--quick] [--output FOLDER] [--json FILE]

One propagator with the samplers' defaults and a population of 32 proposes one configuration of ten parameters of a kind
after another, and is told its loss (the squared distance from 0.3 in all genes). Medians of 200 successive proposals:
the first ones, and those after 2,000 and 20,000 trials, as clock and as CPU time. Rounds alternate between the
settings; the table has the median of the rounds. The goal is 0.3 ms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison import report
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.platform.search.population import Individual, Population
from atoll.platform.search.propagators import make
from atoll.platform.study.samplers import Evolution, Genetic
from atoll.searchspaces.space import Parameter, SearchSpace

GOAL = 0.3
DIMENSION = 10
POPULATION = 32
WINDOW = 200
KINDS: Mapping[str, BaseDistribution] = {
    "floats": FloatDistribution(0.0, 1.0),
    "integers 0 to 20": IntDistribution(0, 20),
    "integers 1 to 64, log": IntDistribution(1, 64, log=True),
    "6 choices": CategoricalDistribution(list(range(6))),
}
SAMPLERS = {"evolution": Evolution, "propulate": Genetic}


def space_of(distribution: BaseDistribution) -> SearchSpace:
    """Ten parameters alike."""
    names = [f"x{n}" for n in range(DIMENSION)]
    return SearchSpace(tuple(Parameter(name=name, distribution=distribution, default=1) for name in names))


def measured(sampler: str, kind: str, ends: tuple[int, ...], seed: int) -> list[tuple[float, float]]:
    """Milliseconds, clock and CPU, of a proposal in the windows that end after so many trials."""
    population = Population(POPULATION)
    propagator = make(SAMPLERS[sampler](), space_of(KINDS[kind]), population, seed=seed)
    times: list[tuple[float, float]] = []
    for number in range(ends[-1]):
        clock, cpu = time.perf_counter(), time.process_time()
        proposal = propagator.propose(number)
        times.append((1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - cpu)))
        loss = sum((gene - 0.3) ** 2 for gene in proposal.genes.values())
        genes = tuple(proposal.genes.values())
        individual = Individual(number, genes, (loss,), 0, 0, attributes=proposal.attributes)
        population.admit(individual)
        propagator.arrived(individual)
    return [medians(times[end - WINDOW : end]) for end in ends]


def medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    """The median clock time and the median CPU time."""
    clock, cpu = zip(*times, strict=True)
    return statistics.median(clock), statistics.median(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, up to 2,000 trials")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    rounds, ends = (1, (WINDOW, 2000)) if options.quick else (5, (WINDOW, 2000, 20000))
    found: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
    for seed in range(rounds):
        for sampler in SAMPLERS:
            for kind in KINDS:
                found.setdefault((sampler, kind), []).append(measured(sampler, kind, ends, seed))
    figures: dict[str, Any] = {}
    lines = [f"| sampler | ten parameters | {' | '.join(f'after {end:,}' for end in ends)} |"]
    lines.append("| --- " * (2 + len(ends)) + "|")
    for (sampler, kind), of_rounds in found.items():
        at = {end: [one[place] for one in of_rounds] for place, end in enumerate(ends)}
        figures.setdefault(sampler, {})[kind] = {
            str(end): {"milliseconds": medians(times)[0], "cpu_milliseconds": medians(times)[1], "rounds": times}
            for end, times in at.items()
        }
        cells = (f"{clock:.2f} ({cpu:.2f})" for clock, cpu in map(medians, at.values()))
        lines.append(f"| {sampler} | {kind} | {' | '.join(cells)} |")
    words = f"Milliseconds of a proposal, in parentheses CPU time; medians of {rounds} rounds. The goal is {GOAL} ms."
    report(options, "The time of a proposal", words, "\n".join(lines) + "\n", {"goal": GOAL, "figures": figures})


if __name__ == "__main__":
    main()
