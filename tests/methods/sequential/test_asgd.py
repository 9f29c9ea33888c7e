"""SGD with the mean of all iterates."""

import pytest
import replayed
from on_ranks import on_ranks
from paths import NOISE, end_of_one_path, iterates_of_sgd

from atoll.communication.communicator import Communicator
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    assert end_of_one_path(c, "asgd") == pytest.approx(sum(iterates_of_sgd()[:-1]) / len(NOISE), rel=1e-12)


@on_ranks(SINGLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    def step(_: list[replayed.Rank], rank: replayed.Rank) -> None:
        rank.kept = rank.kept + rank.x / replayed.STEPS
        rank.descend()

    (expected,) = replayed.in_turns(1, step)
    assert replayed.close(replayed.train(c, "asgd").shown, expected.kept)
