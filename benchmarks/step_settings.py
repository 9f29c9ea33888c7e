"""For benchmarks/step.py --settings: trainings by how data are loaded and by settings, ours and plain torch's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed
from job import connect
from mpi4py import MPI
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from atoll.communication.mpi import MpiFamily
from atoll.methods.common.compiled import why_not_compiled
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads.cifar10 import Cifar10Cnn7
from atoll.platform.workloads.digits import DigitsCnn
from atoll.platform.workloads.workload import Data, Samples, Workload

BATCH_SIZE, MICRO_BATCHES, RATE = 32, 4, 0.01
NUM_IMAGES = 4500  # of noise; the training part of the subset of CIFAR-10 that the tests know has as many
ENDLESS = 10**9


class NoiseCnn7(Cifar10Cnn7):
    """The 7-layer network on images of noise."""

    def load(self, folder):
        generator = torch.Generator().manual_seed(0)

        def noise(num: int) -> Samples:
            images = torch.randint(256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8)
            return Samples(images, torch.randint(10, (num,), generator=generator))

        return Data(noise(NUM_IMAGES), noise(100), noise(100))

    def check_data(self, folder):
        pass


class _Items:
    """A workload whose samples are items of a data set."""

    def load(self, folder):
        data = super().load(folder)
        return Data(*(TensorDataset(part.inputs, part.targets) for part in (data.train, data.validation, data.test)))


class DigitsCnnItems(_Items, DigitsCnn):
    """The digits as a data set."""


class NoiseCnn7Items(_Items, NoiseCnn7):
    """The images of noise as a data set."""


MODELS: dict[str, tuple[type[Workload], type[Workload]]] = {
    "digits_cnn": (DigitsCnn, DigitsCnnItems),
    "cifar10_cnn7": (NoiseCnn7, NoiseCnn7Items),
}
# Name -> the number of loading processes, or None for tensors in memory; and the setting that differs.
ROWS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "tensors": (None, {}),
    "DataLoader": (0, {}),
    "DataLoader, 2 workers": (2, {}),
    "tensors, bfloat16": (None, {"precision": "bfloat16"}),
    f"tensors, accumulate {MICRO_BATCHES}": (None, {"accumulate": MICRO_BATCHES}),
    "tensors, compile": (None, {"compile": True}),
    "tensors, ema": (None, {"ema": 0.999}),
}


class Ours:
    """Blocks of steps of a trial: all that it does for a step, with its report at the end of a block."""

    def __init__(self, workload: type[Workload], row: str, num_steps: int, communicator: Any) -> None:
        workers, settings = ROWS[row]
        hyperparameters = {"batch_size": BATCH_SIZE, "learning_rate": RATE, "schedule": "constant"} | settings
        configuration = Configuration(
            workload=f"{__file__}:{workload.__name__}",
            method="ddp",
            hyperparameters=hyperparameters,
            seed=0,
            steps=ENDLESS,
            report_every=f"{num_steps} steps",
            evaluate_every=f"{ENDLESS} steps",
            loader=None if workers is None else {"workers": workers},
        )
        self._training = Trial(configuration, communicator, "cpu").train()

    def block(self) -> None:
        next(self._training)

    def close(self) -> None:
        self._training.close()


class Torchs:
    """Blocks of steps of a plain script: the same network, data, transform and setting, in torch's DDP over gloo."""

    def __init__(self, workload: type[Workload], row: str, num_steps: int = 1) -> None:
        workers, self._settings = ROWS[row]
        self._workload, self._num_steps = workload(), num_steps
        self._data = self._workload.load(None).train
        torch.manual_seed(0)
        self._model = DistributedDataParallel(self._workload.model(), gradient_as_bucket_view=True)
        self._forward: nn.Module = torch.compile(self._model) if self._settings.get("compile") else self._model
        self._optimizer = torch.optim.SGD(self._model.parameters(), RATE, 0.9, weight_decay=1e-4, fused=True)
        self._average = None
        if decay := self._settings.get("ema"):
            average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
            self._average = torch.optim.swa_utils.AveragedModel(self._model.module, multi_avg_fn=average)
        self._batches = self._memory() if workers is None else self._loader(workers)

    def _memory(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        world = MPI.COMM_WORLD
        while True:
            order = torch.randperm(len(self._data))
            for start in range(0, len(order) - BATCH_SIZE * world.size + 1, BATCH_SIZE * world.size):
                mine = order[start + world.rank * BATCH_SIZE :][:BATCH_SIZE]
                yield self._data.inputs[mine], self._data.targets[mine]

    def _loader(self, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        sampler = DistributedSampler(self._data, drop_last=True)
        loader = DataLoader(
            self._data, BATCH_SIZE, sampler=sampler, num_workers=workers, persistent_workers=workers > 0, drop_last=True
        )
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            yield from loader
            epoch += 1

    def block(self) -> None:
        generator = torch.Generator()
        for _ in range(self._num_steps):
            inputs, targets = next(self._batches)
            self._step(self._workload.transform(inputs, generator), targets)

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        num_parts = self._settings.get("accumulate", 1)
        bfloat16 = self._settings.get("precision") == "bfloat16"
        self._optimizer.zero_grad()
        parts = list(zip(inputs.chunk(num_parts), targets.chunk(num_parts), strict=True))
        for number, (some, their) in enumerate(parts, 1):
            with nullcontext() if number == num_parts else self._model.no_sync():
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    loss = cross_entropy(self._forward(some), their) / num_parts
                loss.backward()
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._model.module)

    def close(self) -> None:
        self._batches = iter(())


def measure(num_rounds: int, seconds_per_block: float, *, compiles: bool) -> dict | None:
    """One rank's program; rank 0 returns the figures."""
    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=world.rank, world_size=world.size)
    family, figures = MpiFamily(), {}
    for name, (of_tensors, of_items) in MODELS.items():
        figures[name] = {}
        for row, (workers, settings) in ROWS.items():
            if settings.get("compile") and (not compiles or why_not_compiled("cpu")):
                continue
            workload = of_tensors if workers is None else of_items
            num_steps = _steps_per_block(Torchs(workload, row), seconds_per_block)
            sides = {
                "ours": Ours(workload, row, num_steps, connect(world, family, f"{name}, {row}")),
                "torch": Torchs(workload, row, num_steps),
            }
            times = _times({side: it.block for side, it in sides.items()}, num_steps, num_rounds)
            for it in sides.values():
                it.close()
            figures[name][row] = _summary(times, num_steps)
    torch.distributed.destroy_process_group()
    return figures if world.rank == 0 else None


