"""Trainings that are replayed in plain numpy: falling rates, momentum, decay, clipping, and ranks in a drawn order.

One rank steps at a time, in an order that is drawn, so that an asynchronous method serves in a known order. Between two
turns all ranks meet in `state_dict`, which is collective, and must change nothing. The reference is a function of the
ranks' steps, written from the source's equations, in float64.

The problem has a gradient of its own at every point, x^3 - x - noise in each of `SIZE` coordinates (Zhang 2016, eq.
5.35 with noise), so that where a gradient is taken matters. The norm is above CLIPPING in most steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import paths
import torch

from atoll.communication.communicator import Communicator
from atoll.methods.common.groups import ParameterGroup
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings

SIZE, STEPS = 5, 14  # coordinates; steps of each rank
RATE, GAMMA, DECAY, CLIPPING = 0.3, 0.3, 0.025, 0.8
RATE_FACTOR, DECAY_FACTOR = 0.5, 2.0  # of the parameters' group
Vector = np.ndarray


def rate(step: int) -> float:
    """The learning rate of a rank's step, in the parameters' group."""
    return RATE_FACTOR * RATE * (1 + GAMMA * step) ** -0.5


def noise(rank: int, step: int) -> Vector:
    """What a rank's batch adds to the gradient."""
    return np.random.default_rng((rank, step)).normal(size=SIZE)


def start(rank: int) -> Vector:
    """A rank's replica before its first step; that of -1 is the center's."""
    return np.random.default_rng((100, 1 + rank)).normal(size=SIZE)


def gradient(x: Vector, seen: Vector) -> Vector:
    """That of the loss at x, clipped as torch does, plus the l2 term's, which is not clipped."""
    of_loss = x**3 - x - seen
    return of_loss * min(1.0, CLIPPING / (np.linalg.norm(of_loss) + 1e-6)) + DECAY_FACTOR * DECAY * x


def turns(num_ranks: int, num_servers: int = 0) -> list[int]:
    """The rank of each step, in a drawn order in which all have equally many, but for those that only serve."""
    order = [rank for rank in range(num_servers, num_ranks) for _ in range(STEPS)]
    np.random.default_rng(7).shuffle(order)
    return order


@dataclass
class Rank:
    """A rank of the reference.

    Attributes:
        number: of the rank.
        x: its replica.
        v: its velocity.
        step: the number of its steps so far.
        kept: what a method keeps on each rank.
    """

    number: int
    x: Vector
    v: Vector = field(default_factory=lambda: np.zeros(SIZE))
    step: int = 0
    kept: Vector = field(default_factory=lambda: np.zeros(SIZE))

    @property
    def rate(self) -> float:
        """That of its next step."""
        return rate(self.step)

    @property
    def noise(self) -> Vector:
        """That of its next step."""
        return noise(self.number, self.step)

    def descend(self, delta: float = 0.0, *, heavy_ball: bool = False) -> None:
        """Zhang 2016, eq. 2.5 without the elastic term, or 2.6: v <- delta v - lr g, x <- x + v."""
        point = self.x if heavy_ball else self.x + delta * self.v
        self.v = delta * self.v - self.rate * gradient(point, self.noise)
        self.x = self.x + self.v


def ranks_of(num_ranks: int) -> list[Rank]:
    """All ranks before the first step."""
    return [Rank(number, start(number)) for number in range(num_ranks)]


def num_servers_of(own: dict) -> int:
    """The ranks, the first ones, that only serve with these hyperparameters."""
    return 1 if own.get("server") == "dedicated" else 0


def in_turns(num_ranks: int, step: Callable[[list[Rank], Rank], None], num_servers: int = 0) -> list[Rank]:
    """The reference's ranks, after each has taken its turns."""
    ranks = ranks_of(num_ranks)
    for number in turns(num_ranks, num_servers):
        step(ranks, ranks[number])
        ranks[number].step += 1
    return ranks


@dataclass(frozen=True)
class Trained:
    """What a method's code made of the same: this rank's replica, its last state, and the evaluated parameters."""

    x: Vector
    state: dict
    shown: Vector


