"""SlowMo (Wang, Tantia, Ballas and Rabbat 2020)."""

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.data_parallel.local_sgd import LocalSgd
from atoll.methods.data_parallel.slowmo import Slowmo, slow_step
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO

FALLING = {"learning_rate": 0.2, "weight_decay": 1e-3, "schedule": "inverse_sqrt", "lr_decay": 0.1}


def train(c: Communicator, cls, hyperparameters: dict, settings: dict, num_steps: int):
    optimizers = problem.make_optimizers(cls, settings, num_steps)
    method, model = problem.make(cls, c, hyperparameters=hyperparameters, optimizers=optimizers)
    problem.train(method, list(problem.batches(c, num_steps)), optimizers=optimizers)
    return method, model


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_slow_momentum_it_equals_local_sgd(c: Communicator, momentum: float) -> None:
    settings = FALLING | {"momentum": momentum}
    slow = {"H": 5, "slow_momentum": 0.0}
    slowmo, _ = train(c, Slowmo, slow, settings, 32)  # with a rest: 32 is no multiple of 5
    local, _ = train(c, LocalSgd, {"H": 5}, settings, 32)
    assert problem.close(problem.vector(slowmo.finalize()), problem.vector(local.finalize()), FLOAT64)
    assert slowmo.notes == ("slowmo: the last round has 2 of H (5) steps; it ends with the replicas' mean",)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_rounds_of_one_step_of_sgd_are_data_parallel_sgd_with_momentum(c: Communicator) -> None:
    """With a falling rate: the momentum is in units of a gradient, as torch's is."""
    slowmo, _ = train(c, Slowmo, {"H": 1, "slow_momentum": 0.7}, FALLING | {"momentum": 0.0}, 30)
    _, model = train(c, Ddp, {}, FALLING | {"momentum": 0.7}, 30)
    assert problem.close(problem.vector(slowmo.finalize()), problem.vector(model), FLOAT64)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("buffers", ["maintain", "reset"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_is_algorithm_1(c: Communicator, optimizer: str, buffers: str) -> None:
    """Written out with torch's optimizers and a falling rate, three rounds."""
    slow = {"H": 4, "slow_momentum": 0.6, "slow_rate": 0.9, "buffers": buffers}
    momentum = {"momentum": 0.8} if optimizer == "sgd" else {}
    rates = [0.05 * (1 + 0.1 * t) ** -0.5 for t in range(12)]
    settings = FALLING | {"optimizer": optimizer, "learning_rate": 0.05} | momentum
    optimizers = problem.make_optimizers(Slowmo, settings, 12)
    method, _ = problem.make(Slowmo, c, hyperparameters=slow, optimizers=optimizers)
    replica = problem.make_model()

    def base():
        groups = problem.torch_groups(replica, weight_decay=1e-3)
        return torch.optim.SGD(groups, 0.05, **momentum) if momentum else torch.optim.AdamW(groups, 0.05)

    inner = base()
    x, u = problem.vector(replica), torch.zeros(len(problem.vector(replica)), dtype=torch.float64)
    for number, batch in enumerate(problem.batches(c, 12)):
        optimizers.set_step(number)
        method.step(batch)
        for group in inner.param_groups:
            group["lr"] = rates[number]
        inner.zero_grad()
        torch.nn.functional.cross_entropy(replica(batch.inputs), batch.targets).backward()
        inner.step()
        if number % 4 == 3:
            mean = problem.vector(replica)
            c.mean(mean)
            first = rates[number - 3]
            u = 0.6 * u + (x - mean) / first
            x = x - 0.9 * first * u
            torch.nn.utils.vector_to_parameters(x.clone(), replica.parameters())
            if buffers == "reset":
                inner = base()
        shown = problem.vector(method.evaluation_model())
        assert problem.close(shown, x, FLOAT64 if optimizer == "sgd" else ADAPTIVE), number


def test_a_round_at_rate_0_moves_by_nothing_and_keeps_the_momentum():
    start, velocity = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0])
    slow_step(start, start.clone(), velocity, 0.0, 1.0, 0.5)
    assert start.tolist() == [1.0, -2.0]
    assert velocity.tolist() == [1.5, 2.0]


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    method, model = problem.make(Slowmo, c, hyperparameters={"H": 5}, model=problem.make_model(torch.float32))
    problem.train(method, list(problem.batches(c, 20, dtype=torch.float32)))
    expected = 20 / 5 * 2 * (c.size - 1) / c.size * 4 * problem.vector(model).numel()
    assert c.ledger.wire_bytes() == pytest.approx(expected, rel=1e-12)
