"""The interface of a training method, which owns the whole step, from the batch to the changed parameters.

The trial's loop calls `epoch` with this rank's share of every global batch of an epoch, the same number on every rank;
by default `epoch` calls `step` once per batch. It calls `epoch_end` after each epoch, `evaluation_model` at any time
between epochs, `state_dict` at any time between two steps, and `finalize` once, after the last epoch. All of these are
collective: every rank of the worker calls them in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.effects import TrainingShape
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.gradient import BatchGradient, split_evenly
from atoll.methods.common.groups import Groups, default_groups
from atoll.methods.common.nested import Nested, map_tensors
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.common.weight_average import Evaluated, replicas
from atoll.methods.common.work import Work

Loss = Callable[[Nested, Nested], Tensor]
MetricDirections = Mapping[str, Literal["minimize", "maximize"] | None]
H = TypeVar("H")  # a method's dataclass of hyperparameters


class NotApplicable(ValueError):
    """A method cannot do what it is asked to do; raised by `Method.check` or a method's `__init__`, before training.

    The message states the rule, the value and what is valid. A search counts such a configuration as infeasible.

    Example:
        >>> from atoll import NotApplicable
        >>> num_ranks = 1
        >>> if num_ranks < 2:
        ...     raise NotApplicable(f"gossip needs at least 2 ranks per worker; got {num_ranks}")
        Traceback (most recent call last):
        atoll.methods.method.NotApplicable: gossip needs at least 2 ranks per worker; got 1
    """


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A rank's share of a global batch of b samples; for a layer-parallel method, the whole of it.

    Attributes:
        indices: (b,) int64, the samples' positions in the training set, for methods that keep something per sample; in
            iterable data, positions in the stream.
        inputs: (b, ...) as the network takes them, on the rank's device; or a dict, list or tuple of such tensors.
        targets: (b, ...) as the loss takes them, on the rank's device; or a dict, list or tuple of such tensors.

    Example:
        >>> import torch
        >>> from atoll import Batch
        >>> batch = Batch(indices=torch.tensor([7, 3]), inputs=torch.ones(2, 64), targets=torch.tensor([1, 0]))
        >>> batch.inputs.shape
        torch.Size([2, 64])
        >>> [part.indices.tolist() for part in batch.parts(2)]
        [[7], [3]]
    """

    indices: Tensor
    inputs: Nested
    targets: Nested

    def parts(self, num_parts: int) -> Iterator[Batch]:
        """Cut the batch into micro-batches whose sizes differ by at most one; fewer if there are fewer samples."""
        for part in split_evenly(len(self.indices), num_parts):
            yield Batch(
                indices=self.indices[part],
                inputs=map_tensors(itemgetter(part), self.inputs),
                targets=map_tensors(itemgetter(part), self.targets),
            )


