"""A small real problem in float64, and the loop that trains a method on it.

The data are the 1,797 handwritten digits of 8x8 pixels that come with scikit-learn. All functions that take a
communicator are collective.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger, Scope
from atoll.methods.common.groups import Groups, default_groups
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.common.weight_average import WeightAverage
from atoll.methods.method import Batch, Context, Loss, Method
from atoll.platform.trial.batches import Batches, EpochBatches, NoSamples
from atoll.platform.trial.shares import Share
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Samples

NUM_STEPS = 50
STILL = 1e-300  # a learning rate that changes nothing
SETTINGS: dict[str, Any] = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "constant"}


@cache
def samples(dtype: torch.dtype = torch.float64) -> Samples:
    """The training samples, with inputs (n, 64)."""
    train = DigitsMlp().load(None).train
    return Samples(train.inputs.to(dtype), train.targets)


def make_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A network with one hidden layer."""
    return seeded(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).to(dtype), seed)


def make_deep_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A network with a weight between the first and the last one."""
    return seeded(nn.Sequential(*_layers()).to(dtype), seed, scale=0.2)


def make_normed_model(seed: int = 0) -> nn.Module:
    """A network with running statistics that are means over all batches, so that they need their counter."""
    first, *others = _layers()
    return seeded(nn.Sequential(first, nn.BatchNorm1d(16, momentum=None), *others).double(), seed, scale=0.2)


def _layers() -> list[nn.Module]:
    return [nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)]


def seeded(model: nn.Module, seed: int = 0, scale: float = 0.1) -> nn.Module:
    """The model with parameters that the seed fixes; not by torch.manual_seed, as virtual ranks share that state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * scale)
    return model


def make_optimizers(
    method: type[Method[Any]], settings: Mapping[str, Any] | None = None, num_steps: int = 100
) -> OptimizerFactory:
    """The optimizers of a trial, by `settings`, else the method's defaults, else SETTINGS."""
    given = SETTINGS | dict(method.optimizer_defaults) | dict(settings or {})
    return OptimizerFactory(OptimizerSettings(**given), num_steps)


def make(
    method: type[Method[Any]],
    communicator: Communicator,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    optimizers: OptimizerFactory | None = None,
    model: nn.Module | None = None,
    loss: Loss = nn.functional.cross_entropy,
    inputs: Tensor | None = None,
    groups: Groups = default_groups,
    num_epochs: int = 10,
    steps_per_epoch: int = 10,
    averages: list[WeightAverage] | None = None,
) -> tuple[Any, nn.Module]:
    """Make a method as a trial does, after its own `check`; returns it and the network that it trains.

    Args:
        method: its class.
        communicator: the worker's ranks.
        hyperparameters: of the method.
        settings: of the optimizer.
        optimizers: in place of those of `settings`, to move their schedule.
        model: equal on all ranks. Default: `make_model()`.
        loss: (outputs, targets) -> mean loss.
        inputs: example inputs.
        groups: the parameter groups.
        num_epochs, steps_per_epoch: length of the training.
        averages: receives the average of the weights, by the setting `ema`; to be updated after every step.
    """
    model = model or make_model()
    optimizers = optimizers or make_optimizers(method, settings, num_epochs * steps_per_epoch)
    given = method.Hyperparameters(**(hyperparameters or {}))
    method.check(given, optimizers.settings, communicator.size)
    context = Context(
        model=model,
        loss=loss,
        optimizers=optimizers,
        communicator=communicator,
        untracked=communicator.split(0, ledger=Ledger()),
        inputs=samples(next(model.parameters()).dtype).inputs[:8] if inputs is None else inputs,
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
        seed=0,
        groups=groups,
    )
    if averages is None:
        return method(given, context), model
    average = WeightAverage(context)
    made = method(given, context)
    average.follow(made)
    averages.append(average)
    return made, model


def batches(
    communicator: Communicator,
    num_steps: int,
    batch_size: int = 8,
    dtype: torch.dtype = torch.float64,
    method: type[Method[Any]] | Method[Any] | None = None,
    num_servers: int = 0,
) -> Iterator[Batch]:
    """Shares of global batches; the whole of each if `method` is layer-parallel, none for those of `num_servers` ranks.

    A layer-parallel method sees the samples again after ten batches, as it may keep something for each of them.
    """
    rank, size, data = communicator.rank, communicator.size, samples(dtype)
    whole = method is not None and method.layer_parallel
    if whole:
        num = 10 * batch_size * size
        data = Samples(data.inputs[:num], data.targets[:num])
    share = Share(batch_size, max(0, rank - num_servers), size - num_servers, whole=whole)
    source: Batches = EpochBatches(data, share, seed=1)
    source = NoSamples(source) if rank < num_servers else source
    epoch = num_taken = 0
    while True:
        for batch in source.epoch(epoch):
            if num_taken == num_steps:
                return
            num_taken += 1
            yield batch
        epoch += 1


