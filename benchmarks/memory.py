"""The memory of a rank over many trials: the slope of its resident size, for either `isolate`.

python benchmarks/memory.py [--ranks N] [--quick] [--json FILE]

One MPI job trains 2,000 trials of an epoch of digits_mlp in its ranks, then as many in processes of their own; methods
take turns. A rank's resident size is read after every tenth trial. The slope is that of a least-squares line through
the second half of them, when caches have filled; the first half's is told next to it.
"""

from __future__ import annotations

import gc
import statistics

import psutil
from job import measured, parse, workers_by_isolation

METHODS = ("ddp", "local_sgd", "easgd", "oialr", "mac")
EVERY = 10


def resident_bytes() -> int:
    """This process's resident size."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def slope(sizes: list[int]) -> float:
    """Bytes per trial of a least-squares line."""
    return statistics.linear_regression([EVERY * place for place in range(len(sizes))], sizes).slope


def measure(num_trials: int) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    from atoll.platform.study.configuration import Configuration
    from atoll.platform.trial.training import Hooks

    world, workers, close = workers_by_isolation()
    shared = {"workload": "digits_mlp", "ranks": world.size, "threads": 1, "device": "cpu", "epochs": 1}
    configurations = [Configuration(method=method, seed=seed, **shared) for seed, method in enumerate(METHODS)]
    figures = {}
    for name, worker in workers.items():
        sizes: list[int] = []
        if not worker.is_root:
            worker.obey()
            continue
        for number in range(num_trials):
            outcome = worker.evaluate(configurations[number % len(configurations)], Hooks())
            assert outcome.state == "complete", outcome.reason
            if number % EVERY == 0:
                sizes.append(resident_bytes())
        worker.dismiss()
        half = len(sizes) // 2
        figures[name] = {
            "trials": num_trials,
            "bytes_per_trial": slope(sizes[half:]),
            "bytes_per_trial_first_half": slope(sizes[:half]),
            "megabytes_at_the_end": sizes[-1] / 1e6,
        }
    close()
    return figures if world.rank == 0 else None


def main() -> None:
    """Print the figures."""
    options = parse(__doc__.splitlines()[0], quick="100 trials instead of 2,000")
    figures = measured(options, lambda: measure(100 if options.quick else 2000)) or {}
    for name, of_kind in figures.items():
        second, first = of_kind["bytes_per_trial"], of_kind["bytes_per_trial_first_half"]
        print(
            f"isolate: {name:8} {second:.0f} bytes a trial over the second half of {of_kind['trials']}, "
            f"{first:.0f} over the first; {of_kind['megabytes_at_the_end']:.0f} MB at the end"
        )


if __name__ == "__main__":
    main()
