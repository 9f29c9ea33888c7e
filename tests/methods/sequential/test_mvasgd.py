"""SGD with a moving average of the iterates."""

import pytest
import replayed
from on_ranks import on_ranks
from paths import end_of_one_path, iterates_of_sgd, moving_average

from atoll.communication.communicator import Communicator
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    expected = moving_average(iterates_of_sgd()[:-1], 0.1)
    assert end_of_one_path(c, "mvasgd", moving_rate=0.1) == pytest.approx(expected, rel=1e-12)


@on_ranks(SINGLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    """The average starts where the network does."""

    def step(_: list[replayed.Rank], rank: replayed.Rank) -> None:
        average = replayed.start(-1) if rank.step == 0 else rank.kept
        rank.kept = 0.9 * average + 0.1 * rank.x
        rank.descend()

    (expected,) = replayed.in_turns(1, step)
    assert replayed.close(replayed.train(c, "mvasgd", moving_rate=0.1).shown, expected.kept)
