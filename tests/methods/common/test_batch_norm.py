"""Synchronized batch normalization: p ranks with batch b equal one rank with batch p b, exactly."""

import copy

import pytest
import torch
from on_ranks import on_ranks
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.batch_norm import synchronize_batch_norm
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 4, 3)], ids=["1d", "sequence", "images"])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_a_layer_is_torchs_on_the_whole_batch(c: Communicator, shape: tuple[int, ...], options: dict) -> None:
    """Outputs, gradients of inputs and parameters, running statistics, and evaluation."""
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    reference = problem.seeded(kind(6, **options).double())
    layer = copy.deepcopy(reference)
    assert synchronize_batch_norm(layer, c) == 1
    generator = torch.Generator().manual_seed(1)
    mine = slice(3 * c.rank, 3 * (c.rank + 1))
    for _ in range(3):
        whole, slope = (5 + torch.randn(3 * c.size, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
        inputs, part = whole.clone().requires_grad_(), whole[mine].clone().requires_grad_()
        expected, found = reference(inputs), layer(part)
        assert problem.close(found, expected[mine], FLOAT64)
        (expected * slope).sum().backward()
        (found * slope[mine]).sum().backward()
        assert problem.close(part.grad, inputs.grad[mine], FLOAT64)
    for own, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        c.sum(own.grad)
        assert problem.close(own.grad, theirs.grad, FLOAT64)
    assert list(layer.state_dict()) == list(reference.state_dict())
    if layer.state_dict():
        assert problem.close(problem.everything(layer), problem.everything(reference), FLOAT64)
    if options.get("track_running_stats", True):
        assert problem.close(layer.eval()(whole), reference.eval()(whole), FLOAT64)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("name", ["ddp", "powersgd", "local_sgd"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_is_that_of_one_rank_with_the_whole_batch(c: Communicator, name: str, optimizer: str) -> None:
    own = {} if name == "ddp" else {"warmup": 1.0}
    ends = []
    for ranks, batch_size in ((c, 8), (c.split(c.rank), 8 * c.size)):
        model = problem.make_normed_model()
        synchronize_batch_norm(model, ranks)
        settings = {"optimizer": optimizer, "learning_rate": 0.01}
        method, _ = problem.make(registry.method(name), ranks, hyperparameters=own, settings=settings, model=model)
        problem.train(method, list(problem.batches(ranks, 20, batch_size=batch_size)))
        ends.append(problem.everything(method.finalize()))
    assert problem.close(*ends, FLOAT64 if optimizer == "sgd" else ADAPTIVE)


@on_ranks(PAIR)
def test_a_copy_of_a_network_shares_the_ranks(c: Communicator) -> None:
    model = problem.make_normed_model()
    synchronize_batch_norm(model, c)
    again = copy.deepcopy(model)
    inputs = torch.randn(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(c.rank))
    assert torch.equal(again(inputs), model(inputs))


@pytest.mark.parametrize("name", ["easgd", "downpour", "mac", "dni"])
def test_methods_whose_ranks_do_not_step_together_refuse_it(name: str) -> None:
    method = registry.method(name)
    settings = problem.make_optimizers(method, {"sync_batch_norm": True}).settings
    with pytest.raises(NotApplicable, match="which sync_batch_norm needs; it must be false"):
        method.check(method.Hyperparameters(), settings, 2)


@on_ranks(PAIR)
def test_evaluation_sends_nothing_as_ranks_may_have_other_numbers_of_batches(c: Communicator) -> None:
    layer = nn.BatchNorm1d(6, track_running_stats=False).double().eval()
    synchronize_batch_norm(layer, c)
    inputs = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(c.rank))
    for _ in range(1 + c.rank):
        found = layer(inputs)
    assert problem.close(found, nn.functional.batch_norm(inputs, None, None, training=True), FLOAT64)
