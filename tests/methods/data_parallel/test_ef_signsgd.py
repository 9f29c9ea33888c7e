"""SignSGD with error feedback (Karimireddy, Rebjock, Stich and Jaggi 2019)."""

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ef_signsgd import EfSignsgd, packed, unpacked
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TRIPLE, TWO_BY_TWO

PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1}


@pytest.mark.parametrize("num", [1, 7, 8, 9, 1210])
def test_bits_come_back(num):
    signs = torch.rand(num, generator=torch.Generator().manual_seed(num)) < 0.5
    assert len(packed(signs)) == -(-num // 8)
    assert torch.equal(unpacked(packed(signs), num), signs)


def gradient(model, batch):
    loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
    return torch.autograd.grad(loss, list(model.parameters()))


def flat(parts):
    return torch.cat([part.reshape(-1) for part in parts])


@on_ranks(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
@pytest.mark.parametrize("error_feedback", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_is_algorithm_1(c: Communicator, optimizer: str, error_feedback: bool) -> None:
    """Written out for each parameter, with torch's optimizers, which decay matrices only."""
    settings = {"optimizer": optimizer, "learning_rate": 0.05 if optimizer == "sgd" else 0.01}
    method, model = problem.make(EfSignsgd, c, hyperparameters={"error_feedback": error_feedback}, settings=settings)
    reference = problem.make_model()
    groups = problem.torch_groups(reference, 1e-3)
    theirs = torch.optim.SGD(groups, 0.05, 0.9) if optimizer == "sgd" else torch.optim.AdamW(groups, 0.01)
    errors = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for batch in problem.batches(c, 12):
        method.step(batch)
        sent = []
        for number, part in enumerate(gradient(reference, batch)):
            p = part + errors[number] if error_feedback else part
            sent.append(p.abs().mean() * torch.where(p >= 0, 1.0, -1.0).double())
            errors[number] = p - sent[-1]
        mean = flat(sent)
        c.mean(mean)
        for parameter, part in zip(reference.parameters(), mean.split([e.numel() for e in errors]), strict=True):
            parameter.grad = part.view(parameter.shape)
        theirs.step()
    assert problem.close(problem.vector(model), problem.vector(reference), FLOAT64 if optimizer == "sgd" else ADAPTIVE)


@on_ranks(SINGLE, PAIR)
def test_nothing_is_lost_but_the_last_error(c: Communicator) -> None:
    """With SGD the steps add up to the mean gradients less the mean error: what one step lacks the next brings."""
    method, model = problem.make(EfSignsgd, c, settings=PLAIN)
    start, total = problem.vector(model), torch.zeros_like(problem.vector(model))
    for batch in problem.batches(c, 30):
        total += flat(gradient(model, batch))
        method.step(batch)
    error = method.state_dict()["error"]
    c.mean(total)
    c.mean(error)
    assert float(error.abs().max()) > 1e-3
    assert problem.close(problem.vector(model) - start, 0.1 * (error - total), FLOAT64)


@on_ranks(PAIR, TWO_BY_TWO)
def test_all_ranks_have_the_same_bits(c: Communicator) -> None:
    method, model = problem.make(EfSignsgd, c, model=problem.make_model(torch.float32))
    problem.train(method, list(problem.batches(c, 20, dtype=torch.float32)))
    assert all(torch.equal(problem.vector(model), theirs) for theirs in problem.gathered(c, problem.vector(model)))


@on_ranks(SINGLE, PAIR, TRIPLE, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    method, model = problem.make(EfSignsgd, c, model=problem.make_model(torch.float32))
    problem.train(method, list(problem.batches(c, 20, dtype=torch.float32)))
    num = problem.vector(model).numel()
    assert c.ledger.wire_bytes() == 20 * (c.size - 1) * (-(-num // 8) + 4 * len(list(model.parameters())))
