"""Consensus ADMM (Zhang 2016, eq. 3.51 to 3.54), which diverges where EASGD does not."""

import numpy as np
import paths
import pytest
import replayed
import torch
from center_protocol import all_reduces_cost_a_ring, exchanges_cost_8n, nobody_waits_for_a_late_rank, worker_bytes
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks, single_rank
from atoll.methods.method import NotApplicable
from atoll.methods.parameter_server.admm_consensus import AdmmConsensus, AdmmConsensusHyperparameters
from atoll.platform.study.configuration import split_hyperparameters
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_bytes_of_the_synchronous_form(c: Communicator) -> None:
    all_reduces_cost_a_ring(c, "admm_consensus", num=20, form="synchronous")


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_bytes_of_the_round_robin_form(c: Communicator) -> None:
    num_parameters = problem.vector(problem.make_model()).numel()
    expected = c.size * (c.size - 1) * 4 * num_parameters * 20
    assert worker_bytes(c, "admm_consensus", form="round_robin") == pytest.approx(expected, rel=1e-12)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("server", ["shared", "dedicated"])
def test_bytes_of_the_asynchronous_form(c: Communicator, server: str) -> None:
    if c.size > 1 or server == "shared":
        exchanges_cost_8n(c, "admm_consensus", tau=None, form="async", server=server)


@on_ranks(TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, 1, -1], ids=["owner", "next", "last"])
@pytest.mark.parametrize("server", ["shared", "dedicated"])
def test_in_the_asynchronous_form_nobody_waits_for_a_late_rank(c: Communicator, server: str, late: int) -> None:
    if late or server == "shared":
        nobody_waits_for_a_late_rank(c, "admm_consensus", late, form="async", server=server)


@on_ranks(PAIR)
@pytest.mark.parametrize("form", ["synchronous", "async"])
def test_one_worker_of_a_dedicated_server_equals_one_rank(c: Communicator, form: str) -> None:
    """In whichever form; with a falling rate."""
    ends = []
    for ranks, hyperparameters in ((c.split(c.rank), {"form": form}), (c, {"form": "async", "server": "dedicated"})):
        settings = {"learning_rate": 0.3, "schedule": "linear"}
        optimizers = problem.make_optimizers(AdmmConsensus, settings, num_steps=40)
        method, _ = problem.make(AdmmConsensus, ranks, hyperparameters=hyperparameters, optimizers=optimizers)
        steps = list(problem.batches(ranks, 40, num_servers=int("server" in hyperparameters)))
        problem.train(method, steps, optimizers=optimizers)
        ends.append(problem.vector(method.finalize()))
    assert problem.close(*ends, FLOAT64)


@on_ranks(PAIR)
@pytest.mark.parametrize("form", ["synchronous", "round_robin", "async"])
def test_the_center_is_the_mean_of_3_54_also_after_a_change_of_rho(c: Communicator, form: str) -> None:
    steps = list(problem.batches(c, 8))
    method, _ = problem.make(AdmmConsensus, c, hyperparameters={"rho": 0.5, "form": form})
    problem.train(method, steps[:4])
    state = method.state_dict()
    method, model = problem.make(AdmmConsensus, c, hyperparameters={"rho": 4.0, "form": form})
    method.load_state_dict(state)
    method.change(AdmmConsensusHyperparameters(rho=0.5, form=form))
    problem.train(method, steps[4:])
    center = problem.vector(method.finalize())
    mean = problem.vector(model) - method.state_dict()["dual"]
    c.mean(mean)
    assert problem.close(center, mean, FLOAT64)


@pytest.mark.parametrize("setting", ["compile", "sync_batch_norm"])
def test_only_the_asynchronous_form_refuses_what_needs_ranks_in_step(setting):
    given = {"learning_rate": 0.1, setting: True}
    for form in ("synchronous", "round_robin"):
        split_hyperparameters("admm_consensus", "digits_mlp", given | {"form": form}, 2)
    with pytest.raises(NotApplicable, match=f"admm_consensus.* {setting}.* must be"):
        split_hyperparameters("admm_consensus", "digits_mlp", given | {"form": "async"}, 2)


def test_a_change_of_rho_leaves_the_dual_as_it_is_unscaled():
    """It is kept in units of 1/rho (eq. 3.52), so that rho times it is the multiplier."""
    made = [problem.make(AdmmConsensus, single_rank(), hyperparameters={"rho": rho})[0] for rho in (0.5, 2.0)]
    dual = torch.linspace(-1, 1, len(problem.vector(problem.make_model())), dtype=torch.float64)
    made[1].load_state_dict(made[0].state_dict() | {"dual": dual})
    made[1].change(AdmmConsensusHyperparameters(rho=0.5))
    assert torch.equal(2.0 * made[1].state_dict()["dual"], 0.5 * dual)  # powers of two are exact


def admm_round(p, eta, rho):
    """The map (2p+1, 2p+1) of (duals, replicas, center) in one round-robin step of the method: p of the source's."""
    size = 2 * p + 1
    basis = torch.eye(size, dtype=torch.float64)

    def step(c):
        start = basis[p + c.rank]
        method, model = paths.build(
            "admm_consensus", c, replica=start, center=basis[-1], rate=eta, rho=rho, form="round_robin"
        )
        # 3.54 takes the center from all replicas and duals: what the next center is does not depend on the last one.
        state = method.state_dict() | {"dual": basis[c.rank], "center": basis[-1]}
        method.load_state_dict(state)
        method.step(paths.batch(torch.zeros(size, dtype=torch.float64)))
        return method.state_dict()["dual"], model.x.detach().clone(), paths.shown(method)

    ranks = run_virtual_ranks(step, [0] * p)
    return torch.stack([dual for dual, _, _ in ranks] + [x for _, x, _ in ranks] + [ranks[0][2]])


