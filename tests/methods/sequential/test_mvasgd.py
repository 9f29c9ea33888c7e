"""SGD with a moving average of the iterates."""

import pytest
from on_ranks import on_ranks
from paths import end_of_one_path, iterates_of_sgd, moving_average

from atoll.communication.communicator import Communicator
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    expected = moving_average(iterates_of_sgd()[:-1], 0.1)
    assert end_of_one_path(c, "mvasgd", moving_rate=0.1) == pytest.approx(expected, rel=1e-12)
