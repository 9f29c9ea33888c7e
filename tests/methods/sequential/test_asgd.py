"""SGD with the mean of all iterates."""

import pytest
from on_ranks import on_ranks
from paths import NOISE, end_of_one_path, iterates_of_sgd

from atoll.communication.communicator import Communicator
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    assert end_of_one_path(c, "asgd") == pytest.approx(sum(iterates_of_sgd()[:-1]) / len(NOISE), rel=1e-12)