def forward(model: nn.Module, batch: Batch) -> Nested:
    """The network's outputs: `model(inputs)`, `model(**inputs)` for a dict, `model(*inputs)` for a list or tuple."""
    inputs = batch.inputs
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything a method is given, apart from its hyperparameters.

    Attributes:
        model: the network, with equal parameters on every rank, on the rank's device.
        loss: (outputs, targets) -> mean loss over the batch, a scalar.
        optimizers: makes optimizers whose learning rate follows the trial's schedule.
        communicator: the worker's ranks; its ledger counts the method's traffic.
        untracked: the same ranks, for evaluation and other traffic that does not count as the method's.
        inputs: (b, ...) some training inputs as the network takes them, to derive shapes or times from.
        num_epochs: the length of the training, in epochs.
        steps_per_epoch: the number of batches of an epoch.
        seed: seeds the method's own randomness.
        forward: (network, batch) -> outputs. Default: `model(batch.inputs)`.
        groups: the workload's parameter groups of the network. Default: those of `default_groups`.
        folder_path: where `folder` is made. Default: nowhere.

    Example:
        >>> import torch
        >>> from atoll import Batch, Context, FlatModel
        >>> context = Context.on_one_rank(torch.nn.Linear(4, 2), torch.nn.functional.cross_entropy)
        >>> flat = FlatModel(context.model)
        >>> optimizer = context.optimizers([flat.vector])
        >>> batch = Batch(indices=torch.arange(3), inputs=torch.ones(3, 4), targets=torch.tensor([0, 1, 1]))
        >>> loss = context.gradient(batch, flat)
        >>> optimizer.step()
        >>> bool(context.gradient(batch, flat) < loss)
        True
        >>> context.communicator.size
        1
    """

    model: nn.Module
    loss: Loss
    optimizers: OptimizerFactory
    communicator: Communicator
    untracked: Communicator
    inputs: Tensor
    num_epochs: int
    steps_per_epoch: int
    seed: int
    forward: Callable[[nn.Module, Batch], Nested] = forward
    groups: Groups = default_groups
    folder_path: Path | None = None

    @property
    def folder(self) -> Path | None:
        """The trial's own folder, for files of the method's, made when first asked for; see `Workload.trial_folder`."""
        if self.folder_path is not None:
            self.folder_path.mkdir(parents=True, exist_ok=True)
        return self.folder_path

    @cached_property
    def gradient(self) -> BatchGradient:
        """Makes loss and gradient of a batch: `loss = context.gradient(batch, flat)`.

        It puts the gradient of the batch's mean loss into a `FlatModel` (or into `GradientBuckets`, which average it
        over ranks), and returns the loss, a detached scalar. It is the only place that knows the trial's precision,
        accumulation and compilation.
        """
        return BatchGradient(self.model, self.forward, self.loss, self.optimizers, self.work)

    @cached_property
    def work(self) -> Work:
        """Counts the samples that this rank passes forward and backward, which the trial reports as `passes`.

        `gradient` counts by itself. A method that differentiates otherwise calls `context.work.add(num_samples)`; if it
        does not, each sample of a batch counts once, or, if it overrides `epoch`, the trial reports no `passes`.
        """
        return Work()

    def flatten(self) -> FlatModel:
        """Put the network on one flat vector, with the workload's parameter groups; it is changed in place.

        Raises:
            ValueError: if the parameters have several dtypes or devices, or if a trained one is not in one group.
        """
        return FlatModel(self.model, self.groups(self.model))

    @classmethod
    def on_one_rank(
        cls,
        model: nn.Module,
        loss: Loss,
        *,
        settings: OptimizerSettings | None = None,
        inputs: Tensor | None = None,
        num_epochs: int = 1,
        steps_per_epoch: int = 1,
        seed: int = 0,
    ) -> Context:
        """Make a context with one virtual rank, to try a method without MPI.

        Args:
            model, loss, num_epochs, steps_per_epoch, seed: see Context.
            settings: of the optimizers. Default: those of `OptimizerSettings`.
            inputs: see Context. Default: none, shape (0,).
        """
        from atoll.communication.threads import single_rank

        communicator = single_rank()
        return cls(
            model=model,
            loss=loss,
            optimizers=OptimizerFactory(settings or OptimizerSettings(), num_epochs * steps_per_epoch),
            communicator=communicator,
            untracked=communicator.split(0, ledger=communicator.ledger.untracked()),
            inputs=torch.empty(0) if inputs is None else inputs,
            num_epochs=num_epochs,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class NoHyperparameters:
    """The hyperparameters of a method that has none."""


class Method(ABC, Generic[H]):
    """A training method; `H` is its dataclass of hyperparameters.

    A subclass defines `__init__`, `step`, `evaluation_model` and `finalize`; all else is optional.

    Class attributes:
        Hyperparameters: H, a frozen keyword-only dataclass that validates itself in `__post_init__`. Default: none.
        optimizer_defaults: optimizer settings whose defaults differ from the shared ones, such as the source's.
        min_ranks, max_ranks: the numbers of ranks per worker that the method supports; None for no limit.
        asynchronous: whether ranks do not wait for one another by default, so that the same seed may give different
            results; see also `serves`.
        layer_parallel: whether ranks hold parts of one network; each then receives the whole of every global batch.
        takes_turns: whether the ranks of a node take turns to communicate with their peers of other nodes.
        point_to_point: whether ranks with replicas wait for messages from one another, not from a center. Who sends at
            other numbers of ranks is not recorded, so such a method cannot be projected.
        resumable_within_epoch: whether a state that `state_dict` returns between two steps of an epoch continues at the
            next step. If not, checkpoints are taken between epochs only. Default: unless the class overrides `epoch`.
        mutable: the names of its hyperparameters, numbers, that may change between two steps of a training; see
            `change`. Those of the optimizer are `MUTABLE` in `atoll.methods.common.optimizers`.
        pruning: the default pruning of its trials: `rule`, and `while_falling`.
        metric_directions: the names of those of its `metrics` that every trial has, without a slash, each with the
            better direction, minimize or maximize; None if neither is better as such. A study may have them as
            objectives.
        search_space: a `SearchSpace` of its hyperparameters, for a method outside atoll's registry.

    Attributes:
        notes: remarks for the user on how the method runs here; equal on every rank.

    Example:
        Gradient averaging, trained for a step:

        >>> import torch
        >>> from dataclasses import dataclass
        >>> from atoll import Batch, Context, Method
        >>> @dataclass(frozen=True, kw_only=True)
        ... class AveragingHyperparameters:
        ...     scale: float = 1.0
        >>> class Averaging(Method[AveragingHyperparameters]):
        ...     Hyperparameters = AveragingHyperparameters
        ...
        ...     def __init__(self, hyperparameters: AveragingHyperparameters, context: Context) -> None:
        ...         self.scale, self.context = hyperparameters.scale, context
        ...         self.flat = context.flatten()
        ...         self.optimizer = context.optimizers(self.flat)
        ...
        ...     def step(self, batch: Batch) -> torch.Tensor:
        ...         loss = self.context.gradient(batch, self.flat)
        ...         self.context.communicator.mean(self.flat.gradients)
        ...         self.flat.gradients.mul_(self.scale)
        ...         self.optimizer.step()
        ...         return loss
        ...
        ...     def evaluation_model(self) -> torch.nn.Module:
        ...         return self.context.model
        ...
        ...     def finalize(self) -> torch.nn.Module:
        ...         return self.context.model
        >>> context = Context.on_one_rank(torch.nn.Linear(4, 1), torch.nn.functional.mse_loss)
        >>> method = Averaging(AveragingHyperparameters(), context)
        >>> batch = Batch(indices=torch.arange(8), inputs=torch.ones(8, 4), targets=torch.full((8, 1), 9.0))
        >>> bool(method.step(batch) > method.step(batch))
        True
    """

    Hyperparameters: ClassVar[type] = NoHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    min_ranks: ClassVar[int] = 1
    max_ranks: ClassVar[int | None] = None
    asynchronous: ClassVar[bool] = False
    layer_parallel: ClassVar[bool] = False
    takes_turns: ClassVar[bool] = False
    point_to_point: ClassVar[bool] = False
    resumable_within_epoch: ClassVar[bool] = True
    mutable: ClassVar[tuple[str, ...]] = ()
    pruning: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    metric_directions: ClassVar[MetricDirections] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep checkpoints out of an epoch whose passes the state may not know."""
        super().__init_subclass__(**kwargs)
        if "epoch" in vars(cls) and "resumable_within_epoch" not in vars(cls):
            cls.resumable_within_epoch = False

    @classmethod
    def check(cls, hyperparameters: H, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for what the method cannot do; cheap, and called before anything expensive starts."""
        name = cls.__module__.rpartition(".")[2]
        if cls.layer_parallel and (settings.precision != "float32" or settings.accumulate > 1):
            raise NotApplicable(
                f"{name} differentiates the network group by group: precision must be float32 and accumulate 1; got "
                f"{settings.precision} and {settings.accumulate}"
            )
        defaults = {one.name: one.default for one in fields(settings)}
        for setting, why in cls.unsupported(hyperparameters).items():
            if (value := getattr(settings, setting)) != defaults[setting]:
                raise NotApplicable(f"{name} {why}; {setting} must be {defaults[setting]}; got {value}")
        if num_ranks < cls.min_ranks:
            raise NotApplicable(f"{name} needs at least {cls.min_ranks} ranks per worker; got {num_ranks}")
        if num_ranks <= (num_servers := cls.num_servers(hyperparameters)):
            raise NotApplicable(
                f"{name} needs at least {num_servers + 1} ranks per worker, as {num_servers} of them only "
                f"serve{'s' if num_servers == 1 else ''}; got {num_ranks}"
            )
        if cls.max_ranks is not None and num_ranks > cls.max_ranks:
            raise NotApplicable(f"{name} is sequential: it trains on {cls.max_ranks} rank per worker; got {num_ranks}")
        if settings.sync_batch_norm and (cls.serves(hyperparameters) or cls.asynchronous or cls.layer_parallel):
            raise NotApplicable(
                f"{name}'s ranks do not take each step together on samples of their own, which sync_batch_norm needs; "
                "it must be false"
            )

    @classmethod
    def unsupported(cls, hyperparameters: H) -> Mapping[str, str]:
        """The names of optimizer settings that must keep their defaults, each with the reason.

        The reason follows the method's name: "evaluates an average itself". A subclass adds to those of its bases.
        """
        if cls.layer_parallel:
            return {"compile": "differentiates the network group by group, which torch.compile takes whole"}
        if cls.asynchronous or cls.serves(hyperparameters):
            return {"compile": "serves other ranks between the layers of a pass, which a compiled pass does not have"}
        return {}

    @classmethod
    def without_effect(cls, hyperparameters: H, shape: TrainingShape) -> Mapping[str, str]:
        """The names of hyperparameters that change nothing in a training of this shape, each with the reason.

        A search tells them before it starts, and a trial in its notes; nothing is refused.
        """
        return {}

    @classmethod
    def keeps_samples(cls, hyperparameters: H) -> bool:
        """Whether the method keeps something per sample; samples are then the same in every epoch: not augmented."""
        return False

    @classmethod
    def serves(cls, hyperparameters: H) -> bool:
        """Whether ranks answer messages of others while they train, as the owner of a center does."""
        return cls.asynchronous

    @classmethod
    def num_servers(cls, hyperparameters: H) -> int:
        """The number of ranks, the first ones, that only serve the others; those share the training data.

        A rank that only serves takes part in everything that is collective, and is called for as many steps. Its
        batches have no samples, and the losses that it returns do not count. A step ends there when the other ranks
        have, on average, taken theirs: schedules and averages of the weights follow its steps.
        """
        return 0

    @abstractmethod
    def __init__(self, hyperparameters: H, context: Context) -> None:
        """Set up, after `check`; raises NotApplicable for what only the ranks at work can detect."""

    @abstractmethod
    def step(self, batch: Batch) -> Tensor:
        """Train on one batch; return this rank's loss, a detached scalar whose mean over ranks is the batch's.

        On a rank that only serves (see `num_servers`), the batch has no samples.
        """

    def epoch(self, batches: Iterator[Batch]) -> Iterator[Tensor]:
        """Train on an epoch's batches, yielding the loss of each; to be overridden for several passes over them.

        Taking a batch from the iterator sets the learning rate to the schedule's at its step.

        An interrupted epoch continues with a call for the batches that are left, after `load_state_dict`. A method that
        overrides `epoch` is therefore interrupted between epochs only, unless it sets `resumable_within_epoch`: then
        its state holds the position within its passes. If it does not use `context.gradient`, it counts its passes with
        `context.work`.
        """
        for batch in batches:
            yield self.step(batch)

    def epoch_end(self, loss: float) -> None:
        """Advance the method's own schedules.

        Args:
            loss: the epoch's training loss, averaged over ranks.
        """

    def metrics(self) -> dict[str, float]:
        """The method's own metrics at the end of an epoch, by name; cheap. Those of the worker's root are recorded.

        A name with a slash belongs to a layer or a rank, and stays in the curve. See `metric_directions`.
        """
        return {}

    def inner_ranks(self) -> dict[str, int]:
        """Matrix rank by name of the layers that are held in low rank, or were most recently."""
        return {}

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return where the network that is evaluated is between two steps, for its moving average (setting `ema`).

        Default: the mean over ranks of their replicas. A method whose evaluated network is not linear in what its
        ranks hold names `ema` in `unsupported`; `atoll.testing` compares this with `evaluation_model`.

        Args:
            model: the context's.
            num_ranks: of the worker.
        """
        return [replicas(model, range(num_ranks))]

    @abstractmethod
    def evaluation_model(self) -> nn.Module:
        """Return the model to be evaluated now. Training continues afterwards."""

    @abstractmethod
    def finalize(self) -> nn.Module:
        """Complete pending communication and return the trained model, equal on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything that training depends on; optional, needed for checkpoints only.

        Called between any two steps of an epoch (see `resumable_within_epoch`) or between two epochs, after
        `epoch_end`; collective. Training continues afterwards as if it had not been called:

        - the copies must not share memory with the training;
        - pending communication is completed, as the trial may end here, but its result must act at the same step as
          without the call: so it is a part of the state;
        - the ranks of an asynchronous method meet, as for `evaluation_model`, and the state is that of the meeting.

        The state has the method's models, optimizers, averages, counters, generators, and what `metrics`, `inner_ranks`
        and `notes` report. Torch's global random state, the position in the data, the schedule and the ledger are the
        trial's. It consists of what `torch.load(weights_only=True)` reads: tensors, numbers, strings, booleans, None,
        lists, tuples, and dicts with strings or integers as keys; `atoll.testing` checks that.

        Raises:
            NotImplementedError: when the method does not support checkpoints.
        """
        raise NotImplementedError(self._how_to_checkpoint())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned on this rank of as many, which stays unchanged; collective.

        Called once, before the first step, on a method that was made with the same hyperparameters, or with other
        values of the `mutable` ones; then `change` follows. With the same ones, training continues bit for bit, unless
        the method is asynchronous. All tensors of `state` may be in host memory.

        Raises:
            NotImplementedError: when the method does not support checkpoints.
        """
        raise NotImplementedError(self._how_to_checkpoint())

    def change(self, before: H) -> None:
        """Go on with other hyperparameters than those of the loaded state; collective.

        A method is made with the new values, so only what the state holds of the old ones is to be changed, such as a
        value that a schedule of the method's has moved: scale it, as the schedule goes on from there.

        Args:
            before: the hyperparameters of the training so far; they differ in `mutable` ones.
        """

    def _how_to_checkpoint(self) -> str:
        return (
            f"{type(self).__name__} cannot be checkpointed; to support it, define state_dict, which returns copies of "
            "all that training depends on (parameters, buffers, optimizer state, counters, and what this rank keeps "
            "besides), and load_state_dict, which continues from them"
        )