def _steps_per_block(script: Torchs, seconds: float) -> int:
    for _ in range(3):
        script.block()
    started = time.perf_counter()
    for _ in range(5):
        script.block()
    per_step = MPI.COMM_WORLD.bcast((time.perf_counter() - started) / 5)
    script.close()
    return max(3, round(seconds / per_step))


def _times(blocks: dict[str, Callable[[], None]], num_steps: int, num_rounds: int) -> dict[str, list[float]]:
    """The seconds of a step in each block, by side; both take turns, and the first round warms up.

    Of the slowest rank; `..., cpu` are rank 0's CPU seconds, which other programs disturb less, but waiting takes some.
    """
    world = MPI.COMM_WORLD
    times: dict[str, list[float]] = {kind: [] for side in blocks for kind in (side, f"{side}, cpu")}
    for round_number in range(num_rounds + 1):
        for side, block in blocks.items():
            world.Barrier()
            started, cpu = time.perf_counter(), time.process_time()
            block()
            cpu = time.process_time() - cpu
            seconds = world.allreduce((time.perf_counter() - started) / num_steps, MPI.MAX)
            if round_number > 0:
                times[side].append(seconds)
                times[f"{side}, cpu"].append(cpu / num_steps)
    return times


def _summary(times: dict[str, list[float]], num_steps: int) -> dict:
    ratios = [ours / torchs for ours, torchs in zip(times["ours"], times["torch"], strict=True)]
    return {
        "steps_per_block": num_steps,
        "blocks": len(ratios),
        "milliseconds_per_step": {side: 1e3 * statistics.median(t) for side, t in times.items()},
        "median_ratio_of_rounds": statistics.median(ratios),
    }


def show(figures: dict) -> None:
    for name, rows in figures.items():
        for row, f in rows.items():
            ours, torchs = (f["milliseconds_per_step"][side] for side in ("ours", "torch"))
            said = f"ours {ours:8.3f} ms   torch {torchs:8.3f} ms   ratio {f['median_ratio_of_rounds']:.2f}"
            print(f"{name:13} {row:24} {said}   ({f['blocks']} blocks of {f['steps_per_block']} steps)")
