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


@on_ranks(PAIR, QUADRUPLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    """Algorithms 4 and 5: the center moves at the rate of its owner's last step."""
    delta, center, velocity = 0.6, replayed.start(-1), 0.0

    def step(ranks: list[replayed.Rank], rank: replayed.Rank) -> None:
        nonlocal center, velocity
        gradient = replayed.gradient(rank.x, rank.noise)
        owners_rate = replayed.rate(max(0, ranks[0].step - (rank.number != 0)))
        velocity = delta * velocity - owners_rate * gradient
        center = center + velocity
        rank.x = center + delta * velocity

    ranks = replayed.in_turns(c.size, step)
    trained = replayed.train(c, "mdownpour", momentum=delta)
    assert replayed.close(trained.x, ranks[c.rank].x)
    assert replayed.close(trained.shown, center)
