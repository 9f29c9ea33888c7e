"""One trial on one rank of a worker: a generator of progress reports.

The method owns the step; this loop owns the data order, the learning-rate schedule, the measurements, and the decision
to continue, which is equal on all ranks because it depends on summed values only.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from atoll.communication.communicator import Communicator
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.method import Batch, Context, Method, NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration, split_hyperparameters
from atoll.platform.study.loader import Loader
from atoll.platform.trial.batches import Batches, EpochBatches, Transform, on_device, without_augmentation
from atoll.platform.trial.evaluator import Evaluator
from atoll.platform.trial.layer_observer import LayerObserver
from atoll.platform.trial.loaders import LoadedBatches, StreamedBatches
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.schedule import Length, Patience, Ticks
from atoll.platform.trial.shares import Share
from atoll.platform.workloads.workload import Part, Samples

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
        self._settings = settings
        data = self.workload.load(Path(configuration.data) if configuration.data else None)
        self._batches = self._make_batches(configuration, data.train, hyperparameters, device)
        per_epoch = self._batches.num_batches
        num_steps = configuration.steps or (configuration.epochs or self.workload.epochs) * per_epoch
        self._length = Length(num_steps, per_epoch)
        self._reports = Ticks(configuration.report_every, self._length)
        self._evaluations = Ticks(configuration.evaluate_every, self._length) if configuration.evaluate_every else None
        self._patience = Patience(configuration.patience, self.workload.direction)
        self._counts_epochs = configuration.report_every is None or configuration.report_every.unit == "epochs"
        loader = configuration.loader
        validation = on_device(device, data.validation)
        self._validate = Evaluator(self.workload, validation, self._untracked, device, loader=loader)
        self._test = None
        if test:
            self._test = Evaluator(
                self.workload, on_device(device, data.test), self._untracked, device, "test", loader=loader
            )
        self._optimizers = self._make_optimizers(settings)
        self._context = self._make_context(configuration, device)
        self.method = registry.method(configuration.method)(hyperparameters, self._context)
        self._check_epochs(configuration)
        self._observer = None
        if configuration.observe is not None:
            self._observer = LayerObserver(configuration.observe, self.method, communicator, self._untracked)
        self._model: nn.Module | None = None
        self._seconds, self._seconds_data, self._seconds_meeting = 0.0, 0.0, 0.0
        self._started = 0.0
        self._losses: list[Tensor] = []  # since the last report
        self._epoch_losses: list[Tensor] = []

    def _make_batches(self, configuration: Configuration, data: Part, hyperparameters: object, device: str) -> Batches:
        """This rank's share of the training data, whatever it is loaded from."""
        method = registry.method(configuration.method)
        transform: Transform = self.workload.transform
        name, seed = configuration.method, configuration.seed
        share = Share(
            self._settings.batch_size, self._communicator.rank, self._communicator.size, whole=method.layer_parallel
        )
        if keeps_samples := method.keeps_samples(hyperparameters):
            transform = without_augmentation(transform)
        if isinstance(samples := on_device(device, data), Samples):
            return EpochBatches(samples, share, seed, transform, device=device)
        loader = configuration.loader or Loader()
        batches: LoadedBatches | StreamedBatches
        if isinstance(data, IterableDataset):
            if keeps_samples:
                raise NotApplicable(
                    f"{name} keeps something for each sample, so it needs training data with positions; got the "
                    f"iterable {type(data).__name__}: return a map-style Dataset or Samples"
                )
            per_epoch = self.workload.steps_per_epoch or configuration.steps
            if per_epoch is None:
                raise NotApplicable(
                    "iterable training data have no epochs: give the study's or workload's `steps`, or the workload's "
                    f"`steps_per_epoch`; got epochs {configuration.epochs or self.workload.epochs}"
                )
            batches = StreamedBatches(
                data, share, seed, self.workload, loader, transform, num_batches=per_epoch, device=device
            )
        else:
            assert not isinstance(data, Samples)
            batches = LoadedBatches(data, share, seed, self.workload, loader, transform, device=device)
        if method.layer_parallel and not isinstance(batches.example(), Tensor):
            raise NotApplicable(
                f"{name} cuts the network into a chain of layers, so each batch's inputs must be one tensor; got "
                f"{type(batches.example()).__name__}"
            )
        return batches

    def _check_epochs(self, configuration: Configuration) -> None:
        """Raise NotApplicable if reports are asked for where the method cannot be evaluated."""
        intervals = [every for every in (configuration.report_every, configuration.evaluate_every) if every is not None]
        if type(self.method).epoch is Method.epoch or all(every.unit == "epochs" for every in intervals):
            return
        raise NotApplicable(
            f"{configuration.method} passes over the batches of an epoch in its own order, so it is evaluated after "
            f"epochs only: report_every and evaluate_every must be in epochs; got {', '.join(map(str, intervals))}"
        )

    def _make_optimizers(self, settings: OptimizerSettings) -> OptimizerFactory:
        num_steps = self._length.num_steps
        return OptimizerFactory(settings, num_steps, round(settings.lr_warmup * num_steps))

    def _make_context(self, configuration: Configuration, device: str) -> Context:
        with _RANDOM_STATE:
            _seed(configuration.seed)
            model = self.workload.model().to(device)
        for tensor in (*model.parameters(), *model.buffers()):
            self._untracked.broadcast(tensor.data)
        # From here on, randomness such as dropout differs between ranks.
        with _RANDOM_STATE:  # another thread may be drawing its model
            _seed(configuration.seed * 1_000_003 + self._communicator.rank)
        return Context(
            model=model,
            loss=self.workload.loss,
            optimizers=self._optimizers,
            communicator=self._communicator,
            untracked=self._untracked,
            inputs=self._batches.example(),
            num_epochs=self._length.num_epochs,
            steps_per_epoch=self._length.steps_per_epoch,
            seed=configuration.seed,
            forward=self.workload.forward,
        )

    def train(self) -> Iterator[Progress]:
        """Train to the end, reporting at the interval `report_every`, by default after every epoch.

        Raises:
            Diverged: on a rank whose loss is NaN or infinite, or on all ranks if the epoch's mean is.
        """
        try:
            yield from self._epochs()
        finally:
            self._batches.close()
            self._validate.close()
            if self._test is not None:
                self._test.close()

    def _epochs(self) -> Iterator[Progress]:
        step = 0
        for epoch in range(self._length.num_epochs):
            end = step + self._length.steps_of(epoch)
            self._epoch_losses.clear()
            self._start_clock()
            for loss in self.method.epoch(self._scheduled(epoch, step)):
                step += 1
                self._took(loss, step)
                if step < end and self._reports.is_due(step):
                    yield (report := self._report(step, epoch, self._summarize(self._losses)))
                    if report.last:
                        return
            self._pause_trace()
            summary = self._summarize(self._epoch_losses)
            _check_finite("training loss", summary[0], step)
            self.method.epoch_end(summary[0])
            if step == self._length.num_steps or self._reports.is_due(step):
                if len(self._losses) != len(self._epoch_losses):
                    summary = self._summarize(self._losses)
                yield (report := self._report(step, epoch + (step % self._length.steps_per_epoch == 0), summary))
                if report.last:
                    return
            else:
                self._stop_clock()

    def _start_clock(self) -> None:
        self._started = time.perf_counter()
        if (trace := self._communicator.ledger.trace) is not None:
            trace.begin()

    def _stop_clock(self) -> float:
        """Add the time since the clock was started to the training time; returns it."""
        seconds = time.perf_counter() - self._started
        self._seconds += seconds
        return seconds

    def _pause_trace(self) -> None:
        if (trace := self._communicator.ledger.trace) is not None:
            trace.pause()

    def _took(self, loss: Tensor, step: int) -> None:
        """A step has been taken: remember its loss, and look at it now and then."""
        self._losses.append(loss)
        self._epoch_losses.append(loss)
        self._communicator.progress()
        if (trace := self._communicator.ledger.trace) is not None:
            trace.end_step()
        if step == 1:
            self._check_that_settings_act()
        # Reading a loss on a GPU waits for it.
        if loss.device.type == "cpu" or step % self.LOOK_EVERY == 0:
            _check_finite("training loss", float(loss), step)

    def _check_that_settings_act(self) -> None:
        s = self._settings
        if (s.precision != "float32" or s.accumulate > 1) and not self._context.gradient.num_calls:
            raise NotApplicable(
                f"{type(self.method).__name__} does not make its gradients with `context.gradient`, so precision must "
                f"be float32 and accumulate 1; got {s.precision} and {s.accumulate}"
            )

    def _report(self, step: int, epoch: int, summary: tuple[float, float]) -> Progress:
        """Evaluate if that is due, and report; the clock stands still meanwhile.

        Args:
            step, epoch: the completed ones.
            summary: the mean training loss since the last report, and the bytes sent.
        """
        self._pause_trace()
        train_loss, wire_bytes = summary
        _check_finite("training loss", train_loss, step)
        is_last = step == self._length.num_steps
        num_steps, self._losses = len(self._losses), []
        evaluates = is_last or self._evaluations is None or self._evaluations.is_due(step)
        model = None
        if evaluates:
            model = self.method.finalize() if is_last else self.method.evaluation_model()
        seconds = self._stop_clock()
        scores: dict[str, float] = {} if model is None else self._evaluated(model, step, seconds)
        if model is not None and not is_last and self._patience.ends(scores[self.workload.metric]):
            is_last, model = True, self.method.finalize()
            scores = self._evaluated(model, step, seconds)
        scores |= {str(name): float(value) for name, value in self.method.metrics().items()}
        if is_last:
            self._model = model
            wire_bytes = self._summarize(self._epoch_losses)[1]
        self._advance(step, seconds / num_steps, evaluates=evaluates)
        progress = Progress(
            step=step,
            epoch=epoch,
            seconds=self._seconds,
            train_loss=train_loss,
            validation_loss=scores.pop("loss", None),
            metric=scores.pop(self.workload.metric, None),
            learning_rate=self._optimizers.learning_rate,
            wire_bytes=wire_bytes,
            metrics=scores,
            last=is_last,
            by_steps=not self._counts_epochs,
        )
        self._start_clock()
        return progress

    def _evaluated(self, model: nn.Module, step: int, seconds: float) -> dict[str, float]:
        """All measurements of the model."""
        scores = self._validate(model)
        _check_finite("validation loss", scores["loss"], step)
        _check_finite(self.workload.metric, scores[self.workload.metric], step)
        if self._observer is not None:
            scores |= self._observer(model, seconds)
        if self._test is not None:
            scores |= {f"test_{name}": value for name, value in self._test(model).items()}
        return scores

    def _advance(self, step: int, seconds_per_step: float, *, evaluates: bool) -> None:
        """Plan the next report; ranks agree on the time of a step."""
        ticks = [self._reports, *([self._evaluations] if self._evaluations is not None and evaluates else [])]
        if any(tick.is_in_seconds for tick in ticks):
            agreed = torch.tensor([seconds_per_step], dtype=torch.float64)
            self._untracked.broadcast(agreed)
            seconds_per_step = float(agreed)
        for tick in ticks:
            tick.advance(step, seconds_per_step)

    def _scheduled(self, epoch: int, step: int) -> Iterator[Batch]:
        """An epoch's batches, from step `step` on; sets each step's learning rate, and measures the loading time."""
        batches = self._batches.epoch(epoch)
        for number in range(step, step + self._length.steps_of(epoch)):
            started = time.perf_counter()
            batch = next(batches)
            self._seconds_data += time.perf_counter() - started
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
