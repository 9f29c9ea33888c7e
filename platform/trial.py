"""One trial on one rank of a worker: a generator of progress.

The method owns the step; this loop owns the data order, the schedule, the measuring and the decision to go on, which is
the same on every rank because it is made of summed values.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from atoll.methods.communicator import Communicator
from atoll.methods.evaluation import evaluating
from atoll.methods.method import Batch, Context, Method, NotApplicable
from atoll.methods.optimizers import OptimizerFactory, OptimizerSettings
from atoll.platform import registry
from atoll.platform.configuration import Configuration, split_hyperparameters
from atoll.platform.observer import Observer
from atoll.platform.workloads.workload import Samples, Workload

Transform = Callable[[Tensor, torch.Generator | None], Tensor]

# torch's random state is the process's, and virtual ranks are threads of one.
_RANDOM_STATE = threading.Lock()
MAX_DEVICE_SHARE = 0.25  # that data may take of its memory


class Diverged(ArithmeticError):
    """Training has reached a loss that is no number, or infinite."""


@dataclass(frozen=True)
class Progress:
    """What a trial reports after an epoch; equal on all ranks but for `seconds`.

    Attributes:
        step, epoch: completed ones.
        seconds: training time of this rank, without evaluation.
        train_loss: mean over the epoch's batches of all ranks.
        validation_loss, metric: of the evaluated model; with replicas that differ, each sees its share of the data.
        learning_rate: at the last step.
        wire_bytes: sent so far by all ranks of the worker.
        metrics: further metrics by name: the workload's, the method's own, what observers saw.
        last: whether this is the trained model.
    """

    step: int
    epoch: int
    seconds: float
    train_loss: float
    validation_loss: float
    metric: float
    learning_rate: float
    wire_bytes: float
    metrics: dict[str, float]
    last: bool


class EpochBatches:
    """This rank's share of every global batch of an epoch, in an order that the seed fixes.

    Global batch k is the k-th run of p*b samples of the epoch's permutation, and rank r takes its r-th run of b: so p
    ranks with batch b see what one rank with batch p*b sees. Samples that do not fill a global batch wait for another
    epoch's permutation.

    Args:
        samples: the training data.
        batch_size, rank, num_ranks, seed: of this rank, and of the trial.
        transform: makes inputs of what was loaded, with a generator for what is random.
        whole: whether every rank sees the whole of each global batch.
        device: where the rank trains; that of the samples unless given.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        rank: int,
        num_ranks: int,
        seed: int,
        transform: Transform = lambda inputs, _: inputs,
        *,
        whole: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        self._samples = samples
        self._device = torch.device(samples.targets.device if device is None else device)
        self._transform = transform
        self._global_size = batch_size * num_ranks
        self._batch_size, self._rank = (self._global_size, 0) if whole else (batch_size, rank)
        self._seed = seed
        self.num_batches = len(samples) // self._global_size
        if self.num_batches == 0:
            raise NotApplicable(
                f"a global batch must fit into the {len(samples)} training samples; batch_size {batch_size} on "
                f"{num_ranks} ranks makes {self._global_size}"
            )

    def example(self) -> Tensor:
        """Inputs of a batch as the network takes them, without augmentation."""
        return self._transform(self._samples.inputs[: self._batch_size].to(self._device), None)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        seed, lies = self._seed * 1_000_003 + epoch, self._samples.targets.device
        order = torch.randperm(len(self._samples), generator=torch.Generator().manual_seed(seed)).to(lies)
        # The ranks see the same order, and each augments its own share.
        generator = torch.Generator(self._device).manual_seed((seed * 1_000_003 + self._rank) % 2**63)
        for number in range(self.num_batches):
            start = number * self._global_size + self._rank * self._batch_size
            indices = order[start : start + self._batch_size]
            inputs = self._transform(self._samples.inputs[indices].to(self._device), generator)
            targets = self._samples.targets[indices].to(self._device)
            yield Batch(indices=indices.to(self._device), inputs=inputs, targets=targets)


class Evaluator:
    """Measures a model on samples shared out over the ranks."""

    CHUNK = 256  # forecasts of 720 steps by a wide network take 6 MB each

    def __init__(self, workload: Workload, samples: Samples, communicator: Communicator, device: str = "cpu") -> None:
        self._workload = workload
        self._device = device
        self._communicator = communicator
        share = slice(communicator.rank, None, communicator.size)
        self._inputs, self._targets = samples.inputs[share], samples.targets[share]
        self._nothing = torch.zeros(workload.num_totals, dtype=torch.float64)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Over all samples: the loss, the metric, and the workload's further metrics."""
        totals = self._nothing.clone()
        with torch.no_grad(), evaluating(model):
            for start in range(0, len(self._targets), self.CHUNK):
                chunk = slice(start, start + self.CHUNK)
                inputs, targets = self._inputs[chunk].to(self._device), self._targets[chunk].to(self._device)
                outputs = model(self._workload.transform(inputs, None))
                totals += self._workload.totals(outputs, targets)
        self._communicator.sum(totals)
        return self._workload.scores(totals)


