"""One trial on one rank of a worker: a generator of progress reports.

The method owns the step; this loop owns the data order, the learning-rate schedule, the measurements, and the decision
to continue, which is equal on all ranks because it depends on summed values only.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.batch_norm import synchronize_batch_norm
from atoll.methods.common.compiled import why_not_compiled
from atoll.methods.common.effects import TrainingShape, sentences
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.common.weight_average import WeightAverage
from atoll.methods.method import Batch, Context, Method, NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration, split_hyperparameters
from atoll.platform.study.interval import Every
from atoll.platform.study.judged import TRAINED
from atoll.platform.trial.batches import NoSamples, on_device
from atoll.platform.trial.checkpoints import Checkpoints, Saver, random_state, set_random_state
from atoll.platform.trial.evaluator import Evaluator, spread
from atoll.platform.trial.failure import Diverged, Stopped
from atoll.platform.trial.layer_observer import LayerObserver
from atoll.platform.trial.loaders import seed_all
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.shares import Share
from atoll.platform.trial.training_batches import length_in_steps, training_batches
from atoll.platform.trial.triggers import EarlyStopping, IntervalTrigger, Length
from atoll.platform.trial.weights import TrainedModel, require_tensors
from atoll.platform.workloads.workload import Part
from atoll.storage.folder import TrialFolder

# Random states are global to the process, and virtual ranks are threads of one process.
_RANDOM_STATE = threading.Lock()


class _Summary(NamedTuple):
    """What all ranks have done so far.

    Attributes:
        train_loss: the mean over ranks that train, and steps.
        wire_bytes: sent by all of them.
        passes: samples that the busiest one has passed forward and backward; NaN if unknown.
    """

    train_loss: float
    wire_bytes: float
    passes: float


class Trial:
    """The training of one configuration on one rank of a worker.

    Args:
        configuration: the configuration to train.
        communicator: the worker's ranks; its ledger is the method's.
        device: this rank's device.
        test: whether to also measure the model on the test data, which no search uses, after every epoch.
        folder: the trial's own, for checkpoints, its model and what the workload writes; if it holds a checkpoint,
            training continues from it. Default: none of these.
        stops: the root's: whether to write a checkpoint and stop; asked about once a second.

    Attributes:
        num_servers: ranks, the first ones, that only serve the others.
        notes: on hyperparameters that have no effect here, and on checkpoints.
        has_paused: whether it has ended because hyperparameters change now.
    """

    LOOK_EVERY = 50

    def __init__(
        self,
        configuration: Configuration,
        communicator: Communicator,
        device: str,
        *,
        test: bool = False,
        folder: Path | None = None,
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        # The trial's own sums, of losses and metrics, do not count as the method's traffic.
        self._untracked = communicator.split(0, ledger=communicator.ledger.untracked())
        self._folder = folder
        read_notes: list[str] = []
        self._files, self._found = self._open_checkpoints(configuration, read_notes)
        start = 0 if self._found is None else self._found["step"]
        self._pauses_at = next((step for step in configuration.changes() if step > start), None)
        hyperparameters, settings, of_workload = split_hyperparameters(
            configuration.method, configuration.workload, configuration.at(start), communicator.size
        )
        self._hyperparameters = self._before = hyperparameters  # of the method: now, and before its checkpoint's step
        if start in configuration.changes():
            self._before, *_ = split_hyperparameters(
                configuration.method, configuration.workload, configuration.at(start - 1), communicator.size
            )
        self.workload = registry.workload(configuration.workload, of_workload)
        self.workload.trial_folder = folder
        if settings.compile and (why := why_not_compiled(device)) is not None:
            raise NotApplicable(f"compile must be false on this host: {why}")
        self._communicator = communicator
        self._settings, self._device, self._stops = settings, device, stops
        self._num_synchronized = 0
        data = self.workload.load(Path(configuration.data) if configuration.data else None)
        method = registry.method(configuration.method)
        self.num_servers = method.num_servers(hyperparameters)
        self._only_serves = communicator.rank < self.num_servers
        self._keeps_step = not (method.asynchronous or method.serves(hyperparameters))  # with the other ranks
        place, num_training = max(0, communicator.rank - self.num_servers), communicator.size - self.num_servers
        share = Share(settings.batch_size, place, num_training, whole=method.layer_parallel)
        batches = training_batches(self.workload, configuration, data.train, share, hyperparameters, device)
        self._batches = NoSamples(batches) if self._only_serves else batches
        self._plan_reports(configuration)
        self._validate = self._evaluator(configuration, data.validation, "validation")
        self._test = self._evaluator(configuration, data.test, "test") if test else None
        self._trained_on: Evaluator | None = None
        if configuration.evaluate_train is not None:
            part = spread(data.train, configuration.evaluate_train)
            self._trained_on = self._evaluator(configuration, part, "training")
        self._optimizers = self._make_optimizers(settings)
        self._context = self._make_context(configuration, device)
        self._average = WeightAverage(self._context) if settings.ema else None
        self.method = method(hyperparameters, self._context)
        if self._average is not None:
            self._average.follow(self.method)
        name = configuration.method.rpartition(":")[2]
        self.notes = [f"{name}: {line}" for line in sentences(self._without_effect(hyperparameters))]
        self.notes += [*self._idle_settings(), *read_notes]
        self._observer = None
        if configuration.observe is not None:
            self._observer = LayerObserver(configuration.observe, self.method, communicator, self._untracked)
        self._begin()
        self._prepare_files(configuration)
        self._check_intervals(configuration)

    def _plan_reports(self, configuration: Configuration) -> None:
        """Set the training's length, and when it reports, evaluates, and stops early."""
        per_epoch = self._batches.num_batches
        steps = length_in_steps(self.workload, configuration)
        self._length = Length(steps or (configuration.epochs or self.workload.epochs) * per_epoch, per_epoch)
        self._reports = IntervalTrigger(configuration.report_every, self._length)
        every = configuration.evaluate_every
        self._evaluations = None if every is None else IntervalTrigger(every, self._length)
        self._sign = -1.0 if self.workload.direction == "maximize" else 1.0
        self._early_stopping = EarlyStopping(configuration.patience, self.workload.direction)
        self._counts_epochs = configuration.report_every is None or configuration.report_every.unit == "epochs"
        self._looks = IntervalTrigger(Every(1.0, "seconds"), self._length)

    def _evaluator(self, configuration: Configuration, data: Part, part: str) -> Evaluator:
        here = on_device(self._device, data)
        return Evaluator(self.workload, here, self._untracked, self._device, part, loader=configuration.loader)

    def _begin(self) -> None:
        """Set all that the training measures to its start."""
        self._model: nn.Module | None = None
        self._seconds, self._seconds_data, self._seconds_meeting = 0.0, 0.0, 0.0
        self._started, self._seconds_at_report = 0.0, 0.0
        self._step, self._rate = 0, 0.0
        self._num_taken, self._samples_before = 0, (0.0, 0.0)
        self._observed = 0
        self._losses: list[Tensor] = []  # since the last report
        self._epoch_losses: list[Tensor] = []
        self._reported: list[Progress] = []
        self.has_paused = False

    def _open_checkpoints(
        self, configuration: Configuration, notes: list[str]
    ) -> tuple[Checkpoints | None, dict[str, Any] | None]:
        """The trial's checkpoints, if it is to write them, and the state from which it continues; collective."""
        if configuration.checkpoint is None or configuration.checkpoint.every is None or self._folder is None:
            return None, None
        if registry.method(configuration.method).state_dict is Method.state_dict:
            raise NotApplicable(
                f"{configuration.method} does not define state_dict and load_state_dict, so it has no checkpoints: "
                "define them, or omit the study's `checkpoint`"
            )
        files = Checkpoints(self._folder, configuration, self._untracked)
        return files, files.read(notes)

    def _prepare_files(self, configuration: Configuration) -> None:
        """Prepare the writing of checkpoints and of the trained model, if they are asked for and have a folder."""
        self._was_end = False  # whether the checkpoint from which it continues was the last one
        self._saver: Saver | None = None
        self._trained: TrainedModel | None = None
        if configuration.checkpoint is None or self._folder is None:
            return
        if self._files is not None and configuration.checkpoint.every is not None:
            self._saver = Saver(self._files, IntervalTrigger(configuration.checkpoint.every, self._length))
        if configuration.checkpoint.weights != "none" and self._communicator.rank == 0:
            require_tensors(self._context.model)
            self._trained = TrainedModel(configuration.objective_from, self.workload.direction)

    def _idle_settings(self) -> Iterator[str]:
        """Sentences on settings of the optimizer that this network or training gives no effect."""
        s = self._settings
        if s.sync_batch_norm and not self._num_synchronized:
            yield "sync_batch_norm has no effect: the network has no layer of torch's own batch normalizations"
        if s.schedule in ("type1", "plateau") and self._length.num_epochs == 1:
            yield f"the schedule {s.schedule} has no effect: it acts after epochs, and this training has one"

    def _check_intervals(self, configuration: Configuration) -> None:
        """Raise NotApplicable for reports, or changes of hyperparameters, where the method cannot be interrupted."""
        if self._pauses_at is not None and self._saver is None:
            raise ValueError("a schedule of hyperparameters needs checkpoints, and a folder for them; got none")
        if (changes := configuration.changes()) and changes[-1] >= self._length.num_steps:
            raise ValueError(
                f"schedule must change hyperparameters before the end of the training, step {self._length.num_steps}; "
                f"got step {changes[-1]}"
            )
        per_epoch = self._length.steps_per_epoch
        within = [step for step in configuration.changes() if step % per_epoch]
        if within and not self.method.resumable_within_epoch:
            raise NotApplicable(
                f"{configuration.method} passes over the batches of an epoch in its own order, so hyperparameters "
                f"change between epochs of {per_epoch} steps only; got {', '.join(map(str, within))}"
            )
        intervals = [every for every in (configuration.report_every, configuration.evaluate_every) if every is not None]
        if self.method.resumable_within_epoch or all(every.unit == "epochs" for every in intervals):
            return
        raise NotApplicable(
            f"{configuration.method} passes over the batches of an epoch in its own order, so it is evaluated after "
            f"epochs only: report_every and evaluate_every must be in epochs; got {', '.join(map(str, intervals))}"
        )

    def _make_optimizers(self, settings: OptimizerSettings) -> OptimizerFactory:
        num_steps = self._length.num_steps
        return OptimizerFactory(
            settings,
            num_steps,
            round(settings.lr_warmup * num_steps),
            own_optimizer=registry.own("optimizer", settings.optimizer, self.workload),
            own_schedule=registry.own("schedule", settings.schedule, self.workload),
        )

    def _make_context(self, configuration: Configuration, device: str) -> Context:
        with _RANDOM_STATE:
            seed_all(configuration.seed)
            model = self.workload.model().to(device)
        for tensor in (*model.parameters(), *model.buffers()):
            self._untracked.broadcast(tensor.data)
        # From here on, randomness such as dropout differs between ranks.
        with _RANDOM_STATE:  # another thread may be drawing its model
            seed_all(configuration.seed * 1_000_003 + self._communicator.rank)
        if self._optimizers.settings.sync_batch_norm:
            self._num_synchronized = synchronize_batch_norm(model, self._communicator)
        return Context(
            model=model,
            loss=self.workload.training_loss,
            optimizers=self._optimizers,
            communicator=self._communicator,
            untracked=self._untracked,
            inputs=self._batches.example(),
            num_epochs=self._length.num_epochs,
            steps_per_epoch=self._length.steps_per_epoch,
            seed=configuration.seed,
            forward=self.workload.forward,
            groups=self.workload.parameter_groups,
            folder_path=self._folder,
        )

    def _without_effect(self, hyperparameters: object) -> Mapping[str, str]:
        communicator = self._communicator
        shape = TrainingShape(
            num_ranks=communicator.size,
            num_nodes=len(set(communicator.nodes)),
            num_epochs=self._length.num_epochs,
            steps_per_epoch=self._length.steps_per_epoch,
        )
        return self.method.without_effect(hyperparameters, shape)

    def train(self) -> Iterator[Progress]:
        """Train to the end, reporting at the interval `report_every`, by default after every epoch.

        A training that continues from a checkpoint first repeats the reports from before it.

        Raises:
            Diverged: on a rank whose loss is NaN or infinite, or on all ranks if the epoch's mean is.
        """
        try:
            self._continue()
            yield from [replace(progress, is_repeated=True) for progress in self._reported]
            for report in itertools.chain(self._due_at_the_former_end(), self._epochs()):
                yield report
                if report.last:
                    return
        finally:
            self._batches.close()
            for evaluator in (self._validate, self._test, self._trained_on):
                if evaluator is not None:
                    evaluator.close()

    def _epochs(self) -> Iterator[Progress]:
        per_epoch = self._length.steps_per_epoch
        for epoch in range(self._step // per_epoch, self._length.num_epochs):
            end = epoch * per_epoch + self._length.steps_of(epoch)
            if self._step == epoch * per_epoch:
                self._epoch_losses.clear()
            self._start_clock()
            for loss in self.method.epoch(self._scheduled(epoch)):
                self._step += 1
                self._took(loss)
                if self._step < end:
                    yield from self._between_steps(epoch)
                    if self._step == self._pauses_at:
                        self._pause_trace()
                        self._stop_clock()
                        self._pause()
                        return
            self._check_num_losses(epoch, end)
            self._pause_trace()
            summary = self._summarize(self._epoch_losses)
            _check_finite("training loss", summary.train_loss, self._step)
            is_whole = self._step % per_epoch == 0
            if not is_whole:  # of a longer training this is no end of an epoch
                self._save_at_the_end()
            self.method.epoch_end(summary.train_loss)
            self._optimizers.epoch_end(summary.train_loss)
            if is_whole:
                self._save_at_the_end()
            yield from self._after_epoch(epoch, summary)
            if self._step == self._pauses_at:
                self._pause()
                return
            self._save_if_due()

    def _check_num_losses(self, epoch: int, end: int) -> None:
        if self._step != end:
            expected = self._length.steps_of(epoch)
            raise TypeError(
                f"{type(self.method).__name__}.epoch must yield one loss per batch: {expected} in epoch {epoch + 1}; "
                f"got {self._step - end + expected}"
            )

    def _after_epoch(self, epoch: int, summary: _Summary) -> Iterator[Progress]:
        """After an epoch: a report, if it is due or the training ends."""
        if self._step == self._length.num_steps or self._fires(self._reports):
            if len(self._losses) != len(self._epoch_losses):
                summary = self._summarize(self._losses)
            yield self._report(epoch + (self._step % self._length.steps_per_epoch == 0), summary)
        else:
            self._stop_clock()

    def _between_steps(self, epoch: int) -> Iterator[Progress]:
        """Within an epoch: a report and a checkpoint, if they are due."""
        if self._fires(self._reports):
            yield self._report(epoch, self._summarize(self._losses))
            self._start_clock()  # not before: what is done with a report is no training
        if self._saver is not None and self.method.resumable_within_epoch:
            # Ranks that do not wait for one another agree when they meet anyway.
            looks = self._looks.is_due(self._step) and self._keeps_step
            if looks or self._saver.trigger.is_due(self._step):
                self._pause_trace()
                self._stop_clock()
                self._save_if_due()
                self._start_clock()

    def _pause(self) -> None:
        """Write a checkpoint where hyperparameters change, from which the training goes on with the new ones."""
        self.save()
        assert self._files is not None, "a schedule needs checkpoints"
        if self._files.newest != self._step:  # on all ranks alike
            why = self.notes[-1] if self.notes else "the reason is another rank's"
            raise OSError(f"hyperparameters change after step {self._step}, where training continues anew: {why}")
        self.has_paused = True

    # Checkpoints.

    def _save_if_due(self) -> None:
        """Write a checkpoint if one is due, or if the trial is asked to stop, which it then does; collective.

        Raises:
            Stopped: on all ranks.
        """
        if self._saver is None:
            return
        wish, seconds = self._of_root(float(self._stops()), self._seconds)
        self._looks.fires(self._step, seconds)
        is_due = self._saver.trigger.is_due(self._step) and self._saver.trigger.fires(self._step, seconds)
        if wish or is_due:
            self._saver.save(self._step, self._state, self.notes)
        if wish:
            raise Stopped(f"the search was asked to stop; a checkpoint was written after step {self._step}")

    def _save_at_the_end(self) -> None:
        """If checkpoints stay, write one after the last step, which need not be the last if the study becomes longer.

        This comes before the last report, as the model is not yet that of `finalize`: it can be trained on.
        """
        if self._step != self._length.num_steps or self._saver is None or not self._saver.files.stays:
            return
        is_whole = self._step % self._length.steps_per_epoch == 0
        if self._saver.files.newest != self._step and (is_whole or self.method.resumable_within_epoch):
            self._stop_clock()
            self._saver.save(self._step, lambda: self._state() | {"is_end": True}, self.notes)
            self._start_clock()

    def _due_at_the_former_end(self) -> Iterator[Progress]:
        """What comes after the step of a checkpoint that was written as that of the last step."""
        per_epoch = self._length.steps_per_epoch
        is_whole = self._step % per_epoch == 0
        if not self._was_end or (not is_whole and self._step == self._length.num_steps):  # the epoch ends again then
            return
        self._start_clock()
        if is_whole:
            yield from self._after_epoch(self._step // per_epoch - 1, self._summarize(self._epoch_losses))
        elif self._fires(self._reports):
            yield self._report(self._step // per_epoch, self._summarize(self._losses))
        else:
            self._stop_clock()

    def save(self) -> None:
        """Write a checkpoint now, between two reports, unless it is there; collective."""
        assert self._saver is not None, "a trial that pauses has checkpoints"
        if self._saver.files.newest != self._step:
            self._saver.save(self._step, self._state, self.notes)

    def _state(self) -> dict[str, Any]:
        """All that the rest of the training depends on, on this rank; collective."""
        evaluations = self._evaluations
        return {
            "step": self._step,
            "method": self.method.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizers": self._optimizers.state_dict(),
            "random": random_state(self._device),
            "seconds": [self._seconds, self._seconds_data, self._seconds_meeting, self._seconds_at_report],
            "losses": _stacked(self._losses),
            "epoch_losses": _stacked(self._epoch_losses),
            "reports_due": self._reports.state_dict(),
            "evaluations_due": None if evaluations is None else evaluations.state_dict(),
            "patience": self._early_stopping.state_dict(),
            "rate": self._rate,
            "samples": self._samples(),
            "ledger": self._communicator.ledger.rows(),
            "saver": None if self._saver is None else self._saver.state_dict(),
            "reports": [vars(progress) for progress in self._reported],
            "trained": None if self._trained is None else self._trained.state_dict(),
        }

    def _continue(self) -> None:
        """Continue from the newest checkpoint, if there is one; collective."""
        if self._saver is None or (state := self._found) is None:
            return
        self._found = None  # free its memory
        self.method.load_state_dict(state["method"])
        if self._before != self._hyperparameters:
            self.method.change(self._before)
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._step = state["step"]
        self._optimizers.load_state_dict(state["optimizers"])
        self._rate = state["rate"]
        self._samples_before = state.get("samples", (math.nan, math.nan))  # of a version that did not count
        self._seconds, self._seconds_data, self._seconds_meeting, self._seconds_at_report = state["seconds"]
        self._losses = list(state["losses"].to(self._device))
        self._epoch_losses = list(state["epoch_losses"].to(self._device))
        (seconds,) = self._of_root(self._seconds)
        self._reports.load_state_dict(state["reports_due"], self._step, seconds)
        if self._evaluations is not None:
            self._evaluations.load_state_dict(state["evaluations_due"], self._step, seconds)
        self._early_stopping.load_state_dict(state["patience"])
        self._communicator.ledger.add(state["ledger"])
        self._reported = [Progress(**report) for report in state["reports"]]
        self._saver.load_state_dict(state["saver"])
        self._continue_weights(state.get("trained"))
        self._was_end = state.get("is_end", False)
        self._batches.pass_over(self._step, self._communicator.progress)
        for trigger in (self._saver.trigger, self._looks):
            trigger.restart(self._step, seconds)
        self.notes.append(f"continued from the checkpoint of step {self._step}")
        if self._observer is not None:
            self._observer.begin()
            self.notes.append("the layers are observed anew since then: their changes count from there")
        set_random_state(state["random"], self._device)

    def _continue_weights(self, state: dict[str, Any] | None) -> None:
        if self._trained is not None and state is not None:
            self._trained.load_state_dict(state)
        elif self._trained is not None and self._trained.holds_best and self._reported:
            self._trained = None
            self.notes.append("no weights are kept: the checkpoint holds no model of the reports before it")

    def _of_root(self, *values: float) -> list[float]:
        """The root's values, on all ranks."""
        told = torch.tensor(values, dtype=torch.float64)
        self._untracked.broadcast(told)
        return [float(value) for value in told]

    # The clock.

    def _start_clock(self) -> None:
        self._started = time.perf_counter()
        if (trace := self._communicator.ledger.trace) is not None:
            trace.begin()

    def _stop_clock(self) -> None:
        """Add the time since the clock was started to the training time."""
        self._seconds += time.perf_counter() - self._started

    def _pause_trace(self) -> None:
        if (trace := self._communicator.ledger.trace) is not None:
            trace.pause()

    def _took(self, loss: Tensor) -> None:
        """A step has been taken: remember its loss, and look at it now and then."""
        if self._average is not None:
            self._average.update()
        self._losses.append(loss)
        self._epoch_losses.append(loss)
        self._communicator.progress()
        if (trace := self._communicator.ledger.trace) is not None:
            trace.end_step()
        if self._step == 1 and not self._only_serves:
            self._check_that_settings_act()
        # Reading a loss on a GPU waits for it.
        if loss.device.type == "cpu" or self._step % self.LOOK_EVERY == 0:
            _check_finite("training loss", float(loss), self._step)

    def _check_that_settings_act(self) -> None:
        s = self._settings
        if (s.precision != "float32" or s.accumulate > 1 or s.compile) and not self._context.gradient.num_calls:
            raise NotApplicable(
                f"{type(self.method).__name__} does not make its gradients with `context.gradient`, so precision must "
                f"be float32, accumulate 1 and compile false; got {s.precision}, {s.accumulate} and {s.compile}"
            )

    def _report(self, epoch: int, summary: _Summary) -> Progress:
        """Evaluate if that is due, and report; the clock stands still meanwhile.

        Args:
            epoch: the number of completed epochs.
            summary: of the steps since the last report.
        """
        self._pause_trace()
        (train_loss, wire_bytes, passes), step = summary, self._step
        _check_finite("training loss", train_loss, step)
        is_last = step == self._length.num_steps
        self._losses = []
        evaluates = is_last or self._evaluations is None or self._fires(self._evaluations)
        model = None
        if evaluates:
            model = self._evaluation_model(is_last)
        self._stop_clock()
        seconds, self._seconds_at_report = self._seconds - self._seconds_at_report, self._seconds
        scores: dict[str, float] = {} if model is None else self._evaluated(model, seconds)
        if model is not None and self._saver is not None:
            self._saver.saw(self._sign * scores[self.workload.metric])
        if model is not None and not is_last and self._early_stopping.ends(scores[self.workload.metric]):
            if self._saver is not None and self._saver.is_due_for_best:
                self.save()
            is_last, model = True, self._evaluation_model(is_last=True)
            scores = self._evaluated(model, seconds)
        scores |= {str(name): float(value) for name, value in self.method.metrics().items()}
        if not math.isnan(passes):
            scores["passes"] = passes
        if self._saver is not None:
            scores |= self._saver.metrics()
        if is_last:
            if self._saver is not None:
                self._saver.end(step, self.notes)
            self._model = model
            wire_bytes = self._summarize(self._epoch_losses).wire_bytes
        if model is not None:
            self._keep_weights(model, scores[self.workload.metric], is_last=is_last)
        progress = Progress(
            step=step,
            epoch=epoch,
            seconds=self._seconds,
            train_loss=train_loss,
            validation_loss=scores.pop("loss", None),
            metric=scores.pop(self.workload.metric, None),
            learning_rate=self._rate,
            wire_bytes=wire_bytes,
            metrics=scores,
            last=is_last,
            by_steps=not self._counts_epochs,
        )
        self._reported.append(progress)
        return progress

    def _keep_weights(self, model: nn.Module, metric: float, *, is_last: bool) -> None:
        """Take in an evaluated model, and write the one that counts after the last."""
        if self._trained is None or self._folder is None:
            return
        self._trained.see(model, metric, is_last=is_last)
        if is_last:
            try:
                self._trained.write(TrialFolder(self._folder))
            except OSError as error:
                self.notes.append(f"the weights could not be written: {error.strerror or error}")

    def _evaluation_model(self, is_last: bool) -> nn.Module:
        """The network to be evaluated: the method's, or the average of its weights; collective."""
        model = self.method.finalize() if is_last else self.method.evaluation_model()
        return model if self._average is None else self._average.model(model)

    def _evaluated(self, model: nn.Module, seconds: float) -> dict[str, float]:
        """All measurements of the model."""
        scores = self._validate(model)
        _check_finite("validation loss", scores["loss"], self._step)
        _check_finite(self.workload.metric, scores[self.workload.metric], self._step)
        if self._trained_on is not None:
            scores[TRAINED] = self._trained_on(model)["loss"]
            _check_finite(TRAINED, scores[TRAINED], self._step)
        if self._observer is not None and self._observed != self._step:
            self._observed = self._step
            scores |= self._observer(model, seconds)
        if self._test is not None:
            scores |= {f"test_{name}": value for name, value in self._test(model).items()}
        return scores

    def _fires(self, trigger: IntervalTrigger) -> bool:
        """Whether an interval has passed; ranks agree on the time."""
        if not trigger.is_due(self._step):
            return False
        seconds = 0.0
        if trigger.is_in_seconds:
            (seconds,) = self._of_root(self._seconds + time.perf_counter() - self._started)
        return trigger.fires(self._step, seconds)

    def _scheduled(self, epoch: int) -> Iterator[Batch]:
        """The rest of an epoch's batches; sets each step's learning rate, and measures the loading time."""
        first = epoch * self._length.steps_per_epoch
        batches = self._batches.epoch(epoch, self._step - first)
        for number in range(self._step, first + self._length.steps_of(epoch)):
            started = time.perf_counter()
            batch = next(batches)
            self._seconds_data += time.perf_counter() - started
            self._num_taken += len(batch.indices)
            self._optimizers.set_step(number)
            self._rate = self._optimizers.learning_rate
            yield batch

    def agrees_to_end(self, wish: bool) -> bool:
        """Return the root's wish to end the training now on all ranks. Collective, between two reports."""
        decision = torch.tensor([float(wish)])
        self._untracked.broadcast(decision)
        return bool(decision)

    def seconds(self) -> dict[str, float]:
        """The parts of this rank's training time: making batches, waiting for other ranks, and computing (the rest)."""
        waiting = self._communicator.ledger.seconds_waited() + self._seconds_meeting
        if self._only_serves:
            waiting = max(0.0, self._seconds - self._seconds_data)
        compute = max(0.0, self._seconds - self._seconds_data - waiting)
        parts = {"compute": compute, "waiting": waiting, "data": self._seconds_data}
        return parts if self._saver is None else parts | {"checkpoints": self._saver.seconds}

    def _summarize(self, losses: list[Tensor]) -> _Summary:
        """What all ranks have done so far, with the mean of their training losses."""
        before = time.perf_counter()
        size, rank = self._communicator.size, self._communicator.rank
        totals = torch.zeros(2 + 2 * size, dtype=torch.float64)
        if not self._only_serves:
            totals[0] = torch.stack(losses).to("cpu", torch.float64).mean()
        totals[1] = self._communicator.ledger.wire_bytes()
        totals[2 + rank], totals[2 + size + rank] = self._samples()
        self._untracked.sum(totals)
        self._seconds_meeting += time.perf_counter() - before
        passes = self._passes(counted=float(totals[2 : 2 + size].max()), taken=float(totals[2 + size :].max()))
        return _Summary(float(totals[0]) / (size - self.num_servers), float(totals[1]), passes)

    def _samples(self) -> tuple[float, float]:
        """The samples whose passes the method has counted on this rank, and those of the batches that it has taken."""
        counted, taken = self._samples_before
        return counted + self._context.work.num_samples, taken + self._num_taken

    def _passes(self, counted: float, taken: float) -> float:
        """The samples that the busiest rank has passed forward and backward; NaN if unknown.

        Args:
            counted, taken: see `_samples`; the largest of all ranks.
        """
        if counted:
            return counted
        return taken if type(self.method).epoch is Method.epoch else math.nan

    @property
    def model(self) -> nn.Module:
        """The trained model, equal on all ranks."""
        assert self._model is not None, "the trial has not been trained to its end"
        return self._model


def _stacked(losses: list[Tensor]) -> Tensor:
    """The losses (n,) in host memory."""
    return torch.stack(losses).cpu() if losses else torch.zeros(0)


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"diverged at step {step}: the {name} is {value}")
