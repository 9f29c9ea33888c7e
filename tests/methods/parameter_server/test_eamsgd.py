"""EAMSGD: elastic averaging with Nesterov's momentum (Zhang 2016, eq. 2.5, 2.6)."""

import moments
import paths
import pytest
import replayed
import torch
from center_protocol import exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import NOISE, RATES, START

from atoll.communication.communicator import Communicator
from atoll.methods.parameter_server.eamsgd import Eamsgd
from atoll.methods.parameter_server.easgd import Easgd
from atoll.methods.parameter_server.elastic_hyperparameters import FORMS
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO

PLAIN = {"learning_rate": 0.2, "momentum": 0.0, "weight_decay": 1e-3}


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("momentum_form", ["nesterov", "heavy_ball"])
@pytest.mark.parametrize("form", FORMS)
def test_without_momentum_it_equals_easgd(c: Communicator, form: str, momentum_form: str) -> None:
    if form.startswith("async") and c.size > 1:
        return  # ranks race
    steps = list(problem.batches(c, 30))
    easgd, _ = problem.make(Easgd, c, hyperparameters={"form": form, "tau": 3}, settings=PLAIN)
    problem.train(easgd, steps)
    hyperparameters = {"form": form, "tau": 3, "momentum_form": momentum_form}
    eamsgd, _ = problem.make(Eamsgd, c, hyperparameters=hyperparameters, settings=PLAIN)
    problem.train(eamsgd, steps)
    # The heavy ball adds v = -lr g where the others subtract lr g in one rounding.
    assert problem.close(problem.vector(eamsgd.finalize()), problem.vector(easgd.finalize()), FLOAT64)


@on_ranks(SINGLE)
@pytest.mark.parametrize("momentum_form", ["nesterov", "heavy_ball"])
def test_one_rank_equals_the_written_out_updates(c: Communicator, momentum_form: str) -> None:
    """With a falling rate, and alpha and beta apart."""
    delta, alpha, beta, tau = 0.6, 0.2, 0.7, 3
    x, v, center = START, 0.0, START
    for t, (noise, rate) in enumerate(zip(NOISE, RATES, strict=True)):
        displacement = 0.0
        if t % tau == 0:
            displacement = alpha * (x - center)
            center += beta * (x - center)
        ahead = delta * v if momentum_form == "nesterov" else 0.0
        v = delta * v - rate * (x + ahead - noise)
        x += v - displacement
    given = {"alpha": alpha, "beta": beta, "tau": tau, "momentum_form": momentum_form}
    assert paths.end_of_one_path(c, "eamsgd", momentum=delta, **given) == pytest.approx(center, rel=1e-12)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
def test_nobody_waits_for_a_late_rank(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "eamsgd", late, tau=2)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    exchanges_cost_8n(c, "eamsgd")


@pytest.mark.parametrize("p", [1, 3])
def test_eamsgd_has_the_eigenvalues_of_5_21(p):
    eta, alpha, beta, delta = 0.2, 0.15, 0.7, 0.6
    m = paths.linear_map("eamsgd", p, form="jacobi", tau=1, rate=eta, momentum=delta, alpha=alpha, beta=beta)
    d = delta * (1 - eta)
    for z in torch.linalg.eigvals(m):
        # 5.21 with delta_h = delta (1 - eta h) where the text prints delta: v is multiplied by it.
        u = z * z - (1 - eta - alpha + d) * z + d * (1 - alpha)
        v = (d - z) * (1 - eta - alpha - z) * (1 - beta - z) + eta * d * (1 - beta - z) - alpha * beta * (d - z)
        assert min(abs(complex(u)), abs(complex(v))) < 1e-9


def test_its_best_alpha_grows_as_the_rate_falls():
    """Figure 5.8's setting: delta = 0.99, beta = 0.9, two workers."""

    def best(rate):
        given = {"form": "jacobi", "tau": 1, "rate": rate, "momentum": 0.99, "beta": 0.9}
        alphas = [number / 20 for number in range(-18, 20)]
        return min(alphas, key=lambda alpha: paths.radius(paths.linear_map("eamsgd", 2, alpha=alpha, **given)))

    found = [best(rate) for rate in (1.5, 1.0, 0.5, 0.2, 0.05)]
    assert found == sorted(set(found))
    assert found[0] < 0 < found[2]


def test_nesterovs_variance_stays_bounded_as_momentum_tends_to_1_and_the_heavy_balls_does_not():
    """A replica without a center's pull is MSGD (Zhang 2016, section 5.1.2)."""
    eta = 0.3

    def variance(momentum_form, delta):
        given = {"form": "jacobi", "tau": 1, "alpha": 0.0, "beta": 0.5, "momentum_form": momentum_form}
        step = moments.affine("eamsgd", 1, rate=eta, momentum=delta, **given)
        return float(moments.stationary(step)[1, 1])

    limit = (2 - eta) / (4 - 3 * eta)  # at delta = 1
    assert variance("nesterov", 0.9999) == pytest.approx(limit, rel=1e-3)
    assert variance("nesterov", 0.9999) < limit
    for delta in (0.9, 0.999):
        expected = (1 + delta) * eta / ((1 - delta) * (2 * (1 + delta) - eta))  # eq. 5.7 with delta_h = delta
        assert variance("heavy_ball", delta) == pytest.approx(expected, rel=1e-6)
    assert variance("heavy_ball", 0.999) > 90 * variance("heavy_ball", 0.9)


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("momentum_form", ["nesterov", "heavy_ball"])
@pytest.mark.parametrize("form", FORMS)
def test_it_equals_its_replay(c: Communicator, form: str, momentum_form: str) -> None:
    replayed.elastic(c, "eamsgd", momentum=0.6, form=form, momentum_form=momentum_form)


@on_ranks(QUADRUPLE)
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_it_equals_its_replay_with_a_dedicated_server(c: Communicator, form: str) -> None:
    replayed.elastic(c, "eamsgd", momentum=0.6, form=form, server="dedicated")
