"""Data-parallel SGD."""

import moments
import paths
import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ddp import Ddp
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO, TWO_NODES


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_p_ranks_equal_one_rank_with_the_whole_batch(c: Communicator, optimizer: str) -> None:
    settings = {} if optimizer == "sgd" else {"optimizer": "adamw", "learning_rate": 0.01}
    method, model = problem.make(Ddp, c, settings=settings)
    problem.train(method, list(problem.batches(c, 30, batch_size=8)))
    alone = c.split(c.rank)
    serial, reference = problem.make(Ddp, alone, settings=settings)
    problem.train(serial, list(problem.batches(alone, 30, batch_size=8 * c.size)))
    tolerance = FLOAT64 if optimizer == "sgd" else ADAPTIVE
    assert problem.close(problem.vector(model), problem.vector(reference), tolerance)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize(("wire", "width"), [("float32", 4), ("bfloat16", 2)])
def test_bytes(c: Communicator, wire: str, width: int) -> None:
    method, model = problem.make(Ddp, c, hyperparameters={"wire": wire}, model=problem.make_model(torch.float32))
    problem.train(method, list(problem.batches(c, 20, dtype=torch.float32)))
    expected = 20 * 2 * (c.size - 1) / c.size * width * problem.vector(model).numel()
    assert c.ledger.wire_bytes() == pytest.approx(expected, rel=1e-12)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("unused", [False, True], ids=["all_used", "one_unused"])
def test_overlapped_equals_classic(c: Communicator, unused: bool) -> None:
    """In one bucket, in one for each parameter, and with a parameter that has no part in the loss."""
    steps = list(problem.batches(c, 30))
    ends = []
    for hyperparameters in ({"overlap": False}, {"bucket_mib": 1.0}, {"bucket_mib": 2**-20}):
        model = problem.make_model()
        if unused:
            model.register_parameter("idle", torch.nn.Parameter(torch.ones(3, dtype=torch.float64)))
        method, _ = problem.make(Ddp, c, hyperparameters=hyperparameters, model=model)
        problem.train(method, steps)
        ends.append(problem.vector(method.finalize()))
    assert problem.close(ends[1], ends[0], FLOAT64)
    assert problem.close(ends[2], ends[0], FLOAT64)


@on_ranks(TWO_NODES)
def test_evaluation_averages_running_statistics(c: Communicator) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)).double()
    for parameter in model.parameters():
        c.broadcast(parameter.data)
    method, _ = problem.make(Ddp, c, model=model)
    problem.train(method, list(problem.batches(c, 5)))
    own = model[1].running_mean.clone()
    expected = own.clone()
    c.mean(expected)
    method.evaluation_model()
    assert torch.equal(model[1].running_mean, expected)
    assert not torch.equal(own, expected)


@on_ranks(SINGLE)
def test_one_rank_is_torchs_sgd(c: Communicator) -> None:
    problem_steps = list(problem.batches(c, 30))
    method, _ = problem.make(Ddp, c)
    problem.train(method, problem_steps)
    assert problem.close(problem.vector(method.finalize()), problem.torch_sgd(problem_steps), FLOAT64)


# A mini-batch of p (Zhang 2016, sections 5.1.1 and 5.2.1).


@pytest.mark.parametrize("p", [1, 2, 5])
@pytest.mark.parametrize("eta", [0.1, 0.9, 1.7])
def test_a_batch_of_p_cuts_the_variance_of_5_3_and_not_the_rate(eta, p):
    m, noise = moments.affine("ddp", p, rate=eta)
    # All replicas start alike, and stay so.
    rate, gains = m[:p].sum(1), noise[:p]
    assert rate.tolist() == pytest.approx([1 - eta] * p, rel=1e-12)
    assert gains.square().sum(1).tolist() == pytest.approx([eta**2 / p] * p, rel=1e-12)
    of_replica = sum(float(rate[0]) ** (2 * t) * float(gains[0].square().sum()) for t in range(2000))
    assert of_replica == pytest.approx(eta**2 / (1 - (1 - eta) ** 2) / p, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("shape", [0.5, 2.0])
def test_the_rate_and_the_best_rate_under_multiplicative_noise_are_5_26_and_5_27(shape, p):
    """Curvatures are Gamma distributed, here with omega = 2; E[x^2] changes by the mean of (1 - eta xi)^2 per step."""
    omega = 2.0
    mean, variance = shape / omega, shape / omega**2

    def factor(eta):
        zero, units = torch.zeros(p, dtype=torch.float64), torch.eye(p, dtype=torch.float64)
        still, *moved = paths.noisy_maps("ddp", p, noises=[zero, *units], objective=paths.scaled, rate=eta)
        slopes = [float((m - still)[0].sum()) for m in moved]
        return (float(still[0].sum()) + mean * sum(slopes)) ** 2 + variance * sum(slope**2 for slope in slopes)

    for eta in (0.1, 0.7):
        expected = 1 - 2 * eta * mean + eta**2 * shape * (p * shape + 1) / (p * omega**2)
        assert factor(eta) == pytest.approx(expected, rel=1e-12)
    best = omega / (shape + 1 / p)
    assert factor(best) == pytest.approx(1 / (p * shape + 1), rel=1e-12)
    assert factor(best) < min(factor(0.98 * best), factor(1.02 * best))
