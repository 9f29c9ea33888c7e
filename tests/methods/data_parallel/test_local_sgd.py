"""Local SGD and its post-local form."""

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.common.optimizers import OPTIMIZERS, default_rate
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.data_parallel.local_sgd import LocalSgd, LocalSgdHyperparameters
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize(
    "settings",
    [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    ids=["plain", "momentum", "nesterov"],
)
def test_one_local_step_equals_ddp(c: Communicator, settings: dict) -> None:
    steps = list(problem.batches(c, problem.NUM_STEPS))
    local, a = problem.make(LocalSgd, c, hyperparameters={"H": 1}, settings=settings)
    ddp, b = problem.make(Ddp, c, settings=settings)
    problem.train(local, steps)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(a), problem.vector(b), FLOAT64)


@on_ranks(SINGLE)
def test_one_rank_is_torchs_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    method, _ = problem.make(LocalSgd, c)
    problem.train(method, steps)
    assert problem.close(problem.vector(method.finalize()), problem.torch_sgd(steps), FLOAT64)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("period", [1, 2, 5])
def test_bytes_fall_with_H(c: Communicator, period: int) -> None:
    num_parameters = problem.vector(problem.make_model()).numel()
    method, _ = problem.make(LocalSgd, c, hyperparameters={"H": period})
    problem.train(method, list(problem.batches(c, 20)))
    expected = 20 / period * 2 * (c.size - 1) / c.size * 8 * num_parameters
    assert c.ledger.wire_bytes() == pytest.approx(expected, rel=1e-12)


@on_ranks(PAIR)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ranks_go_on_from_their_mean_with_every_optimizer(c: Communicator, optimizer: str) -> None:
    """An optimizer that derives weights from a state of its own would undo the mean."""
    settings = {"optimizer": optimizer, "learning_rate": default_rate(optimizer)}
    method, model = problem.make(LocalSgd, c, hyperparameters={"H": 9}, settings=settings)
    apart = []
    for batch in problem.batches(c, 10):
        method.step(batch)
        mine = problem.vector(model)
        mean = mine.clone()
        c.mean(mean)
        apart.append(float((mine - mean).norm()))
    before, met, after = apart[-3:]
    assert met == 0
    assert after < 0.7 * before


@on_ranks(PAIR)
def test_post_local_sgd_starts_as_ddp(c: Communicator) -> None:
    steps = list(problem.batches(c, 20))
    local, a = problem.make(LocalSgd, c, hyperparameters={"H": 100, "warmup": 0.2})
    ddp, b = problem.make(Ddp, c)
    problem.train(local, steps)
    problem.train(ddp, steps)
    assert torch.equal(problem.vector(a), problem.vector(b))
    local.step(next(problem.batches(c, 1)))
    mine, theirs = problem.vector(a), problem.vector(a)
    c.broadcast(theirs)
    assert c.rank == 0 or not torch.equal(mine, theirs)


@on_ranks(PAIR)
def test_H_counts_local_steps_only(c: Communicator) -> None:
    """After three steps of warm-up with averaged gradients the parameters meet at every fifth step."""
    method, _ = problem.make(LocalSgd, c, hyperparameters={"H": 5, "warmup": 0.03})
    communicates = []
    for batch in problem.batches(c, 14):
        before = c.ledger.wire_bytes()
        method.step(batch)
        communicates.append(c.ledger.wire_bytes() > before)
    assert [number for number, sends in enumerate(communicates, 1) if sends] == [1, 2, 3, 8, 13]


@on_ranks(PAIR)
@pytest.mark.parametrize("num_epochs", [1, 4])
def test_the_warm_up_is_a_share_of_the_training(c: Communicator, num_epochs: int) -> None:
    method, model = problem.make(
        LocalSgd, c, hyperparameters={"H": 100, "warmup": 0.3}, num_epochs=num_epochs, steps_per_epoch=10
    )
    equal = []
    for batch in problem.batches(c, 10 * num_epochs):
        method.step(batch)
        one, other = problem.gathered(c, problem.vector(model))
        equal.append(torch.equal(one, other))
    assert equal == [True] * 3 * num_epochs + [False] * 7 * num_epochs


@pytest.mark.parametrize("warmup", [-0.1, 64])
def test_a_warm_up_that_is_no_share_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match=r"warmup must be a share of the steps, in \[0, 1\]; got "):
        LocalSgdHyperparameters(warmup=warmup)


@on_ranks(PAIR)
def test_local_steps_that_are_more_than_a_changed_H_end_at_the_next_one(c: Communicator) -> None:
    before, _ = problem.make(LocalSgd, c, hyperparameters={"H": 9})
    *first, last = problem.batches(c, 6)
    problem.train(before, first)
    method, model = problem.make(LocalSgd, c, hyperparameters={"H": 3})
    method.load_state_dict(problem.copied(before.state_dict()))
    method.step(last)
    one, other = problem.gathered(c, problem.vector(model))
    assert torch.equal(one, other)
