"""DOWNPOUR (Zhang 2016, algorithm 3)."""

import paths
import pytest
import replayed
import torch
from center_protocol import exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import end_of_one_path, iterates_of_sgd

from atoll.communication.communicator import Communicator
from atoll.methods.parameter_server.downpour import Downpour
from atoll.methods.parameter_server.downpour_base import push
from atoll.methods.sequential.sgd import Sgd
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO


@on_ranks(SINGLE)
def test_one_rank_equals_the_written_out_updates(c: Communicator) -> None:
    assert end_of_one_path(c, "downpour", tau=3) == pytest.approx(iterates_of_sgd()[-1], rel=1e-12)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
def test_nobody_waits_for_a_late_rank(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "downpour", late, tau=2)


@on_ranks(TWO_BY_TWO)
@pytest.mark.parametrize("late", [1, -1], ids=["first", "last"])
def test_nobody_waits_for_a_late_worker_of_a_dedicated_server(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "downpour", late, tau=2, server="dedicated")


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes_with_a_dedicated_server(c: Communicator) -> None:
    exchanges_cost_8n(c, "downpour", num_extra=1, server="dedicated")


@on_ranks(PAIR)
@pytest.mark.parametrize("tau", [1, 7])
def test_one_worker_of_a_dedicated_server_is_sgd(c: Communicator, tau: int) -> None:
    settings = {"learning_rate": 0.2, "momentum": 0.0}
    steps = list(problem.batches(c, 40, num_servers=1))
    method, _ = problem.make(Downpour, c, hyperparameters={"tau": tau, "server": "dedicated"}, settings=settings)
    problem.train(method, steps)
    end = problem.vector(method.finalize())
    alone = c.split(c.rank)
    reference, model = problem.make(Sgd, alone, settings=settings)
    problem.train(reference, list(problem.batches(alone, 40)))
    assert problem.close(end, problem.vector(model), FLOAT64)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    exchanges_cost_8n(c, "downpour", num_extra=1)


@on_ranks(SINGLE)
@pytest.mark.parametrize("tau", [1, 7])
def test_one_rank_is_sgd(c: Communicator, tau: int) -> None:
    settings = {"learning_rate": 0.2, "momentum": 0.0}
    steps = list(problem.batches(c, 40))
    method, _ = problem.make(Downpour, c, hyperparameters={"tau": tau}, settings=settings)
    reference, model = problem.make(Sgd, c, settings=settings)
    problem.train(method, steps)
    problem.train(reference, steps)
    assert problem.close(problem.vector(method.finalize()), problem.vector(model), FLOAT64)


def test_synchronous_pushes_are_the_unified_form_with_alpha_1_and_beta_p():
    """Zhang 2016, eq. 6.1: every rank steps from the same center, then all pushes are added."""
    p, eta = 4, 0.3
    m = paths.linear_map("easgd", p, form="gauss_seidel", tau=1, rate=eta, alpha=1.0, beta=float(p))
    center = torch.tensor(1.0, dtype=torch.float64)
    fetched = center.clone()
    for _ in range(p):
        push(center, -eta * fetched)
    assert float(m[-1, -1]) == pytest.approx(float(center), rel=1e-14)
    assert m[-1, :-1].abs().max() < 1e-15  # the replicas' values are forgotten


@on_ranks(PAIR, QUADRUPLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    replayed.pushes(c, "downpour")


@on_ranks(PAIR, QUADRUPLE)
def test_it_equals_its_replay_with_a_dedicated_server(c: Communicator) -> None:
    replayed.pushes(c, "downpour", server="dedicated")
