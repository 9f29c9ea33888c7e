"""A small real problem in float64, and the loop that trains it."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.method import Batch, Context, Method
from atoll.platform.trial.batches import EpochBatches
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Samples

NUM_STEPS = 50
HYPERPARAMETERS: WeakKeyDictionary[Method, object] = WeakKeyDictionary()  # of each method that `make` made


def samples(dtype: torch.dtype = torch.float64) -> Samples:
    train = DigitsMlp().load(None).train
    return Samples(train.inputs.to(dtype), train.targets)


def make_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).to(dtype), seed)


def make_deep_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """With a weight between the first and the last one."""
    return seeded(nn.Sequential(*_layers()).to(dtype), seed, scale=0.2)


def make_normed_model(seed: int = 0) -> nn.Module:
    """With running statistics that are means over all batches, so that they need their counter."""
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


def make(
    method: type[Method],
    communicator: Communicator,
    *,
    hyperparameters: dict | None = None,
    settings: dict | None = None,
    model: nn.Module | None = None,
    loss: Callable = nn.functional.cross_entropy,
    inputs: torch.Tensor | None = None,
    num_epochs: int = 10,
    steps_per_epoch: int = 10,
) -> tuple[Method, nn.Module]:
    model = model or make_model()
    shared = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "constant"}
    optimizer = OptimizerSettings(**shared | dict(method.optimizer_defaults) | (settings or {}))
    given = method.Hyperparameters(**(hyperparameters or {}))
    method.check(given, optimizer, communicator.size)
    context = Context(
        model=model,
        loss=loss,
        optimizers=OptimizerFactory(optimizer, num_epochs * steps_per_epoch),
        communicator=communicator,
        untracked=communicator.split(0, ledger=Ledger()),
        inputs=samples(next(model.parameters()).dtype).inputs[:8] if inputs is None else inputs,
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
        seed=0,
    )
    made = method(given, context)
    HYPERPARAMETERS[made] = given
    return made, model


def batches(
    communicator: Communicator,
    num_steps: int,
    batch_size: int = 8,
    dtype: torch.dtype = torch.float64,
    method: type[Method] | Method | None = None,
):
    """Shares of global batches; the whole of each where `method` is layer-parallel.

    A method that keeps something for every sample sees them again after ten batches.
    """
    rank, size, data = communicator.rank, communicator.size, samples(dtype)
    if method is not None and method.keeps_samples(HYPERPARAMETERS.get(method)):
        num = 10 * batch_size * size
        data = Samples(data.inputs[:num], data.targets[:num])
    source = EpochBatches(data, batch_size, rank, size, seed=1, whole=method is not None and method.layer_parallel)
    epoch, made = 0, 0
    while True:
        for batch in source.epoch(epoch):
            if made == num_steps:
                return
            made += 1
            yield batch
        epoch += 1


def train(
    method: Method,
    steps: list[Batch],
    steps_per_epoch: int = 10,
    meet: Callable[[], None] = lambda: None,
    pace: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train as the trial's loop does.

    `meet` is called at the end of every epoch, where that loop adds up losses; `pace` after every step, where that
    loop does nothing: for what only holds of ranks of one speed.
    """
    losses: list[float] = []
    for start in range(0, len(steps), steps_per_epoch):
        batches = steps[start : start + steps_per_epoch]
        for loss in method.epoch(iter(batches)):
            losses.append(float(loss))
            pace()
        if len(batches) == steps_per_epoch:
            meet()
            method.epoch_end(sum(losses[-steps_per_epoch:]) / steps_per_epoch)
    return losses


def vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def everything(model: nn.Module) -> torch.Tensor:
    """Parameters and buffers, counters included."""
    return torch.cat([value.detach().reshape(-1).double() for value in model.state_dict().values()])


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether the largest difference is within `tolerance` of the largest value."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))
