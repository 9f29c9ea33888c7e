"""DiLoCo."""

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.diloco import Diloco, outer_step
from atoll.methods.data_parallel.local_sgd import LocalSgd
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_outer_rate_1_and_momentum_0_equal_local_sgd(c: Communicator, optimizer: str) -> None:
    settings = {} if optimizer == "sgd" else {"optimizer": "adamw", "learning_rate": 0.01}
    steps = list(problem.batches(c, 32))  # with a rest: 32 is no multiple of 5
    outer = {"H": 5, "outer_learning_rate": 1.0, "outer_momentum": 0.0}
    diloco, _ = problem.make(Diloco, c, hyperparameters=outer, settings=settings)
    local, _ = problem.make(LocalSgd, c, hyperparameters={"H": 5}, settings=settings)
    problem.train(local, steps)
    sent = c.ledger.wire_bytes()
    problem.train(diloco, steps)
    assert c.ledger.wire_bytes() == 2 * sent
    tolerance = FLOAT64 if optimizer == "sgd" else ADAPTIVE
    assert problem.close(problem.vector(diloco.finalize()), problem.vector(local.finalize()), tolerance)


@on_ranks(SINGLE)
def test_one_rank_is_torchs_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    outer = {"H": 3, "outer_learning_rate": 1.0, "outer_momentum": 0.0}
    method, _ = problem.make(Diloco, c, hyperparameters=outer)
    problem.train(method, steps)
    assert problem.close(problem.vector(method.finalize()), problem.torch_sgd(steps), FLOAT64)


def test_the_outer_step_is_torchs_nesterov():
    start, velocity = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    reference = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([reference], 0.7, 0.9, nesterov=True)
    for mean in torch.tensor([[0.5, -1.0], [0.25, 0.0], [1.0, 1.0]], dtype=torch.float64):
        reference.grad = reference.detach() - mean
        outer_step(start, mean, velocity, 0.7, 0.9)
        optimizer.step()
    assert start.tolist() == pytest.approx(reference.tolist(), rel=1e-15)
