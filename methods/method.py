"""The interface of a training method: it owns the whole step, from the batch to the changed parameters.

What the trial's loop promises: `epoch` is called with this rank's share of every global batch of an epoch, in the same
number on every rank, and by default calls `step` once per batch; `epoch_end` after each epoch; `evaluation_model` at
any time between epochs; `finalize` once, after the last one. All are collective: every rank of the worker calls them in
the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings

Loss = Callable[[Tensor, Tensor], Tensor]


class NotApplicable(ValueError):
    """A method cannot do what it is asked for, and says why, before training starts."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A rank's share of a global batch, or the whole: sample indices (b,), inputs (b, ...), targets (b, ...)."""

    indices: Tensor
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method is given.

    Attributes:
        model: the network, with equal parameters on every rank, on the rank's device.
        loss: (outputs, targets) -> mean loss over the batch, a scalar.
        optimizers: makes optimizers whose learning rate follows the trial's schedule.
        communicator: the worker's ranks.
        untracked: the same ranks, for evaluation and other traffic that is not counted as the method's.
        inputs: some training inputs (b, ...) as the network takes them, for what depends on shapes or time.
        num_epochs, steps_per_epoch: how long the training will be.
        seed: for randomness of the method itself.
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


@dataclass(frozen=True, kw_only=True)
class NoHyperparameters:
    """The hyperparameters of a method that has none."""


class Method(ABC):
    """A training method.

    Class attributes:
        Hyperparameters: a frozen keyword-only dataclass that validates itself in `__post_init__`.
        optimizer_defaults: defaults of optimizer settings that differ from the shared ones, such as the source's.
        min_ranks, max_ranks: how many ranks it can use; None for any number.
        asynchronous: whether the same seed may give different results, because ranks do not wait for one another.
        layer_parallel: whether ranks hold parts of one network; each is then given the whole of every global batch.
        pruning: how its trials may be ended early unless a study says: `rule`, and `while_falling`.

    Attributes:
        notes: what a user should know of how the method runs here; equal on every rank.
    """

    Hyperparameters: ClassVar[type] = NoHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    min_ranks: ClassVar[int] = 1
    max_ranks: ClassVar[int | None] = None
    asynchronous: ClassVar[bool] = False
    layer_parallel: ClassVar[bool] = False
    pruning: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    @classmethod
    def check(cls, hyperparameters: Any, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for what the method cannot do; cheap, and called before anything expensive starts."""
        name = cls.__module__.rpartition(".")[2]
        if num_ranks < cls.min_ranks:
            raise NotApplicable(f"{name} needs at least {cls.min_ranks} ranks per worker; got {num_ranks}")
        if cls.max_ranks is not None and num_ranks > cls.max_ranks:
            raise NotApplicable(f"{name} is sequential: it trains on {cls.max_ranks} rank per worker; got {num_ranks}")

    @classmethod
    def keeps_samples(cls, hyperparameters: Any) -> bool:
        """Whether it keeps something for every sample, which must then be the same in every epoch: not augmented."""
        return False

    @abstractmethod
    def __init__(self, hyperparameters: Any, context: Context) -> None:
        """Set up, after `check`; raises NotApplicable for what only the ranks at work can tell."""

    @abstractmethod
    def step(self, batch: Batch) -> Tensor:
        """Train on one batch; returns this rank's loss, a detached scalar whose mean over ranks is the batch's."""

    def epoch(self, batches: Iterator[Batch]) -> Iterator[Tensor]:
        """Train on the batches of an epoch, yielding the loss of each; for methods that take several passes over them.

        A batch that is asked for sets the learning rate to the schedule's at its step.
        """
        for batch in batches:
            yield self.step(batch)

    def epoch_end(self, loss: float) -> None:  # noqa: B027  (a method without a schedule has nothing to do)
        """Move the method's own schedules on.

        Args:
            loss: the epoch's training loss, averaged over ranks.
        """

    def metrics(self) -> dict[str, float]:
        """What the method itself has to report at the end of an epoch, by name, and cheap; the root's are recorded."""
        return {}

    def inner_ranks(self) -> dict[str, int]:
        """Ranks of the layers that the method holds in low rank, or did last, by name."""
        return {}

    @abstractmethod
    def evaluation_model(self) -> nn.Module:
        """Return the model to be evaluated now. Training continues afterwards."""

    @abstractmethod
    def finalize(self) -> nn.Module:
        """Complete what is pending and return the trained model, equal on every rank."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that training depends on. Nothing may be pending: call it after an epoch's end."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