class Trial:
    """One configuration in training, as one rank of the worker sees it.

    Args:
        configuration: what to train.
        communicator: the worker's ranks; its ledger is the method's.
        device: where this rank trains.
        test: whether to measure the model on the test data too, which no search ever sees, after every epoch.
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
        # The trial's own sums, for losses and metrics, are not the method's traffic.
        self._aside = communicator.split(0, ledger=communicator.ledger.aside())
        self.num_epochs = configuration.epochs or self.workload.epochs
        data = self.workload.load(Path(configuration.data) if configuration.data else None)
        method, transform = registry.method(configuration.method), self.workload.transform
        self._batches = EpochBatches(
            _on(device, data.train),
            settings.batch_size,
            communicator.rank,
            communicator.size,
            configuration.seed,
            _without_augmentation(transform) if method.keeps_samples(hyperparameters) else transform,
            whole=method.layer_parallel,
            device=device,
        )
        self._num_steps = self.num_epochs * self._batches.num_batches
        self._validate = Evaluator(self.workload, _on(device, data.validation), self._aside, device)
        self._test = Evaluator(self.workload, _on(device, data.test), self._aside, device) if test else None
        self._optimizers = self._make_optimizers(settings)
        self.method = self._make_method(configuration, hyperparameters, device)
        self._observer = None
        if configuration.observe is not None:
            self._observer = Observer(configuration.observe, self.method, communicator, self._aside)
        self._model: nn.Module | None = None
        self._seconds, self._seconds_data, self._seconds_meeting = 0.0, 0.0, 0.0

    def _make_optimizers(self, settings: OptimizerSettings) -> OptimizerFactory:
        return OptimizerFactory(settings, self._num_steps, round(settings.lr_warmup * self._num_steps))

    def _make_method(self, configuration: Configuration, hyperparameters: object, device: str) -> Method:
        with _RANDOM_STATE:
            torch.manual_seed(configuration.seed)
            model = self.workload.model().to(device)
        for tensor in (*model.parameters(), *model.buffers()):
            self._aside.broadcast(tensor.data)
        # From here on, randomness such as dropout differs between ranks.
        torch.manual_seed(configuration.seed * 1_000_003 + self._communicator.rank)
        context = Context(
            model=model,
            loss=self.workload.loss,
            optimizers=self._optimizers,
            communicator=self._communicator,
            aside=self._aside,
            inputs=self._batches.example(),
            num_epochs=self.num_epochs,
            steps_per_epoch=self._batches.num_batches,
            seed=configuration.seed,
        )
        return registry.method(configuration.method)(hyperparameters, context)

    def train(self) -> Iterator[Progress]:
        """Train to the end, reporting after every epoch.

        Raises:
            Diverged: on the rank that sees a loss which is no number, or on all ranks when the epoch's mean is none.
        """
        step, seconds, schedule = 0, 0.0, self._communicator.ledger.schedule
        for epoch in range(1, self.num_epochs + 1):
            started = time.perf_counter()
            losses = []
            if schedule is not None:
                schedule.begin()
            for loss in self.method.epoch(self._scheduled(self._batches.epoch(epoch - 1), step)):
                losses.append(loss)
                self._communicator.attend()
                step += 1
                if schedule is not None:
                    schedule.end_step()
                # To look at a loss on a GPU is to wait for it.
                if losses[-1].device.type == "cpu" or step % self.LOOK_EVERY == 0:
                    _check_finite("training loss", float(losses[-1]), step)
            if schedule is not None:
                schedule.pause()
            before = time.perf_counter()
            train_loss, wire_bytes = self._summarise(losses)
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
            measured |= self.method.metrics()
            if last:
                self._model = model
                wire_bytes = self._summarise(losses)[1]
            rate = self._optimizers.learning_rate
            yield Progress(step, epoch, seconds, train_loss, validation_loss, metric, rate, wire_bytes, measured, last)

    def _scheduled(self, batches: Iterator[Batch], step: int) -> Iterator[Batch]:
        """The same batches, from `step` on, with the learning rate of each; the time that making them takes is kept."""
        for number in itertools.count(step):
            started = time.perf_counter()
            batch = next(batches, None)
            self._seconds_data += time.perf_counter() - started
            if batch is None:
                return
            self._optimizers.set_step(number)
            yield batch

    def agrees_to_end(self, wish: bool) -> bool:
        """The root's wish to end the training now, on every rank. Collective, between two reports."""
        told = torch.tensor([float(wish)])
        self._aside.broadcast(told)
        return bool(told)

    def seconds(self) -> dict[str, float]:
        """Where this rank's training time went: making batches, waiting for other ranks, and the rest, computing."""
        waiting = self._communicator.ledger.seconds_waited() + self._seconds_meeting
        compute = max(0.0, self._seconds - self._seconds_data - waiting)
        return {"compute": compute, "waiting": waiting, "data": self._seconds_data}

    def _summarise(self, losses: list[Tensor]) -> tuple[float, float]:
        """The mean training loss of all ranks, and the bytes that all of them have sent."""
        mean = torch.stack(losses).to("cpu", torch.float64).mean()
        totals = torch.stack([mean, torch.tensor(self._communicator.ledger.wire_bytes(), dtype=torch.float64)])
        self._aside.sum(totals)
        return float(totals[0]) / self._communicator.size, float(totals[1])

    @property
    def model(self) -> nn.Module:
        """The trained model, equal on all ranks."""
        assert self._model is not None, "the trial has not been trained to its end"
        return self._model


def _without_augmentation(transform: Transform) -> Transform:
    return lambda inputs, _: transform(inputs, None)


def _on(device: str, samples: Samples) -> Samples:
    """The samples on the device; those that would take much of its memory stay where they are, and batches go there."""
    if device == "cpu":
        return samples
    if samples.inputs.nbytes > MAX_DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory:
        return samples
    return Samples(samples.inputs.to(device), samples.targets.to(device))


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"diverged at step {step}: the {name} is {value}")
