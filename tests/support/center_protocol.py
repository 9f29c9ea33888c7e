"""What the asynchronous methods with a center share, as tests of each of them: nobody waits for a late rank, bytes."""

from __future__ import annotations

import math

import pytest
import torch

from atoll.communication.communicator import Communicator
from atoll.platform.study import registry
from atoll.testing import problem


def nobody_waits_for_a_late_rank(c: Communicator, name: str, late: int, **hyperparameters) -> None:
    """One rank starts its steps when all others have done theirs; if anyone waited for it, this would never end."""
    method, _ = problem.make(
        registry.method(name), c, hyperparameters=hyperparameters, settings={"learning_rate": 1e-3}
    )
    num_servers = _num_servers(hyperparameters)
    steps = list(problem.batches(c, 10, num_servers=num_servers))
    word = torch.zeros(1)
    late %= c.size
    others = [rank for rank in range(num_servers, c.size) if rank != late]
    if c.rank == late:
        for other in others:
            c.receive(word, other, tag=5)
    problem.train(method, steps)
    if c.rank in others:
        c.send(word, late, tag=5)
    assert torch.isfinite(problem.vector(method.finalize())).all()


def _num_servers(hyperparameters: dict) -> int:
    return 1 if hyperparameters.get("server") == "dedicated" else 0


def worker_bytes(c: Communicator, name: str, num_steps: int = 20, **hyperparameters) -> float:
    """Bytes that all ranks send in float32 training."""
    method, _ = problem.make(
        registry.method(name),
        c,
        hyperparameters=hyperparameters,
        settings={"learning_rate": 1e-3},
        model=problem.make_model(torch.float32),
    )
    steps = list(problem.batches(c, num_steps, dtype=torch.float32, num_servers=_num_servers(hyperparameters)))
    problem.train(method, steps, meet=c.barrier)
    method.finalize()
    return problem.worker_bytes(c)


def exchanges_cost_8n(c: Communicator, name: str, num_extra: int = 0, tau: int | None = 3, **hyperparameters) -> None:
    """8n for each exchange of each rank but the owner, every tau steps (None: a step), and `num_extra` at the end."""
    given = hyperparameters if tau is None else hyperparameters | {"tau": tau}
    num_parameters = problem.vector(problem.make_model()).numel()
    num_exchanges = math.ceil(20 / (tau or 1)) + num_extra
    expected = (c.size - 1) * 8 * num_parameters * num_exchanges
    assert worker_bytes(c, name, **given) == pytest.approx(expected, rel=1e-12)


def all_reduces_cost_a_ring(c: Communicator, name: str, num: int, **hyperparameters) -> None:
    """2(p-1)/p 4n of each rank for each of `num` all-reduces."""
    num_parameters = problem.vector(problem.make_model()).numel()
    expected = c.size * 2 * (c.size - 1) / c.size * 4 * num_parameters * num
    assert worker_bytes(c, name, **hyperparameters) == pytest.approx(expected, rel=1e-12)
