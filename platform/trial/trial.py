"""One trial on one rank of a worker: a generator of progress reports.

The method owns the step; this loop owns the data order, the learning-rate schedule, the measurements, and the decision
to continue, which is equal on all ranks because it depends on summed values only.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.method import Batch, Context, Method
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration, split_hyperparameters
from atoll.platform.trial.batches import EpochBatches, on_device, without_augmentation
from atoll.platform.trial.evaluator import Evaluator
from atoll.platform.trial.layer_observer import LayerObserver
from atoll.platform.trial.progress import Progress

# Random states are global to the process, and virtual ranks are threads of one process.
_RANDOM_STATE = threading.Lock()


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""


class Trial:
    """The training of one configuration on one rank of a worker.

    Args:
        configuration: the configuration to train.
        communicator: the worker's ranks; its ledger is the method's.
        device: this rank's device.
        test: whether to also measure the model on the test data, which no search uses, after every epoch.
    """

    LOOK_EVERY = 50

    def __init__(
        self, configuration: Configuration, communicator: Communicator, device: str, *, test: bool = False
    ) -> None:
        hyperparameters, settings, of_workload = split_hyperparameters(
            configuration.method, configuration.workload, configuration.hyperparameters, communicator.size
        )
        self.workload = registry.workload(configuration.workload, of_workload)
        self._communicator = communicator
        # The trial's own sums, of losses and metrics, do not count as the method's traffic.
        self._untracked = communicator.split(0, ledger=communicator.ledger.untracked())
        self.num_epochs = configuration.epochs or self.workload.epochs
        data = self.workload.load(Path(configuration.data) if configuration.data else None)
        method, transform = registry.method(configuration.method), self.workload.transform
        self._batches = EpochBatches(
            on_device(device, data.train),
            settings.batch_size,
            communicator.rank,
            communicator.size,
            configuration.seed,
            without_augmentation(transform) if method.keeps_samples(hyperparameters) else transform,
            whole=method.layer_parallel,
            device=device,
        )
        self._num_steps = self.num_epochs * self._batches.num_batches
        self._validate = Evaluator(self.workload, on_device(device, data.validation), self._untracked, device)
        self._test = None
        if test:
            self._test = Evaluator(self.workload, on_device(device, data.test), self._untracked, device, "test")
        self._optimizers = self._make_optimizers(settings)
        self.method = self._make_method(configuration, hyperparameters, device)
        self._observer = None
        if configuration.observe is not None:
            self._observer = LayerObserver(configuration.observe, self.method, communicator, self._untracked)
        self._model: nn.Module | None = None
        self._seconds, self._seconds_data, self._seconds_meeting = 0.0, 0.0, 0.0

    def _make_optimizers(self, settings: OptimizerSettings) -> OptimizerFactory:
        return OptimizerFactory(settings, self._num_steps, round(settings.lr_warmup * self._num_steps))

    def _make_method(self, configuration: Configuration, hyperparameters: object, device: str) -> Method[Any]:
        with _RANDOM_STATE:
            _seed(configuration.seed)
            model = self.workload.model().to(device)
        for tensor in (*model.parameters(), *model.buffers()):
            self._untracked.broadcast(tensor.data)
        # From here on, randomness such as dropout differs between ranks.
        with _RANDOM_STATE:  # another thread may be drawing its model
            _seed(configuration.seed * 1_000_003 + self._communicator.rank)
        context = Context(
            model=model,
            loss=self.workload.loss,
            optimizers=self._optimizers,
            communicator=self._communicator,
            untracked=self._untracked,
            inputs=self._batches.example(),
            num_epochs=self.num_epochs,
            steps_per_epoch=self._batches.num_batches,
            seed=configuration.seed,
        )
        return registry.method(configuration.method)(hyperparameters, context)

    def train(self) -> Iterator[Progress]:
        """Train to the end, reporting after every epoch.

        Raises:
            Diverged: on a rank whose loss is NaN or infinite, or on all ranks if the epoch's mean is.
        """
        step, seconds, trace = 0, 0.0, self._communicator.ledger.trace
        for epoch in range(1, self.num_epochs + 1):
            started = time.perf_counter()
            losses = []
            if trace is not None:
                trace.begin()
            for loss in self.method.epoch(self._scheduled(self._batches.epoch(epoch - 1), step)):
                losses.append(loss)
                self._communicator.progress()
                step += 1
                if trace is not None:
                    trace.end_step()
                # Reading a loss on a GPU waits for it.
                if losses[-1].device.type == "cpu" or step % self.LOOK_EVERY == 0:
                    _check_finite("training loss", float(losses[-1]), step)
            if trace is not None:
                trace.pause()
            before = time.perf_counter()
            train_loss, wire_bytes = self._summarize(losses)
            self._seconds_meeting += time.perf_counter() - before
            _check_finite("training loss", train_loss, step)
            self.method.epoch_end(train_loss)
            last = epoch == self.num_epochs
            model = self.method.finalize() if last else self.method.evaluation_model()
            seconds_of_epoch = time.perf_counter() - started
            seconds += seconds_of_epoch
            self._seconds = seconds
            measured = self._validate(model)
            validation_loss, metric = measured.pop("loss"), measured.pop(self.workload.metric)
            _check_finite("validation loss", validation_loss, step)
            _check_finite(self.workload.metric, metric, step)
            if self._observer is not None:
                measured |= self._observer(model, seconds_of_epoch)
            if self._test is not None:
                measured |= {f"test_{name}": value for name, value in self._test(model).items()}
            measured |= {str(name): float(value) for name, value in self.method.metrics().items()}
            if last:
                self._model = model
                wire_bytes = self._summarize(losses)[1]
            rate = self._optimizers.learning_rate
            yield Progress(step, epoch, seconds, train_loss, validation_loss, metric, rate, wire_bytes, measured, last)

    def _scheduled(self, batches: Iterator[Batch], step: int) -> Iterator[Batch]:
        """The same batches, from step `step` on; sets the learning rate of each step, and measures the loading time."""
        for number in itertools.count(step):
            started = time.perf_counter()
            batch = next(batches, None)
            self._seconds_data += time.perf_counter() - started
            if batch is None:
                return
            self._optimizers.set_step(number)
            yield batch

    def agrees_to_end(self, wish: bool) -> bool:
        """Return the root's wish to end the training now on all ranks. Collective, between two reports."""
        decision = torch.tensor([float(wish)])
        self._untracked.broadcast(decision)
        return bool(decision)

    def seconds(self) -> dict[str, float]:
        """The parts of this rank's training time: making batches, waiting for other ranks, and computing (the rest)."""
        waiting = self._communicator.ledger.seconds_waited() + self._seconds_meeting
        compute = max(0.0, self._seconds - self._seconds_data - waiting)
        return {"compute": compute, "waiting": waiting, "data": self._seconds_data}

    def _summarize(self, losses: list[Tensor]) -> tuple[float, float]:
        """The mean training loss of all ranks, and their total bytes sent."""
        mean = torch.stack(losses).to("cpu", torch.float64).mean()
        totals = torch.stack([mean, torch.tensor(self._communicator.ledger.wire_bytes(), dtype=torch.float64)])
        self._untracked.sum(totals)
        return float(totals[0]) / self._communicator.size, float(totals[1])

    @property
    def model(self) -> nn.Module:
        """The trained model, equal on all ranks."""
        assert self._model is not None, "the trial has not been trained to its end"
        return self._model


def _seed(seed: int) -> None:
    """Seed every random state that user code may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"diverged at step {step}: the {name} is {value}")