def round_robin_admm(num_steps, eta, rho, p=3, start=1000.0):
    """3.52 to 3.54 as printed, for F(x) = x^2 / 2: the center after each step."""
    duals, x, center, seen = [0.0] * p, [start] * p, start, []
    for t in range(num_steps):
        i = t % p
        duals[i] -= x[i] - center
        x[i] = (x[i] - eta * x[i] + eta * rho * (duals[i] + center)) / (1 + eta * rho)
        center = sum(xi - dual for xi, dual in zip(x, duals, strict=True)) / p
        seen.append(center)
    return seen


def test_round_robin_admm_diverges_where_the_source_says():
    p = 3
    m = admm_round(p, eta=0.001, rho=2.5)
    state = torch.full((2 * p + 1,), 1000.0, dtype=torch.float64)
    state[:p] = 0
    expected = round_robin_admm(30_000, eta=0.001, rho=2.5)

    def center(num_source_steps):
        return float((torch.linalg.matrix_power(m, num_source_steps // p) @ state)[-1])

    for num_steps in (3, 300, 9_999, 30_000):
        # 30,000 roundings of values that swing up to 1000, the largest eigenvalue 1.001: 1e-9 is far above both.
        assert center(num_steps) == pytest.approx(expected[num_steps - 1], abs=1e-9 * 1000)
    # It falls from 1000 to 35 after 10,000 steps, then grows without end.
    assert abs(center(9_999)) < 40 < 300 < abs(center(30_000))
    assert abs(center(99_999)) > 1e12
    assert paths.radius(m) > 1


def test_consensus_admm_synchronous_is_3_52_to_3_54():
    p, eta, rho = 3, 0.2, 0.7
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def run(c):
        method, _ = paths.build(
            "admm_consensus", c, replica=start[c.rank : c.rank + 1], center=start[:1], rate=eta, rho=rho
        )
        seen = []
        for _ in range(10):
            method.step(paths.batch(torch.zeros(1, dtype=torch.float64)))
            seen.append(float(paths.shown(method)[0]))
        return seen

    got = run_virtual_ranks(run, [0] * p)[0]
    x, duals, center, expected = start.tolist(), [0.0] * p, float(start[0]), []
    for _ in range(10):
        duals = [d - (xi - center) for d, xi in zip(duals, x, strict=True)]
        x = [(xi - eta * xi + eta * rho * (d + center)) / (1 + eta * rho) for d, xi in zip(duals, x, strict=True)]
        center = sum(xi - d for d, xi in zip(duals, x, strict=True)) / p
        expected.append(center)
    assert got == pytest.approx(expected, rel=1e-13)


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("form", ["synchronous", "round_robin"])
def test_it_equals_its_replay(c: Communicator, form: str) -> None:
    """Eqs. 3.52 to 3.54; `kept` is a rank's dual."""
    rho, ranks, center = 0.8, replayed.ranks_of(c.size), replayed.start(-1)
    before_of = [rank.x for rank in ranks]  # x - l of each, of which 3.54 takes the mean
    for _ in range(replayed.STEPS):
        gradients = [replayed.gradient(rank.x, rank.noise) for rank in ranks]
        for rank, gradient in zip(ranks, gradients, strict=True):
            rank.kept = rank.kept - (rank.x - center)
            pull = rank.rate * rho
            rank.x = (rank.x - rank.rate * gradient + pull * (rank.kept + center)) / (1 + pull)
            if form == "round_robin":
                center = center + (rank.x - rank.kept - before_of[rank.number]) / c.size
                before_of[rank.number] = rank.x - rank.kept
        if form == "synchronous":
            center = np.mean([rank.x - rank.kept for rank in ranks], axis=0)
        for rank in ranks:
            rank.step += 1
    trained = replayed.train(c, "admm_consensus", together=True, form=form, rho=rho)
    assert replayed.close(trained.x, ranks[c.rank].x)
    assert replayed.close(trained.shown, center)


@on_ranks(SINGLE, PAIR, QUADRUPLE)
@pytest.mark.parametrize("server", ["shared", "dedicated"])
def test_the_asynchronous_form_equals_its_replay(c: Communicator, server: str) -> None:
    """Eqs. 3.52 to 3.54, each rank by the center of its last move."""
    if c.size == 1 and server == "dedicated":
        return
    rho, center, num_servers = 0.8, replayed.start(-1), int(server == "dedicated")
    known: dict[int, np.ndarray] = {}

    def step(_: list[replayed.Rank], rank: replayed.Rank) -> None:
        nonlocal center
        seen, before = known.get(rank.number, replayed.start(-1)), rank.x - rank.kept
        gradient, pull = replayed.gradient(rank.x, rank.noise), rank.rate * rho
        rank.kept = rank.kept - (rank.x - seen)
        rank.x = (rank.x - rank.rate * gradient + pull * (rank.kept + seen)) / (1 + pull)
        center = center + (rank.x - rank.kept - before) / (c.size - num_servers)
        known[rank.number] = center

    ranks = replayed.in_turns(c.size, step, num_servers)
    trained = replayed.train(c, "admm_consensus", form="async", rho=rho, server=server)
    assert replayed.close(trained.x, ranks[c.rank].x)
    assert replayed.close(trained.shown, center)
