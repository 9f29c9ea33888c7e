"""The cost of `isolate: process`: of a trial, and of a sum over ranks by its size.

python benchmarks/isolation.py [--ranks N] [--quick] [--json FILE]

One MPI job with two workers of the same ranks, which take turns: one trains its trials in the ranks, as `isolate:
restore` does, the other in a process each. A trial is one epoch of local_sgd on digits_mlp, and its time that of
`Worker.evaluate`. The sums are those of a method that does nothing else: a rank's median time of one blocking sum of
float32.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

import torch
from job import measured, parse, workers_by_isolation
from torch import Tensor, nn

from atoll.methods.method import Batch, Context, Method, NoHyperparameters

NUM_BYTES = (4, 4_000, 40_000, 400_000, 4_000_000, 40_000_000)


class Sums(Method[NoHyperparameters]):
    """Sums vectors over ranks, and times that."""

    def __init__(self, hyperparameters: NoHyperparameters, context: Context) -> None:
        self._context = context
        self._seconds: dict[int, list[float]] = defaultdict(list)
        self._num_steps = 0

    def step(self, batch: Batch) -> Tensor:
        """Sum each size, in the first 30 steps."""
        self._num_steps += 1
        if self._num_steps <= 30:
            for size in NUM_BYTES:
                self._sum(torch.zeros(size // 4), size)
        return torch.zeros(())

    def _sum(self, tensor: Tensor, size: int) -> None:
        self._context.untracked.barrier()
        started = time.perf_counter()
        self._context.communicator.sum(tensor)
        self._seconds[size].append(time.perf_counter() - started)

    def metrics(self) -> dict[str, float]:
        """Milliseconds of a sum, by its size in bytes."""
        return {f"bytes_{size}": 1e3 * statistics.median(seconds) for size, seconds in self._seconds.items()}

    def evaluation_model(self) -> nn.Module:
        """The network as it was."""
        return self._context.model

    finalize = evaluation_model


def measure(num_trials: int) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    from atoll.platform.study.configuration import Configuration
    from atoll.platform.trial.training import Hooks

    world, workers, close = workers_by_isolation()
    shared = {"workload": "digits_mlp", "ranks": world.size, "threads": 1, "device": "cpu", "epochs": 1}
    training = Configuration(method="local_sgd", **shared)
    sums = Configuration(method=f"{__file__}:Sums", hyperparameters={"batch_size": 20}, **shared)
    seconds: dict[str, list[float]] = defaultdict(list)
    by_size: dict[str, dict[str, float]] = {}
    for configuration in [training] * num_trials + [sums]:
        for name, worker in workers.items():
            if not worker.is_root:
                worker.obey()
                continue
            started = time.perf_counter()
            outcome = worker.evaluate(configuration, Hooks())
            seconds[name].append(time.perf_counter() - started)
            assert outcome.state == "complete", outcome.reason
            by_size[name] = {key: value for key, value in outcome.metrics.items() if key.startswith("bytes_")}
            worker.dismiss()  # the members turn to the other worker
    close()
    if world.rank != 0:
        return None
    return {
        name: {
            "trial_ms": 1e3 * statistics.median(times[1:-1]),  # the first warms up, the last is that of the sums
            "sum_ms": {int(key.removeprefix("bytes_")): value for key, value in by_size[name].items()},
        }
        for name, times in seconds.items()
    }


def main() -> None:
    """Print the figures."""
    options = parse(__doc__.splitlines()[0], quick="5 trials of each kind instead of 41")
    figures = measured(options, lambda: measure(5 if options.quick else 41)) or {}
    for name, of_kind in figures.items():
        sizes = ", ".join(f"{int(size):,} B {ms:.3f} ms" for size, ms in of_kind["sum_ms"].items())
        print(f"isolate: {name:8} a trial {of_kind['trial_ms']:.1f} ms; a sum of {sizes}")


if __name__ == "__main__":
    main()
