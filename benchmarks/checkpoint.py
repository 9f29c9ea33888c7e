"""The cost of a checkpoint after every epoch, on cifar10_cnn7.

python benchmarks/checkpoint.py [--ranks N] [--quick] [--json FILE]

Two trials of `ddp` on 4,500 images of noise take turns, an epoch each: one writes a checkpoint after every epoch, the
other none. `recorded` is what the trial itself says that its checkpoints took, from taking the state until all ranks'
files are on the disk, as a share of its training; `difference` is the share by which its epochs are longer than the
other's, which also has the machine's noise. Files are written to the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from job import connect, measured, parse


def measure(num_epochs: int) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    import torch
    from mpi4py import MPI
    from step_settings import NoiseCnn7

    from atoll.communication.mpi import MpiFamily
    from atoll.platform.study.configuration import Configuration
    from atoll.platform.trial.trial import Trial

    world, family = MPI.COMM_WORLD, MpiFamily()
    torch.set_num_threads(1)
    folder = Path(world.bcast(tempfile.mkdtemp() if world.rank == 0 else None))
    trials = {}
    for name, checkpoint in {"with": {"every": "1 epochs"}, "without": None}.items():
        configuration = Configuration(
            workload=f"{Path(__file__).with_name('step_settings.py')}:{NoiseCnn7.__name__}",
            method="ddp",
            hyperparameters={"batch_size": 32, "learning_rate": 0.01},
            seed=0,
            epochs=num_epochs + 2,
            evaluate_every=f"{num_epochs + 2} epochs",
            checkpoint=checkpoint,
        )
        trials[name] = Trial(configuration, connect(world, family, name), "cpu", folder=folder)
    trainings = {name: trial.train() for name, trial in trials.items()}
    epochs: dict[str, list[float]] = {name: [] for name in trials}
    for number in range(num_epochs + 1):
        for name, training in trainings.items():
            world.Barrier()
            started = time.perf_counter()
            # From the report after an epoch to the one after the next, with the checkpoint between them.
            next(training)
            seconds = world.allreduce(time.perf_counter() - started, MPI.MAX)
            if number > 0:  # the first epoch warms up, and has no checkpoint before it
                epochs[name].append(seconds)
    parts = trials["with"].seconds()
    for training in trainings.values():
        training.close()
    world.Barrier()
    if world.rank != 0:
        return None
    figures = _summary(epochs, parts, sum(file.stat().st_size for file in folder.glob("*.pt")))
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return {"cifar10_cnn7": figures}


def _summary(epochs: dict[str, list[float]], parts: dict[str, float], num_bytes: int) -> dict:
    num_checkpoints = len(epochs["with"])
    trained = parts["compute"] + parts["waiting"] + parts["data"]
    differences = [a / b - 1 for a, b in zip(epochs["with"], epochs["without"], strict=True)]
    return {
        "epochs": num_checkpoints,
        "seconds_per_epoch": statistics.median(epochs["without"]),
        "bytes_of_all_ranks": num_bytes,
        "milliseconds_per_checkpoint": 1e3 * parts["checkpoints"] / num_checkpoints,
        "recorded_share": parts["checkpoints"] / trained * (num_checkpoints + 1) / num_checkpoints,
        "median_difference": statistics.median(differences),
    }


def main() -> None:
    options = parse(__doc__.splitlines()[0], quick="2 epochs instead of 15")
    figures = measured(options, lambda: measure(2 if options.quick else 15))
    for name, f in (figures or {}).items():
        size, share = f["bytes_of_all_ranks"] / 1e6, 100 * f["recorded_share"]
        print(
            f"{name}: an epoch of {f['seconds_per_epoch']:.2f} s, a checkpoint of {size:.1f} MB in "
            f"{f['milliseconds_per_checkpoint']:.1f} ms: {share:.2f} % of the training; epochs with checkpoints are "
            f"longer by {100 * f['median_difference']:.1f} %"
        )


if __name__ == "__main__":
    main()
