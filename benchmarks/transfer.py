"""What sources of `learn_from` that are related gain and cost: the best value with a good, a bad, both and none.

python benchmarks/transfer.py [--quick] [--output FOLDER] [--json FILE]

The tabulated trainings of digits_mlp (benchmarks/grids.py), four workers on a simulated clock. The target is a study
under one method; a related source has 40 random trials of the same network under another method, over the parameters
that both search, with their real values and ranges. An unrelated source has 40 random configurations of the target's
own space with losses at random; a reversed one has those of the related source with the sign changed. No configuration
of the target is trained for a source, and no trial of a source is counted.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from comparison import report
from search_quality import SAMPLERS, interval, simulated, table_of, table_task

from atoll.platform.study.plan import search_space
from atoll.platform.study.related import Related
from atoll.platform.study.study import Study
from atoll.searchspaces.space import SearchSpace

TASKS = {"daso": ("ddp", "easgd"), "easgd": ("ddp", "daso"), "oialr": ("ddp", "daso")}
SOURCES = ("none", "related", "unrelated", "reversed", "both")
USED = ("evolution", "mixed")
AT = (8, 16, 32)
NUM_TRIALS = 40


def tabulated(name: str) -> tuple[SearchSpace, list[tuple[dict[str, Any], float]]]:
    """A table's space, and its trainings that did not fail: real values and loss."""
    table = table_of(name)
    names = list(search_space(Study(name=name, **table["study"])).limits())
    rows = [
        (dict(zip(names, json.loads(key), strict=True)), loss) for key, loss in table["losses"].items()
        if loss is not None and math.isfinite(loss)
    ]  # fmt: skip
    return search_space(Study(name=name, **table["study"])), rows


def source(target: str, name: str, seed: int, *, sign: float = 1.0) -> Related:
    """Random trials of another method's table over the parameters that the target searches, too.

    The target's parameters are positions on its axes, and the source's values are between and beyond these.
    """
    trained, _ = tabulated(target)
    axes = table_of(target)["axes"]
    _, rows = tabulated(name)
    chosen = random.Random(f"{target}/{name}/{seed}").sample(rows, NUM_TRIALS)
    shared = [p for p in trained.parameters if p.name in rows[0][0] and p.at_most is None]

    def position(parameter: Any, value: Any) -> float | None:
        try:
            place = parameter.place(value)
        except ValueError:
            return None
        points: Sequence[float] = axes[parameter.name]
        if isinstance(points[0], int):
            return points.index(int(place)) if int(place) in points else None
        index = max(0, min(len(points) - 2, sum(point <= place for point in points) - 1))
        return index + (place - points[index]) / (points[index + 1] - points[index])

    trials = []
    for values, loss in chosen:
        places = {p.name: position(p, values[p.name]) for p in shared}
        if None not in places.values():
            trials.append((places, sign * loss))
    return Related(name, tuple(p.name for p in shared), tuple(trials))


def unrelated(target: str, seed: int) -> Related:
    """Configurations of the target with losses at random."""
    space, _ = table_task(target)
    rng = random.Random(f"{target}/{seed}/unrelated")
    rows = [
        ({p.name: p.decode(rng.randint(0, int(p.limits()[1])) if p.limits()[1] != 1.0 else rng.random())
          for p in space.parameters}, rng.random()) for _ in range(NUM_TRIALS)
    ]  # fmt: skip
    return Related("unrelated", tuple(p.name for p in space.parameters), tuple(rows))


def sources_of(target: str, kind: str, seed: int) -> list[Related]:
    """The sources of a kind."""
    first, second = TASKS[target]
    if kind == "none":
        return []
    if kind == "related":
        return [source(target, first, seed), source(target, second, seed)]
    if kind == "unrelated":
        return [unrelated(target, seed)]
    if kind == "reversed":
        return [source(target, first, seed, sign=-1.0)]
    return [*sources_of(target, "related", seed), unrelated(target, seed), source(target, first, seed, sign=-1.0)]


def curve(sampler: str, target: str, kind: str, seed: int) -> list[float]:
    """The best loss above the table's lowest after each finished evaluation."""
    torch.set_num_threads(1)
    lowest = min(loss for _, loss in tabulated(target)[1])
    sources = sources_of(target, kind, seed)
    best = simulated(*table_task(target), SAMPLERS[sampler], seed, AT[-1], num_workers=4, related=sources)
    print(sampler, target, kind, seed, best[-1] - lowest, file=sys.stderr, flush=True)
    return [value - lowest for value in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, one task, `evolution` only")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    seeds, used, tasks = (2, ("evolution",), ("daso",)) if options.quick else (6, USED, tuple(TASKS))
    jobs = list(itertools.product(used, tasks, SOURCES, range(seeds)))
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        curves = dict(zip(jobs, pool.map(curve, *zip(*jobs, strict=True)), strict=True))
    figures: dict[str, Any] = {}
    head = " | ".join(f"after {at}" for at in AT)
    lines = [f"| sampler | task | sources | {head} |", "| --- " * (3 + len(AT)) + "|"]
    for sampler, target, kind in itertools.product(used, tasks, SOURCES):
        found = [[curves[sampler, target, kind, seed][at - 1] for seed in range(seeds)] for at in AT]
        cells = [(statistics.median(values), *interval(values)) for values in found]
        figures.setdefault(sampler, {}).setdefault(target, {})[kind] = cells
        shown = " | ".join(f"{median:.3g} ({low:.3g} to {high:.3g})" for median, low, high in cells)
        lines.append(f"| {sampler} | {target} | {kind} | {shown} |")
    words = (
        f"Loss above the table's lowest: medians over {seeds} seeds, with 95 % bootstrap intervals. `related` are "
        "two sources, of other methods; `both` are all four."
    )
    report(options, "Related sources", words, "\n".join(lines) + "\n", {"seeds": seeds, "at": AT, "figures": figures})


if __name__ == "__main__":
    main()
