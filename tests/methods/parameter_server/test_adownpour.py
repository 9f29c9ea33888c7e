"""DOWNPOUR with the mean of the center over time."""

import pytest
import replayed
from center_protocol import exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import NOISE, end_of_one_path, iterates_of_sgd

from atoll.communication.communicator import Communicator
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO


@on_ranks(SINGLE)
def test_one_rank_equals_the_written_out_updates(c: Communicator) -> None:
    iterates = iterates_of_sgd()
    # The center before each push: the first is empty, at t = 0, and the last comes after the end.
    pushed = [iterates[0], *iterates[0 : len(NOISE) : 3]]
    assert end_of_one_path(c, "adownpour", tau=3) == pytest.approx(sum(pushed) / len(pushed), rel=1e-12)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
def test_nobody_waits_for_a_late_rank(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "adownpour", late, tau=2)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    exchanges_cost_8n(c, "adownpour", num_extra=1)


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("server", ["shared", "dedicated"])
def test_it_equals_its_replay(c: Communicator, server: str) -> None:
    replayed.pushes(c, "adownpour", server=server)
