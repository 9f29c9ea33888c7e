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

SGD = {"optimizer": "sgd", "learning_rate": 0.05}


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_outer_rate_1_and_momentum_0_equal_local_sgd(c: Communicator, optimizer: str) -> None:
    settings = SGD if optimizer == "sgd" else {"optimizer": "adamw", "learning_rate": 0.01}
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
    method, _ = problem.make(Diloco, c, hyperparameters=outer, settings=SGD)
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


@on_ranks(PAIR, TWO_BY_TWO)
def test_its_defaults_are_torchs_adamw_inside_torchs_nesterov(c: Communicator) -> None:
    """Written out, three rounds; between them the inner moments go on."""
    method, _ = problem.make(Diloco, c, hyperparameters={"H": 4}, settings={"learning_rate": 0.01})
    replica, outer = problem.make_model(), problem.make_model()
    inner = torch.optim.AdamW(problem.torch_groups(replica, weight_decay=1e-3), 0.01)
    nesterov = torch.optim.SGD(outer.parameters(), 0.7, 0.9, nesterov=True)
    for number, batch in enumerate(problem.batches(c, 12), 1):
        method.step(batch)
        inner.zero_grad()
        torch.nn.functional.cross_entropy(replica(batch.inputs), batch.targets).backward()
        inner.step()
        if number % 4 == 0:
            mean = problem.vector(replica)
            c.mean(mean)
            sizes = [parameter.numel() for parameter in outer.parameters()]
            for parameter, part in zip(outer.parameters(), mean.split(sizes), strict=True):
                parameter.grad = parameter.detach() - part.view(parameter.shape)
            nesterov.step()
            replica.load_state_dict(outer.state_dict())
        assert problem.close(problem.vector(method.evaluation_model()), problem.vector(outer), ADAPTIVE), number
    assert torch.equal(problem.vector(method.finalize()), problem.vector(method.evaluation_model()))
    assert method.notes == ()


@on_ranks(PAIR)
def test_the_outer_parameters_are_evaluated(c: Communicator) -> None:
    """They change at every Hth step only, and are equal on all ranks; the replicas drift."""
    method, model = problem.make(Diloco, c, hyperparameters={"H": 5}, model=problem.make_normed_model())
    start, changes = problem.vector(model), []
    for number, batch in enumerate(problem.batches(c, 14), 1):
        method.step(batch)
        shown = problem.everything(method.evaluation_model())
        assert all(torch.equal(shown, theirs) for theirs in problem.gathered(c, shown))
        if not torch.equal(problem.vector(method.evaluation_model()), start):
            start = problem.vector(method.evaluation_model())
            changes.append(number)
    assert changes == [5, 10]
    assert not torch.equal(problem.vector(model), start)


@on_ranks(PAIR)
@pytest.mark.parametrize("num_steps", [2, 11])
def test_an_incomplete_round_ends_with_a_mean_and_takes_no_outer_step(c: Communicator, num_steps: int) -> None:
    """Also where there was no round before it. With an outer step, one local step moves by the whole momentum."""
    method, model = problem.make(Diloco, c, hyperparameters={"H": 5})
    problem.train(method, list(problem.batches(c, num_steps)))
    mean = problem.vector(model)
    c.mean(mean)
    assert torch.equal(problem.vector(method.finalize()), mean)
    assert method.notes == (
        f"diloco: the last round has {num_steps % 5} of H (5) steps; it ends with the replicas' mean",
    )


@on_ranks(PAIR)
def test_a_round_that_is_longer_than_a_changed_H_ends_at_the_next_step(c: Communicator) -> None:
    before, _ = problem.make(Diloco, c, hyperparameters={"H": 9})
    *first, last = problem.batches(c, 6)
    problem.train(before, first)
    method, _ = problem.make(Diloco, c, hyperparameters={"H": 3})
    method.load_state_dict(problem.copied(before.state_dict()))
    start = problem.vector(method.evaluation_model())
    method.step(last)
    assert not torch.equal(problem.vector(method.evaluation_model()), start)
