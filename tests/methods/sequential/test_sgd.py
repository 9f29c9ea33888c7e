"""SGD on one rank."""

import pytest
import replayed
from on_ranks import on_ranks
from paths import end_of_one_path, iterates_of_sgd

from atoll.communication.communicator import Communicator
from atoll.methods.sequential.sgd import Sgd
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    assert end_of_one_path(c, "sgd") == pytest.approx(iterates_of_sgd()[-1], rel=1e-12)


@on_ranks(SINGLE)
def test_it_is_torchs_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    method, _ = problem.make(Sgd, c, settings={"momentum": 0.0})
    problem.train(method, steps)
    expected = problem.torch_sgd(steps, momentum=0.0)
    assert problem.close(problem.vector(method.finalize()), expected, FLOAT64)


@on_ranks(SINGLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    (expected,) = replayed.in_turns(1, lambda _, rank: rank.descend())
    assert replayed.close(replayed.train(c, "sgd").shown, expected.x)