def _nothing() -> None:
    pass


def train(
    method: Method[Any],
    steps: Sequence[Batch],
    steps_per_epoch: int = 10,
    meet: Callable[[], None] = _nothing,
    pace: Callable[[], None] = _nothing,
    optimizers: OptimizerFactory | None = None,
) -> list[float]:
    """Train as the trial's loop does; returns this rank's losses.

    Args:
        method: what trains.
        steps: a batch for each.
        steps_per_epoch: their number.
        meet: called at the end of every epoch, where the trial's loop adds up losses.
        pace: called after every step, where that loop does nothing: for properties of ranks of equal speed.
        optimizers: the method's, to move the learning rate along its schedule. Default: it stays.
    """
    losses: list[float] = []
    for _ in training(method, steps, losses, steps_per_epoch, meet, pace, optimizers):
        pass
    return losses


def training(
    method: Method[Any],
    steps: Sequence[Batch],
    losses: list[float],
    steps_per_epoch: int = 10,
    meet: Callable[[], None] = _nothing,
    pace: Callable[[], None] = _nothing,
    optimizers: OptimizerFactory | None = None,
) -> Iterator[int]:
    """The same, from step `len(losses)` on; yields the number of steps where a checkpoint may be taken.

    That is after every step, and at the end of an epoch after `epoch_end`. The other arguments are those of `train`.

    Args:
        losses: this rank's losses before; those of further steps are appended.
    """
    while (start := len(losses)) < len(steps):
        end = min(len(steps), start - start % steps_per_epoch + steps_per_epoch)
        for loss in method.epoch(_scheduled(steps[start:end], start, optimizers)):
            losses.append(float(loss))
            pace()
            if len(losses) < end:
                yield len(losses)
        if end % steps_per_epoch == 0:
            meet()
            method.epoch_end(sum(losses[-steps_per_epoch:]) / steps_per_epoch)
        yield end


def _scheduled(epoch: Sequence[Batch], start: int, optimizers: OptimizerFactory | None) -> Iterator[Batch]:
    for number, batch in enumerate(epoch, start):
        if optimizers is not None:
            optimizers.set_step(number)
        yield batch


def fill(model: nn.Module, value: float) -> None:
    """Set all parameters to `value`."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def vector(model: nn.Module) -> Tensor:
    """A copy of all parameters (n,)."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def everything(model: nn.Module) -> Tensor:
    """A copy of parameters and buffers, counters included."""
    return torch.cat([value.detach().reshape(-1).double() for value in model.state_dict().values()])


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether the largest difference is within `tolerance` of the largest value."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


def gathered(communicator: Communicator, tensor: Tensor) -> list[Tensor]:
    """The tensor of every rank; not counted as the method's traffic."""
    untracked = communicator.split(0, ledger=Ledger())
    tensors = []
    for rank in range(communicator.size):
        theirs = tensor.detach().clone()
        untracked.broadcast(theirs, rank)
        tensors.append(theirs)
    return tensors


def worker_bytes(communicator: Communicator, scope: Scope | None = None) -> float:
    """Bytes that all ranks together have sent so far, in one scope or in all."""
    sent = torch.tensor([communicator.ledger.wire_bytes(scope)], dtype=torch.float64)
    return sum(float(theirs) for theirs in gathered(communicator, sent))


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of a method's state."""
    return copy.deepcopy(state)


def torch_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The default parameter groups in torch's form, written out: only matrices and filters decay."""
    parameters = list(model.parameters())
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def torch_sgd(steps: Sequence[Batch], momentum: float = 0.9) -> Tensor:
    """The parameters that torch's SGD, with the rest of SETTINGS, ends at on one rank; biases do not decay."""
    model = make_model()
    optimizer = torch.optim.SGD(torch_groups(model, weight_decay=1e-3), 0.05, momentum)
    for batch in steps:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return vector(model)
