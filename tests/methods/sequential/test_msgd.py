"""SGD with Nesterov's momentum (Zhang 2016, section 5.1.2)."""

import math

import moments
import paths
import pytest
import replayed
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.testing.ranks import SINGLE


@on_ranks(SINGLE)
def test_it_equals_the_written_out_updates(c: Communicator) -> None:
    assert paths.end_of_one_path(c, "msgd", momentum=0.6) == pytest.approx(paths.end_of_msgd(0.6), rel=1e-12)


def msgd_map(eta, delta):
    """The map (2, 2) of (v, x) in one step of msgd."""
    return paths.linear_map("msgd", 1, rate=eta, momentum=delta)[:2, :2]


# Above eta = 1 the best momentum is negative, which no optimizer takes.
@pytest.mark.parametrize("eta", [0.05, 0.3, 0.8])
def test_the_best_momentum_is_that_of_section_5_1_2(eta):
    best = (math.sqrt(eta) - 1) ** 2 / (1 - eta)  # delta (1 - eta) = (sqrt(eta) - 1)^2
    # The second moments decay with the square of the first moments' radius: (sqrt(eta) - 1)^2.
    assert paths.radius(msgd_map(eta, best)) ** 2 == pytest.approx((math.sqrt(eta) - 1) ** 2, rel=1e-6)
    for other in (best - 0.02, best + 0.02):
        assert paths.radius(msgd_map(eta, other)) > paths.radius(msgd_map(eta, best))


@pytest.mark.parametrize("eta", [1.2, 1.6])
def test_above_a_rate_of_1_no_momentum_is_better_than_none(eta):
    """As figure 5.1, whose best one is negative there."""
    radii = [paths.radius(msgd_map(eta, delta)) for delta in (1e-9, 0.05, 0.2, 0.5, 0.9)]
    assert radii == sorted(radii)
    assert radii[0] < radii[1]


@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("delta", [0.1, 0.6, 0.99])
def test_its_asymptotic_variance_is_5_7s_and_larger_than_sgds(eta, delta):
    covariance = moments.stationary(moments.affine("msgd", 1, rate=eta, momentum=delta))
    d = delta * (1 - eta)
    shared = eta**2 / ((1 - d) * (2 * (1 + d) - eta))
    expected = [2 * shared, shared, (1 + d) / eta * shared]
    assert [float(covariance[i, j]) for i, j in ((0, 0), (0, 1), (1, 1))] == pytest.approx(expected, rel=1e-9)
    (of_sgd,) = moments.stationary(moments.affine("sgd", 1, rate=eta))[:1, :1].flatten().tolist()
    assert of_sgd == pytest.approx(eta / (2 - eta), rel=1e-12)
    assert covariance[1, 1] > of_sgd


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_at_the_best_rate_under_multiplicative_noise_the_best_momentum_is_0(shape):
    """Eq. 5.30 with omega = lambda at eta = lambda/(omega + 1), as in figures 5.10 to 5.13."""
    eta, variance = shape / (shape + 1), 1 / shape

    def radius_of_5_30(delta, u1=1.0, u2=1 + variance):
        a, b = 1 - 2 * eta * u1 + eta**2 * u2, delta * eta * (u1 - eta * u2)
        matrix = [
            [delta**2 * a, eta**2 * u2, -2 * b],
            [delta**2 * a, a, 2 * delta * (1 - eta * u1) - 2 * b],
            [delta**2 * a, -eta * u1 + eta**2 * u2, delta * (1 - eta * u1) - 2 * b],
        ]
        return paths.radius(torch.tensor(matrix, dtype=torch.float64))

    for delta in (0.05, 0.3, 0.9):
        found = moments.Multiplied("msgd", 1, rate=eta, momentum=delta).radius(1.0, variance)
        assert found == pytest.approx(radius_of_5_30(delta), rel=1e-6)  # eigenvalues nearly coincide
    # No optimizer takes a negative momentum; the equation does.
    others = [sign * delta for delta in (0.02, 0.1, 0.5, 0.9) for sign in (-1, 1)]
    assert all(radius_of_5_30(0.0) < radius_of_5_30(delta) for delta in others)


@on_ranks(SINGLE)
def test_it_equals_its_replay(c: Communicator) -> None:
    (expected,) = replayed.in_turns(1, lambda _, rank: rank.descend(0.6))
    assert replayed.close(replayed.train(c, "msgd", momentum=0.6).shown, expected.x)
