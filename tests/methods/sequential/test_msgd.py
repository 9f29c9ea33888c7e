"""SGD with Nesterov's momentum (Zhang 2016, section 5.1.2)."""

import math

import paths
import pytest
import replayed
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    assert paths.end_of_one_path(c, "msgd", momentum=0.6) == pytest.approx(paths.end_of_msgd(0.6), rel=1e-12)


def msgd_map(eta, delta):
    """The map (2, 2) of (v, x) in one step of msgd."""

    def step(c):
        start = torch.tensor([0.0, 1.0], dtype=torch.float64)
        method, model = paths.build("msgd", c, replica=start, center=start, rate=eta, momentum=delta)
        state = method.state_dict()
        state["descent"]["velocity"] = torch.tensor([1.0, 0.0], dtype=torch.float64)
        method.load_state_dict(state)
        method.step(paths.batch(torch.zeros(2, dtype=torch.float64)))
        return torch.stack([method.state_dict()["descent"]["velocity"], model.x.detach()])

    return run_virtual_ranks(step, [0])[0]


# Above eta = 1 the best momentum is negative, which no optimizer takes.
@pytest.mark.parametrize("eta", [0.05, 0.3, 0.8])
def test_the_best_momentum_is_that_of_section_5_1_2(eta):
    best = (math.sqrt(eta) - 1) ** 2 / (1 - eta)  # delta (1 - eta) = (sqrt(eta) - 1)^2
    # The second moments decay with the square of the first moments' radius: (sqrt(eta) - 1)^2.
    assert paths.radius(msgd_map(eta, best)) ** 2 == pytest.approx((math.sqrt(eta) - 1) ** 2, rel=1e-6)
    for other in (best - 0.02, best + 0.02):
        assert paths.radius(msgd_map(eta, other)) > paths.radius(msgd_map(eta, best))


@on_ranks(SINGLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    (expected,) = replayed.in_turns(1, lambda _, rank: rank.descend(0.6))
    assert replayed.close(replayed.train(c, "msgd", momentum=0.6).shown, expected.x)