def train(c: Communicator, name: str, *, momentum: float = 0.0, together: bool = False, **own) -> Trained:
    """Train with a method's code.

    Args:
        c: the ranks.
        name: the method.
        momentum: the optimizer's.
        together: whether all ranks step at once, as synchronous methods do.
        own: the method's hyperparameters.
    """
    settings = OptimizerSettings(
        optimizer="sgd",
        learning_rate=RATE,
        momentum=momentum,
        weight_decay=DECAY,
        gradient_clipping=CLIPPING,
        schedule="inverse_sqrt",
        lr_decay=GAMMA,
    )
    optimizers = OptimizerFactory(settings, STEPS)
    method, model = paths.build(
        name,
        c,
        replica=torch.from_numpy(start(c.rank)),
        center=torch.from_numpy(start(-1)),
        objective=paths.tilted_double_well,
        rate=RATE,
        optimizers=optimizers,
        groups=lambda model: [ParameterGroup(model.parameters(), rate=RATE_FACTOR, decay=DECAY_FACTOR)],
        **own,
    )
    num_servers = num_servers_of(own)
    for turn, step in enumerate(_own_steps(c, together, num_servers)):
        if c.rank < num_servers:
            optimizers.set_step(turn // (c.size - num_servers))  # and it serves below; its own step would wait
        elif step is not None:
            optimizers.set_step(step)
            method.step(paths.batch(torch.from_numpy(noise(c.rank, step))))
        c.barrier()
        for _ in range(10):
            c.progress()  # the center's owner answers, if the turn's rank has not waited for that
        c.barrier()  # who meets has departed, and its stale replica would pull at the center
        state = method.state_dict()
        c.barrier()  # nobody goes on while another one is still in `state_dict`
    return Trained(model.x.detach().numpy().copy(), state, paths.shown(method).numpy())


def _own_steps(c: Communicator, together: bool, num_servers: int) -> Iterator[int | None]:
    """For each turn the number of this rank's step, or None in another one's turn."""
    if together:
        yield from range(STEPS)
        return
    step = 0
    for number in turns(c.size, num_servers):
        yield step if number == c.rank else None
        step += number == c.rank


def close(value: Vector | torch.Tensor, expected: Vector) -> bool:
    """Equal up to the rounding of some hundred operations on numbers of about 1."""
    return bool(np.allclose(np.asarray(value), expected, rtol=0, atol=1e-13))


# The families of the parameter server. The center is that of the reference's first rank, in `kept`.


def elastic(c: Communicator, name: str, momentum: float = 0.0, **own) -> None:
    """A method of the EASGD family against the equations of `elastic_base.py`, with alpha and beta apart."""
    alpha, beta, tau = 0.2, 0.7, 3
    form, heavy_ball = own["form"], own.get("momentum_form") == "heavy_ball"
    together = not form.startswith("async")
    center, seen_centers, pending = start(-1), [], {}
    num_servers = num_servers_of(own)
    p = c.size - num_servers

    def step_alone(_: list[Rank], rank: Rank) -> None:
        nonlocal center
        exchanges = rank.step % tau == 0
        if exchanges and form == "async_overlap":
            rank.x = rank.x - pending.get(rank.number, 0.0)
        seen = rank.x
        if exchanges:
            pending[rank.number] = alpha * (seen - center)
            seen_centers.append(center)
            center = center + beta / p * (seen - center)
        rank.descend(momentum, heavy_ball=heavy_ball)
        if exchanges and form == "async":
            rank.x = rank.x - pending[rank.number]

    def step_together(ranks: list[Rank]) -> None:
        nonlocal center
        exchanges, before = ranks[0].step % tau == 0, [rank.x for rank in ranks]
        for rank, x in zip(ranks, before, strict=True):
            if exchanges and form == "gauss_seidel":
                rank.x = rank.x - alpha * (rank.x - center)
            rank.descend(momentum, heavy_ball=heavy_ball)
            if exchanges and form == "jacobi":
                rank.x = rank.x - alpha * (x - center)
            rank.step += 1
        if exchanges:
            seen_centers.append(center)
            mean = np.mean(before if form == "jacobi" else [rank.x for rank in ranks], axis=0)
            center = center + beta * (mean - center)

    if together:
        ranks = ranks_of(c.size)
        for _ in range(STEPS):
            step_together(ranks)
    else:
        ranks = in_turns(c.size, step_alone, num_servers)
    trained = train(c, name, momentum=momentum, together=together, alpha=alpha, beta=beta, tau=tau, **own)
    assert close(trained.x, ranks[c.rank].x)
    assert close(trained.shown, np.mean(seen_centers, axis=0) if own.get("report") == "average" else center)


def pushes(c: Communicator, name: str, moving_rate: float | None = None, **own) -> None:
    """A method of the DOWNPOUR family against Zhang 2016, algorithm 3."""
    tau, num_pushes = 3, 0
    center = average = start(-1)

    def step(_: list[Rank], rank: Rank) -> None:
        nonlocal center, average, num_pushes
        if rank.step == 0:
            rank.kept = start(-1)  # what it has fetched
        if rank.step % tau == 0:
            num_pushes += 1
            weight = 1 / num_pushes if moving_rate is None else moving_rate
            average = (1 - weight) * average + weight * center
            center = center + rank.x - rank.kept
            rank.x = rank.kept = center
        rank.descend()

    ranks = in_turns(c.size, step, num_servers_of(own))
    trained = train(c, name, tau=tau, **own, **({} if moving_rate is None else {"moving_rate": moving_rate}))
    assert close(trained.x, ranks[c.rank].x)
    assert close(trained.shown, center if name == "downpour" else average)
