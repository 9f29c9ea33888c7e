"""Stochastic gradient push (Assran, Loizou, Ballas and Rabbat 2019)."""

from collections import deque

import numpy as np
import paths
import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.data_parallel.sgp import Sgp
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TRIPLE, TWO_BY_TWO


@on_ranks(SINGLE)
def test_one_rank_is_torchs_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    method, _ = problem.make(Sgp, c)
    problem.train(method, steps)
    assert problem.close(problem.vector(method.finalize()), problem.torch_sgd(steps), FLOAT64)
    assert c.ledger.wire_bytes() == 0


NUM_STEPS, RATE = 12, 0.3


def replay(starts, noise, graph, staleness):
    """Algorithm 1 for all ranks together, one number each: the networks z after each step, and the result."""
    p = len(starts)
    x, w, under_way = np.array(starts), np.ones(p), deque()
    shown = []
    for t in range(NUM_STEPS):
        z = x / w
        x = x - RATE * (z - noise[t])
        turn = 2 ** (t % int(np.ceil(np.log2(p)))) if graph == "exponential" else 1
        x, w = x / 2, w / 2
        under_way.append((np.roll(x, turn), np.roll(w, turn)))
        if len(under_way) > staleness:
            arrived, weight = under_way.popleft()
            x, w = x + arrived, w + weight
        shown.append(x / w)
    everything = x.sum() + sum(values.sum() for values, _ in under_way)
    return np.array(shown), everything / p


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("graph", ["exponential", "ring"])
@pytest.mark.parametrize("p", [2, 3, 4, 5])
def test_a_training_is_algorithm_1(p, graph, staleness):
    """On quadratics with noise, from replicas that differ, on every rank after every step."""
    starts = [1.0 + rank**2 for rank in range(p)]
    noise = np.random.default_rng(0).normal(size=(NUM_STEPS, p))

    def run(c):
        start = torch.tensor([starts[c.rank]], dtype=torch.float64)
        given = {"rate": RATE, "graph": graph, "staleness": staleness}
        method, model = paths.build("sgp", c, replica=start, center=start, **given)
        seen = []
        for t in range(NUM_STEPS):
            method.step(paths.batch(torch.tensor([noise[t, c.rank]])))
            seen.append(model.x.item())
        return seen, method.finalize().x.item()

    ranks = run_virtual_ranks(run, [0] * p)
    shown, result = replay(starts, noise, graph, staleness)
    np.testing.assert_allclose(np.array([seen for seen, _ in ranks]).T, shown, rtol=1e-12)
    assert [end for _, end in ranks] == pytest.approx([result] * p, rel=1e-12)


@pytest.mark.parametrize("staleness", [0, 2])
def test_ranks_that_stand_still_agree_and_keep_their_mean(staleness):
    """Four ranks of the exponential graph agree after two steps; with stale messages they come closer and closer."""

    def run(c):
        start = torch.tensor([float(c.rank)], dtype=torch.float64)
        method, model = paths.build("sgp", c, replica=start, center=start, rate=problem.STILL, staleness=staleness)
        shown = []
        for _ in range(40):
            method.step(paths.batch(torch.zeros(1, dtype=torch.float64)))
            shown.append(model.x.item())
        return shown, method.finalize().x.item()

    ranks = run_virtual_ranks(run, [0] * 4)
    assert [end for _, end in ranks] == pytest.approx([1.5] * 4, rel=1e-12)
    apart = [max(values) - min(values) for values in zip(*(shown for shown, _ in ranks), strict=True)]
    assert apart[0] > 0.5
    if staleness == 0:
        assert max(apart[1:]) < 1e-12
    else:
        assert apart[-1] < 0.1 * apart[0]


@on_ranks(PAIR, TRIPLE, TWO_BY_TWO)
def test_the_first_step_is_that_of_data_parallel_sgd(c: Communicator) -> None:
    """In the replicas' mean, as they are equal before it."""
    method, model = problem.make(Sgp, c, settings={"momentum": 0.0})
    (batch,) = problem.batches(c, 1)
    start = problem.vector(model)
    method.step(batch)
    alone = problem.make_model()
    torch.nn.functional.cross_entropy(alone(batch.inputs), batch.targets).backward()
    groups = problem.torch_groups(alone, weight_decay=1e-3)
    torch.optim.SGD(groups, 0.05).step()
    mean = problem.vector(alone)
    c.mean(mean)
    assert not torch.equal(mean, start)
    assert problem.close(problem.vector(method.finalize()), mean, FLOAT64)


@on_ranks(PAIR, TRIPLE, TWO_BY_TWO)
@pytest.mark.parametrize("staleness", [0, 2])
def test_bytes_do_not_grow_with_the_number_of_ranks(c: Communicator, staleness: int) -> None:
    method, model = problem.make(
        Sgp, c, hyperparameters={"staleness": staleness}, model=problem.make_model(torch.float32)
    )
    problem.train(method, list(problem.batches(c, 20, dtype=torch.float32)))
    assert c.ledger.wire_bytes() == 20 * 4 * problem.vector(model).numel()
    method.finalize()  # receives what is under way
