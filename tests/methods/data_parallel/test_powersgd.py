"""PowerSGD."""

import itertools

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.data_parallel.powersgd import Powersgd, PowersgdHyperparameters
from atoll.testing import problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO


@on_ranks(PAIR, TWO_BY_TWO)
def test_gradients_of_low_rank_are_exact(c: Communicator) -> None:
    """One sample a rank: a linear layer's mean gradient has rank p, and a product of rank p holds it.

    Without error feedback: the ranks' errors add up to 0 here, and what rounding leaves of their sum would grow.
    """
    steps = list(problem.batches(c, 30, batch_size=1))
    given = {"rank": c.size, "min_compression_rate": 1.0, "error_feedback": False}
    compressed, _ = problem.make(Powersgd, c, hyperparameters=given)
    ddp, _ = problem.make(Ddp, c)
    problem.train(compressed, steps)
    # (16, 64) + (10, 16) as thin products, two biases whole, in float64
    thin = c.size * (16 + 64) + min(c.size * (10 + 16), 160) + 26
    assert c.ledger.wire_bytes() == pytest.approx(30 * 2 * (c.size - 1) / c.size * 8 * thin, rel=1e-12)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(compressed.finalize()), problem.vector(ddp.finalize()), FLOAT64)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_nothing_is_lost_but_the_last_error(c: Communicator) -> None:
    """With SGD the steps add up to the mean gradients less the mean error: what one step lacks the next brings."""
    settings = {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1}
    method, model = problem.make(Powersgd, c, hyperparameters={"rank": 1}, settings=settings)
    start, total = problem.vector(model), torch.zeros_like(problem.vector(model))
    for batch in problem.batches(c, 30):
        loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        total += torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
        method.step(batch)
    first, second = method.state_dict()["errors"]
    hidden = torch.zeros(16, dtype=torch.float64)
    error = torch.cat([first.reshape(-1), hidden, second.reshape(-1), torch.zeros(10, dtype=torch.float64)])
    c.mean(total)
    c.mean(error)
    assert float(error.abs().max()) > 1e-3
    assert problem.close(problem.vector(model) - start, 0.1 * (error - total), FLOAT64)


@on_ranks(SINGLE)
def test_a_high_rank_is_torchs_sgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    method, _ = problem.make(Powersgd, c, hyperparameters={"rank": 64})
    problem.train(method, steps)
    assert problem.close(problem.vector(method.finalize()), problem.torch_sgd(steps), FLOAT64)


@pytest.mark.parametrize(
    ("rank", "least_rate", "is_compressed"),
    [(2, None, True), (7, 1.0, True), (7, None, False), (32, None, False), (32, 0.5, True)],
)
def test_it_is_torchs_hook(tmp_path, rank, least_rate, is_compressed):
    """torch's communication hook on one gloo rank, against ours from its factor and error on, step by step.

    A gradient (16, 64) in rank 7 is compressed 1.83 times. Without a least rate, both have their defaults.
    """
    rate = {} if least_rate is None else {"min_compression_rate": least_rate}
    kept = min(rank, 16)
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as hook
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:

        def work(c):
            model = problem.seeded(torch.nn.Linear(64, 16, bias=False).double())
            mine = problem.seeded(torch.nn.Linear(64, 16, bias=False).double())
            wrapped = DistributedDataParallel(model)
            state = hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2, **rate)
            wrapped.register_comm_hook(state, hook.powerSGD_hook)
            optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
            given = {"rank": rank, "warmup": 0.03, **rate}
            method, _ = problem.make(Powersgd, c, hyperparameters=given, model=mine)
            for number, batch in enumerate(problem.batches(c, 20)):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(wrapped(batch.inputs), batch.targets).backward()
                optimizer.step()
                if number < 3:  # two whole steps, and the one from which torch's factor comes
                    mine.weight.data.copy_(model.weight.data)
                    saved = method.state_dict() | {"num_steps": 3}
                    momentum = optimizer.state[model.weight]["momentum_buffer"]
                    saved["optimizer"]["state"] = {0: {"momentum_buffer": momentum.reshape(-1).clone()}}
                    if number == 2 and is_compressed:
                        saved["factors"] = [state.q_memory_dict[0].view(64, kept)]
                        saved["errors"] = [state.error_dict[0].view(16, 64)]
                    method.load_state_dict(saved)
                else:
                    method.step(batch)
                    # a QR and two products a step, over 17 steps that amplify little
                    assert problem.close(problem.vector(mine), problem.vector(model), 1e-12), number

            _, before, after = state.compression_stats()
            assert (after < before) is (is_compressed and rank < 16)
            assert ("so this is ddp" in " ".join(method.notes)) is not is_compressed

        run_virtual_ranks(work, (0,))
    finally:
        dist.destroy_process_group()


@on_ranks(PAIR)
@pytest.mark.parametrize("num_epochs", [1, 4])
def test_the_warm_up_is_a_share_of_the_training(c: Communicator, num_epochs: int) -> None:
    """Steps with whole gradients send more."""
    given = {"rank": 1, "warmup": 0.3}
    method, model = problem.make(Powersgd, c, hyperparameters=given, num_epochs=num_epochs, steps_per_epoch=10)
    sent = [c.ledger.wire_bytes()]
    for batch in problem.batches(c, 10 * num_epochs):
        method.step(batch)
        sent.append(c.ledger.wire_bytes())
    whole = 8 * problem.vector(model).numel()
    assert [b - a == whole for a, b in itertools.pairwise(sent)] == [True] * 3 * num_epochs + [False] * 7 * num_epochs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"warmup": 1000}, r"warmup must be a share of the steps, in \[0, 1\]; got 1000"),
        ({"min_compression_rate": 0.0}, "min_compression_rate must be above 0; got 0"),
    ],
)
def test_wrong_hyperparameters_say_the_rule(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PowersgdHyperparameters(**wrong)
