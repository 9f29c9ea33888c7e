"""A dry run: one batch through a workload on one rank, before anything expensive starts.

It follows the code that trains: the trial's first batch, forward, loss and backward, then a batch of the validation
data. It refuses only what cannot train; what may depend on this host, such as absent files or GPUs, is `Undecided`.
"""

from __future__ import annotations

import inspect
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, Subset

from atoll.analysis.failures import first_line, user_frame
from atoll.analysis.formatting import counted
from atoll.methods import METHODS
from atoll.methods.common.compiled import why_not_compiled
from atoll.methods.common.evaluation import evaluating
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.gradient import AUTOCAST_DTYPES
from atoll.methods.common.nested import Nested
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.method import Batch, NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import OWN, Configuration, split_hyperparameters
from atoll.platform.study.loader import Loader
from atoll.platform.trial.evaluator import evaluation_batches, spread
from atoll.platform.trial.failure import reason_of, traceback_of
from atoll.platform.trial.loaders import seed_all
from atoll.platform.trial.shares import Share
from atoll.platform.trial.training_batches import length_in_steps, training_batches
from atoll.platform.trial.weights import require_tensors
from atoll.platform.workloads.workload import Data, Part, Samples, Workload

_OF_HARDWARE = re.compile(
    r"cuda|nvidia|\bgpus?\b|\bhip\b|rocm|triton|\bxpu\b|\bmps\b|\bdevices?\b|not implemented for|no kernel|"
    r"out of memory|allocate memory|illegal instruction",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"out of memory|allocate memory|busy|unavailable|forked subprocess|initialization error|CUBLAS_STATUS|CUDNN_STATUS",
    re.IGNORECASE,
)


class Mistake(ValueError):
    """A workload cannot be trained; the message is a line with the shapes and the user's own line.

    Attributes:
        is_of_method: whether the reason is what the method cannot do.
        num_stages: how far the dry run came.
    """

    def __init__(self, message: str, *, is_of_method: bool = False, num_stages: int = 0) -> None:
        super().__init__(message)
        self.is_of_method = is_of_method
        self.num_stages = num_stages


class Undecided(Exception):
    """The dry run cannot tell: what failed may be there where the ranks run. The message is a line."""


def described(nested: Nested) -> str:
    """The types and shapes of a nesting of tensors.

    Example:
        >>> described({"input_ids": torch.ones(2, 7, dtype=torch.int64), "scale": (torch.ones(2), 3)})
        '{input_ids: int64 (2, 7), scale: tuple of (float32 (2,), int)}'
    """
    if isinstance(nested, Tensor):
        return f"{str(nested.dtype).removeprefix('torch.')} {tuple(nested.shape)}"
    if isinstance(nested, Mapping):
        return "{" + ", ".join(f"{name}: {described(value)}" for name, value in islice(nested.items(), 8)) + "}"
    if isinstance(nested, tuple | list):
        return f"{type(nested).__name__} of ({', '.join(map(described, nested[:8]))})"
    return type(nested).__name__


