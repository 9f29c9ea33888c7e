"""EAMSGD: elastic averaging with Nesterov's momentum (Zhang 2016, eq. 2.5, 2.6)."""

import paths
import pytest
import replayed
import torch
from center_protocol import exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import NOISE, RATES, START

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.parameter_server.eamsgd import Eamsgd
from atoll.methods.parameter_server.easgd import Easgd
from atoll.methods.parameter_server.elastic_base import FORMS
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
    size = 2 * p + 1
    basis = torch.eye(size, dtype=torch.float64)

    def step(c):
        method, model = paths.build(
            "eamsgd",
            c,
            replica=basis[p + c.rank],
            center=basis[-1],
            form="jacobi",
            tau=1,
            rate=eta,
            momentum=delta,
            alpha=alpha,
            beta=beta,
        )
        state = method.state_dict()
        state["descent"]["velocity"] = basis[c.rank]
        method.load_state_dict(state)
        method.step(paths.batch(torch.zeros(size, dtype=torch.float64)))
        return method.state_dict()["descent"]["velocity"], model.x.detach().clone(), paths.shown(method)

    ranks = run_virtual_ranks(step, [0] * p)
    m = torch.stack([v for v, _, _ in ranks] + [x for _, x, _ in ranks] + [ranks[0][2]])
    d = delta * (1 - eta)
    for z in torch.linalg.eigvals(m):
        # 5.21 with delta_h = delta (1 - eta h) where the text prints delta: v is multiplied by it.
        u = z * z - (1 - eta - alpha + d) * z + d * (1 - alpha)
        v = (d - z) * (1 - eta - alpha - z) * (1 - beta - z) + eta * d * (1 - beta - z) - alpha * beta * (d - z)
        assert min(abs(complex(u)), abs(complex(v))) < 1e-9


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("momentum_form", ["nesterov", "heavy_ball"])
@pytest.mark.parametrize("form", FORMS)
def test_it_equals_its_replay(c: Communicator, form: str, momentum_form: str) -> None:
    replayed.elastic(c, "eamsgd", momentum=0.6, form=form, momentum_form=momentum_form)
