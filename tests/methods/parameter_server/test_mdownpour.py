"""MDOWNPOUR: DOWNPOUR with Nesterov's momentum at the center (Zhang 2016, algorithms 4 and 5)."""

import pytest
import replayed
from center_protocol import exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import end_of_msgd, end_of_one_path

from atoll.communication.communicator import Communicator
from atoll.methods.parameter_server.mdownpour import Mdownpour
from atoll.methods.sequential.msgd import Msgd
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO


@on_ranks(SINGLE)
def test_one_rank_equals_the_written_out_updates(c: Communicator) -> None:
    assert end_of_one_path(c, "mdownpour", momentum=0.6) == pytest.approx(end_of_msgd(0.6), rel=1e-12)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
def test_nobody_waits_for_a_late_rank(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "mdownpour", late)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    exchanges_cost_8n(c, "mdownpour", tau=None)


@on_ranks(SINGLE)
def test_one_rank_is_msgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 40))
    settings = {"learning_rate": 0.05, "momentum": 0.9}
    method, _ = problem.make(Mdownpour, c, settings=settings)
    reference, model = problem.make(Msgd, c, settings=settings)
    problem.train(method, steps)
    problem.train(reference, steps)
    assert problem.close(problem.vector(method.finalize()), problem.vector(model), FLOAT64)


@on_ranks(PAIR)
def test_one_worker_of_a_dedicated_server_is_msgd(c: Communicator) -> None:
    """The server's steps, and so the rate at which the center moves, are the worker's."""
    settings = {"learning_rate": 0.05, "momentum": 0.9, "schedule": "linear"}
    optimizers = problem.make_optimizers(Mdownpour, settings, num_steps=40)
    method, _ = problem.make(Mdownpour, c, hyperparameters={"server": "dedicated"}, optimizers=optimizers)
    problem.train(method, list(problem.batches(c, 40, num_servers=1)), optimizers=optimizers)
    end = problem.vector(method.finalize())
    alone = c.split(c.rank)
    optimizers = problem.make_optimizers(Msgd, settings, num_steps=40)
    reference, model = problem.make(Msgd, alone, optimizers=optimizers)
    problem.train(reference, list(problem.batches(alone, 40)), optimizers=optimizers)
    assert problem.close(end, problem.vector(model), FLOAT64)


@on_ranks(TWO_BY_TWO)
@pytest.mark.parametrize("late", [1, -1], ids=["first", "last"])
def test_nobody_waits_for_a_late_worker_of_a_dedicated_server(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "mdownpour", late, server="dedicated")


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes_with_a_dedicated_server(c: Communicator) -> None:
    exchanges_cost_8n(c, "mdownpour", tau=None, server="dedicated")


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("server", ["shared", "dedicated"])
def test_it_equals_its_replay(c: Communicator, server: str) -> None:
    """Algorithms 4 and 5: the center moves at the rate of its owner's last step, or of the others' on average."""
    num_servers, num_steps = int(server == "dedicated"), 0
    delta, center, velocity = 0.6, replayed.start(-1), 0.0

    def step(ranks: list[replayed.Rank], rank: replayed.Rank) -> None:
        nonlocal center, velocity, num_steps
        gradient = replayed.gradient(rank.x, rank.noise)
        owners_step = num_steps // (c.size - 1) if num_servers else max(0, ranks[0].step - (rank.number != 0))
        owners_rate = replayed.rate(owners_step)
        num_steps += 1
        velocity = delta * velocity - owners_rate * gradient
        center = center + velocity
        rank.x = center + delta * velocity

    ranks = replayed.in_turns(c.size, step, num_servers)
    trained = replayed.train(c, "mdownpour", momentum=delta, server=server)
    assert replayed.close(trained.x, ranks[c.rank].x)
    assert replayed.close(trained.shown, center)