class DryRun:
    """Dry runs of one workload.

    Args:
        device: the rank's device.
        test: whether the test data are measured, too.
        tell: receives the name of each stage when it begins.
    """

    def __init__(self, device: str, *, test: bool = False, tell: Callable[[str], None] = lambda _: None) -> None:
        self._device = device
        self._parts = ("train", "validation", "test") if test else ("train", "validation")
        self._tell = tell
        self._shapes: dict[str, str] = {}
        self._class: type[Workload] | None = None
        self._num_stages = 0
        self._num_steps = 0

    def __call__(self, configuration: Configuration) -> dict[str, Any]:
        """Take a batch through the workload; returns shapes and scores.

        Raises:
            Mistake: if the configuration cannot be trained.
            Undecided: if it may be trained where the ranks run.
        """
        with tempfile.TemporaryDirectory(prefix="atoll-check-") as own:
            return self._checked(configuration, Path(own))

    def _checked(self, configuration: Configuration, own: Path) -> dict[str, Any]:
        self._shapes, self._num_stages = {}, 0
        with self._stage("hyperparameters"):
            of_method, settings, of_workload = split_hyperparameters(
                configuration.method, configuration.workload, configuration.hyperparameters, configuration.ranks
            )
            workload = registry.workload(configuration.workload, of_workload)
            self._class = type(workload)
        workload.trial_folder = own
        if settings.compile and (why := why_not_compiled(self._device)) is not None:
            raise Undecided(f"compile: {why}")
        self._check_names(workload)
        with self._stage("load", workload.load):
            data = self._load(workload, configuration)
        num_training = configuration.ranks - registry.method(configuration.method).num_servers(of_method)
        self._check_sizes(workload, data, settings.batch_size, num_training)
        if configuration.evaluate_train is not None:
            with self._stage("load", workload.load):
                spread(data.train, configuration.evaluate_train)
        with self._stage("batch", *_makers(workload)):
            batch = self._batch(workload, configuration, data.train, of_method, settings)
        model = self._model(workload, configuration)
        loss = self._differentiate(workload, model, batch, settings)
        scores = {
            part: self._evaluate(workload, model, getattr(data, part), part, len(batch.indices), configuration.ranks)
            for part in self._parts[1:]
        }
        self._optimize(workload, model, configuration, settings)
        return {"batch_size": settings.batch_size, "loss": loss, "scores": scores["validation"], **self._shapes}

    # Errors.

    @contextmanager
    def _stage(self, stage: str, *functions: Callable[..., Any]) -> Iterator[None]:
        """Turn an error of the user's code into a line.

        Args:
            stage: what the code does.
            functions: those it is in; the first of the user's locates an error that is raised elsewhere.
        """
        self._tell(stage)
        self._num_stages += 1
        try:
            yield
        except (Mistake, Undecided):
            raise
        except NotApplicable as error:
            raise Mistake(str(error), is_of_method=True, num_stages=self._num_stages) from None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if not isinstance(error, RecursionError) and _is_of_this_host(error, self._device):
                raise Undecided(f"{stage}: {first_line(reason_of(error))}") from None
            frame = user_frame(traceback_of(error), or_any=False) or self._place(*functions)
            line = self._line(f"{stage}: {first_line(reason_of(error))}", frame)
            raise Mistake(line, num_stages=self._num_stages) from None

    def _mistake(self, rule: str, *functions: Callable[..., Any]) -> Mistake:
        return Mistake(self._line(rule, self._place(*functions)), num_stages=self._num_stages)

    def _line(self, said: str, frame: str) -> str:
        seen = ", ".join(f"{name} {shape}" for name, shape in self._shapes.items())
        return said + (f"; {seen}" if seen else "") + (f"; at {frame}" if frame else "")

    def _place(self, *functions: Callable[..., Any]) -> str:
        """The definition of the first of the functions that is the user's, else of the workload."""
        places = (_definition(function) for function in functions)
        return next(filter(None, places), "") or ("" if self._class is None else _class_definition(self._class))

    # Stages.

    def _check_names(self, workload: Workload) -> None:
        names = ["loss", workload.metric, *workload.further_metrics]
        if len(set(names)) < len(names):
            raise self._mistake(
                "the metric and the further metrics must have names of their own, other than `loss`; got "
                f"{', '.join(names[1:])}",
                workload.measure,
            )

    def _load(self, workload: Workload, configuration: Configuration) -> Data[Any]:
        # Each time, as `model` may need what `load` has seen.
        data: Any = workload.load(Path(configuration.data) if configuration.data else None)
        if not isinstance(data, Data):
            rule = f"load must return Data(train, validation, test); got {described(data)}"
            raise self._mistake(rule, workload.load)
        return data

    def _check_sizes(self, workload: Workload, data: Data[Any], batch_size: int, ranks: int) -> None:
        for part in self._parts:
            content = getattr(data, part)
            if isinstance(content, IterableDataset):
                continue
            with self._stage("load", workload.load):
                num = len(content)
            if not num:
                raise self._mistake(f"load: the {part} data must have at least one sample; got none", workload.load)
            if part == "train" and num < batch_size * ranks:
                raise self._mistake(
                    f"load: a global batch must have at most {num} samples, the size of the training data; batch_size "
                    f"{batch_size} on {counted(ranks, 'rank')} makes {batch_size * ranks}",
                    workload.load,
                )
            if isinstance(content, Samples) and len(content.inputs) < len(content.targets):
                raise self._mistake(
                    f"load: the {part} data must have an input for each target; got inputs "
                    f"{described(content.inputs)} and targets {described(content.targets)}",
                    workload.load,
                )

    def _batch(
        self,
        workload: Workload,
        configuration: Configuration,
        data: Part,
        of_method: object,
        settings: OptimizerSettings,
    ) -> Batch:
        """The first batch of the first rank that trains, or its first micro-batch."""
        method = registry.method(configuration.method)
        num_training = configuration.ranks - method.num_servers(of_method)
        share = Share(settings.batch_size, 0, num_training, whole=method.layer_parallel)
        here = configuration.model_copy(update={"loader": Loader()})  # worker processes take seconds to start
        batches = training_batches(workload, here, data, share, of_method, self._device)
        batch = next(batches.epoch(0))
        epochs = configuration.epochs or workload.epochs
        self._num_steps = length_in_steps(workload, configuration) or epochs * batches.num_batches
        batches.close()
        batch = next(batch.parts(settings.accumulate)) if settings.accumulate > 1 else batch
        self._shapes |= {"inputs": described(batch.inputs), "targets": described(batch.targets)}
        return batch

    def _model(self, workload: Workload, configuration: Configuration) -> nn.Module:
        seed_all(configuration.seed)
        with self._stage("model", workload.model):
            model: Any = workload.model()
            if not isinstance(model, nn.Module):
                raise self._mistake(f"model must return a torch.nn.Module; got {described(model)}", workload.model)
            network: nn.Module = model.to(self._device)
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            rule = "model: the network must have a parameter that requires gradients; got none"
            raise self._mistake(rule, workload.model)
        dtypes = {str(t.dtype) for t in (*trained, *(b for b in network.buffers() if b.is_floating_point()))}
        if _is_flat(configuration) and len(dtypes) > 1:
            raise self._mistake(
                "model: the network's trained parameters and floating-point buffers must share one dtype; got "
                f"{', '.join(sorted(dtypes))}",
                workload.model,
            )
        if configuration.checkpoint is not None and configuration.checkpoint.weights != "none":
            with self._stage("weights", workload.model):
                require_tensors(network)
        return network

    def _differentiate(self, workload: Workload, model: nn.Module, batch: Batch, settings: OptimizerSettings) -> float:
        # What methods minimize: by default `training_loss` is `loss`, whose line is then the user's.
        own = type(workload).training_loss is not Workload.training_loss
        losses = (workload.training_loss, workload.loss) if own else (workload.loss,)
        dtype = AUTOCAST_DTYPES[settings.precision]
        casts = nullcontext() if dtype is None else torch.autocast(torch.device(self._device).type, dtype)
        with casts:
            with self._stage("forward", workload.forward, workload.model):
                outputs = workload.forward(model, batch)
            self._shapes["outputs"] = described(outputs)
            with self._stage("loss", *losses):
                loss: Any = workload.training_loss(outputs, batch.targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise self._mistake(
                f"loss must be a scalar tensor, the mean over the batch; got {described(loss)}", *losses
            )
        if not loss.requires_grad:
            raise self._mistake("loss must depend on the network's parameters; its result has no gradient", *losses)
        with self._stage("backward", *losses):
            loss.float().backward()  # type: ignore[no-untyped-call]
        if all(p.grad is None for p in model.parameters()):
            raise self._mistake("loss must depend on the network's parameters; none got a gradient", *losses)
        if not math.isfinite(value := float(loss.detach())):
            raise self._mistake(f"loss must be finite; got {value} for the first batch", *losses)
        return value

    def _optimize(
        self, workload: Workload, model: nn.Module, configuration: Configuration, settings: OptimizerSettings
    ) -> None:
        """Steps of the optimizer without gradients: the training's first, middle and last one."""
        if not _is_flat(configuration):
            return
        own = {kind: registry.own(kind, getattr(settings, kind), workload) for kind in OWN}
        with self._stage("parameter_groups", workload.parameter_groups):
            flat = FlatModel(model, workload.parameter_groups(model))
        num_steps = self._num_steps
        with self._stage("optimizer and schedule", *filter(None, own.values())):
            optimizers = OptimizerFactory(
                settings,
                num_steps,
                round(settings.lr_warmup * num_steps),
                own_optimizer=own["optimizer"],
                own_schedule=own["schedule"],
            )
            optimizer = optimizers(flat)
            for step in (0, num_steps // 2, num_steps - 1):
                optimizers.set_step(step)
                optimizer.step()

    def _evaluate(
        self, workload: Workload, model: nn.Module, data: Part, part: str, num: int, ranks: int
    ) -> dict[str, float]:
        """The scores of `num` samples; if they fail, of all of rank 0's first batch, as a metric may need them."""
        before = dict(self._shapes)
        if num < workload.evaluation_batch_size:
            with suppress(Mistake):
                return self._scores(workload, model, _head(data, num), part, 1)
            self._shapes = before
        return self._scores(workload, model, _head(data, workload.evaluation_batch_size * ranks), part, ranks)

    def _scores(self, workload: Workload, model: nn.Module, data: Part, part: str, ranks: int) -> dict[str, float]:
        """The scores of rank 0's first batch."""
        trained_on = dict(self._shapes)
        self._shapes = {}
        with self._stage(f"{part} data", *_makers(workload)):
            batch = next(iter(evaluation_batches(workload, data, 0, ranks, self._device)), None)
        if batch is None:
            raise self._mistake(f"load: the {part} data must have at least one sample; got none", workload.load)
        self._shapes = {"inputs": described(batch.inputs), "targets": described(batch.targets)}
        self._shapes |= {f"training {name}": shape for name, shape in trained_on.items() if name != "outputs"}
        with torch.no_grad(), evaluating(model):
            with self._stage(f"forward on {part} data", workload.forward, workload.model):
                outputs = workload.forward(model, batch)
            self._shapes["outputs"] = described(outputs)
            self._check_measures(workload, outputs, batch.targets)
            with self._stage(f"metrics on {part} data", workload.totals, workload.measure):
                totals = torch.zeros(workload.num_totals, dtype=torch.float64)
                totals += workload.totals(outputs, batch.targets)
                scores: Any = workload.scores(totals)
        wanted = ("loss", workload.metric)
        if not isinstance(scores, Mapping) or any(name not in scores for name in wanted):
            got = ", ".join(map(str, scores)) if isinstance(scores, Mapping) else described(scores)
            raise self._mistake(f"scores must have {' and '.join(wanted)}; got {got or 'nothing'}", workload.scores)
        if missing := [name for name in workload.metric_directions if name not in scores]:
            rule = f"scores must have {' and '.join(missing)}, which metric_directions declares"
            raise self._mistake(f"{rule}; got {', '.join(map(str, scores))}", workload.scores)
        with self._stage(f"metrics on {part} data", workload.scores, workload.measure):
            values = {str(name): float(score) for name, score in scores.items()}
        self._shapes = trained_on
        return values

    def _check_measures(self, workload: Workload, outputs: Nested, targets: Nested) -> None:
        """Each metric must be a scalar; the workload's own `totals` may not use them."""
        if type(workload).totals is not Workload.totals:
            return
        for name, measure in {workload.metric: workload.measure, **workload.further_metrics}.items():
            with self._stage(f"metric {name}", measure):
                value: Any = measure(outputs, targets)
            if isinstance(value, Tensor) and value.numel() == 1:
                continue
            if isinstance(value, Tensor | Sequence | Mapping) or value is None:
                rule = f"metric {name} must be a scalar, the mean over a batch; got {described(value)}"
                raise self._mistake(rule, measure)


def _is_flat(configuration: Configuration) -> bool:
    """Whether the method trains one flat vector; those outside the registry, or that cut the network, may not."""
    return configuration.method in METHODS and not registry.method(configuration.method).layer_parallel


def _makers(workload: Workload) -> tuple[Callable[..., Any], ...]:
    """The functions that make batches."""
    return workload.load, workload.collate, workload.inputs_and_targets, workload.transform


def _definition(function: Callable[..., Any]) -> str:
    """Where a function is defined; empty if in atoll or an installed package."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else _frame(code.co_filename, code.co_firstlineno, code.co_name)


def _class_definition(of: type) -> str:
    try:
        file, line = inspect.getsourcefile(of), inspect.getsourcelines(of)[1]
    except (OSError, TypeError):
        return ""
    return _frame(str(file), line, f"class {of.__name__}")


def _frame(file: str, line: int, name: str) -> str:
    return user_frame(f'  File "{file}", line {line}, in {name}', or_any=False)


def _head(data: Part, size: int) -> Part:
    """The first samples of a part."""
    if isinstance(data, Samples):
        return Samples(data.inputs[:size], data.targets[:size])
    if isinstance(data, IterableDataset):
        return data
    return Subset(data, range(min(size, len(data))))  # type: ignore[arg-type]


def _is_of_this_host(error: BaseException, device: str) -> bool:
    """Whether an error may be the host's, not the workload's: files, modules, memory, or a GPU that others have."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(cause, OSError | ImportError | MemoryError) for cause in causes):
        return True
    pattern = _OF_HARDWARE if device == "cpu" else _MEMORY
    return any(pattern.search(reason_of(cause)) for cause in causes)
