"""Many one-dimensional problems at once: every parameter of the model is a path of its own.

So a method's own code, on as many virtual ranks as asked for, gives its linear map in one step (one path for each basis
state), or tens of thousands of simulated paths in one run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.communication.threads import run_virtual_ranks
from atoll.methods import METHODS
from atoll.methods.common.groups import Groups
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.methods.method import Batch, Context, Method

Objective = Callable[[Tensor, Tensor], Tensor]


def quadratic(x: Tensor, noise: Tensor) -> Tensor:
    """x^2 / 2 - noise x, whose gradient is x - noise (Zhang 2016, eq. 3.1 with h = 1)."""
    return x.square() / 2 - noise * x


def scaled(x: Tensor, curvature: Tensor) -> Tensor:
    """curvature x^2 / 2: multiplicative noise (Zhang 2016, eq. 5.22)."""
    return curvature * x.square() / 2


def double_well(x: Tensor, _: Tensor) -> Tensor:
    """(1 - x^2)^2 / 4 (Zhang 2016, eq. 5.35)."""
    return (1 - x.square()).square() / 4


def tilted_double_well(x: Tensor, noise: Tensor) -> Tensor:
    """(1 - x^2)^2 / 4 - noise x, whose gradient is x^3 - x - noise."""
    return double_well(x, noise) - noise * x


class _Paths(nn.Module):
    def __init__(self, start: Tensor, objective: Objective) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())
        self._objective = objective

    def forward(self, noise: Tensor) -> Tensor:
        return self._objective(self.x, noise)


def build(
    name: str,
    communicator: Communicator,
    *,
    replica: Tensor,
    center: Tensor,
    objective: Objective = quadratic,
    rate: float,
    momentum: float = 0.0,
    optimizers: OptimizerFactory | None = None,
    steps_per_epoch: int = 10**9,
    groups: Groups | None = None,
    **hyperparameters,
) -> tuple[Method, nn.Module]:
    """A method whose model is one path per parameter, its center and this rank's replica at given values."""
    module, _, attribute = METHODS[name].partition(":")
    method = getattr(importlib.import_module(module), attribute)
    model = _Paths(center, objective)
    settings = OptimizerSettings(learning_rate=rate, momentum=momentum, weight_decay=0.0, schedule="constant")
    context = Context(
        model=model,
        loss=lambda outputs, _: outputs.sum(),
        optimizers=optimizers or OptimizerFactory(settings, 1),
        communicator=communicator,
        untracked=communicator.split(0, ledger=Ledger()),
        inputs=torch.zeros(1),
        num_epochs=1,
        steps_per_epoch=steps_per_epoch,
        seed=0,
        **({} if groups is None else {"groups": groups}),
    )
    instance = method(method.Hyperparameters(**hyperparameters), context)
    model.x.data.copy_(replica)
    return instance, model


def batch(noise: Tensor) -> Batch:
    return Batch(indices=torch.zeros(1), inputs=noise, targets=torch.zeros(1))


def shown(method: Method) -> Tensor:
    """The center, or whatever the method evaluates."""
    return method.evaluation_model().x.detach().clone()


def moved(
    name: str, start: Tensor, noise: Tensor, *, round_robin: bool = False, momentum: float = 0.0, **arguments
) -> Tensor:
    """The states after one step, or after one round in which the ranks step in turn.

    Args:
        start: (size, n), a state in each of n columns: x_1, ..., x_p, center; with momentum v_1, ..., v_p first.
        noise: (p, n), what the ranks' objectives see.
    """
    num_ranks = len(noise)
    first = num_ranks if momentum else 0  # row of x_1

    def step(c: Communicator) -> tuple[Tensor, Tensor | None, Tensor]:
        replica = start[first + c.rank]
        method, model = build(name, c, replica=replica, center=start[-1], momentum=momentum, **arguments)
        if momentum:
            state = method.state_dict()
            state["descent"]["velocity"] = start[c.rank]
            method.load_state_dict(state)
        for turn in range(c.size if round_robin else 1):
            if not round_robin or turn == c.rank:
                method.step(batch(noise[c.rank]))
            c.barrier()
        velocity = method.state_dict()["descent"]["velocity"] if momentum else None
        return model.x.detach().clone(), velocity, shown(method)

    ranks = run_virtual_ranks(step, [0] * num_ranks)
    velocities = [v for _, v, _ in ranks if v is not None]
    return torch.stack([*velocities, *(x for x, _, _ in ranks), ranks[0][2]])


def linear_map(name: str, num_ranks: int, **arguments) -> Tensor:
    """The map (size, size) of the state of `moved` in one step, or one round in which the ranks step in turn."""
    return noisy_maps(name, num_ranks, **arguments)[0]


def noisy_maps(name: str, num_ranks: int, *, noises: Sequence[Tensor] | None = None, **arguments) -> list[Tensor]:
    """The map of one step for each of `noises` (p,), what the ranks' objectives see; without noise unless given."""
    noises = [torch.zeros(num_ranks, dtype=torch.float64)] if noises is None else noises
    size = _size(num_ranks, **arguments)
    start = torch.eye(size, dtype=torch.float64).repeat(1, len(noises))  # component, then noise x basis state
    seen = torch.stack(list(noises), dim=1).repeat_interleave(size, dim=1)
    return list(moved(name, start, seen, **arguments).split(size, dim=1))


def _size(num_ranks: int, momentum: float = 0.0, **_) -> int:
    return (2 if momentum else 1) * num_ranks + 1


def radius(matrix: Tensor) -> float:
    """The largest absolute eigenvalue."""
    return float(torch.linalg.eigvals(matrix).abs().max())


# One path on one rank, against updates that are written out.

START = 2.0
NOISE = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
# A rate that falls, so that a method which does not follow its schedule ends elsewhere.
RATE, GAMMA = 0.3, 0.2
RATES = [RATE * (1 + GAMMA * t) ** -0.5 for t in range(len(NOISE))]


def end_of_one_path(c: Communicator, name: str, momentum: float = 0.0, **hyperparameters) -> float:
    """What a method on one rank returns for the path with NOISE and RATES from START."""
    settings = OptimizerSettings(
        learning_rate=RATE, momentum=momentum, weight_decay=0.0, schedule="inverse_sqrt", lr_decay=GAMMA
    )
    optimizers = OptimizerFactory(settings, len(NOISE))
    start = torch.tensor([START], dtype=torch.float64)
    method, _ = build(
        name, c, replica=start, center=start, rate=RATE, momentum=momentum, optimizers=optimizers, **hyperparameters
    )
    for number, noise in enumerate(NOISE):
        optimizers.set_step(number)
        method.step(batch(torch.tensor([noise], dtype=torch.float64)))
    return float(method.finalize().x.detach())


def iterates_of_sgd() -> list[float]:
    """START, and x after each step."""
    x = [START]
    for noise, rate in zip(NOISE, RATES, strict=True):
        x.append(x[-1] - rate * (x[-1] - noise))
    return x


def end_of_msgd(delta: float) -> float:
    """x <- x + v, v <- delta v - rate g(x + delta v)."""
    x, v = START, 0.0
    for noise, rate in zip(NOISE, RATES, strict=True):
        v = nesterov(x, v, noise, rate, delta)
        x += v
    return x


def nesterov(x: float, v: float, noise: float, rate: float, delta: float) -> float:
    """The next v."""
    return delta * v - rate * (x + delta * v - noise)


def moving_average(values: Sequence[float], moving_rate: float) -> float:
    """z <- (1 - moving_rate) z + moving_rate value, from START."""
    z = START
    for value in values:
        z = (1 - moving_rate) * z + moving_rate * value
    return z
