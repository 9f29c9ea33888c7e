"""Loss and gradient of a batch: micro-batches, precision, and the loss scale, against plain torch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.gradient import LossScale
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.data_parallel.ddp import Ddp, DdpHyperparameters
from atoll.methods.layer_parallel.dni import Dni
from atoll.methods.layer_parallel.dni_hyperparameters import DniHyperparameters
from atoll.methods.method import Batch, Context, NotApplicable
from atoll.methods.parameter_server.easgd import Easgd, EasgdHyperparameters


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def batch_of(size=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 6, generator=generator)
    return Batch(indices=torch.arange(size), inputs=inputs, targets=torch.randint(3, (size,), generator=generator))


def context_of(model, **settings):
    return Context.on_one_rank(model, nn.functional.cross_entropy, settings=OptimizerSettings(**settings))


@pytest.mark.parametrize("num_parts", [2, 5, 12])
def test_micro_batches_give_the_batchs_loss_and_gradient(num_parts):
    whole, parts, batch = FlatModel(network()), FlatModel(network()), batch_of()
    expected = context_of(whole.model)
    accumulating = context_of(parts.model, accumulate=num_parts)
    losses = expected.gradient(batch, whole), accumulating.gradient(batch, parts)
    # Means over unequal parts, weighted by their sizes: equal but for the order of float32 sums of 12 terms.
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(parts.gradients, whole.gradients, rtol=1e-5, atol=1e-7)
    assert not losses[1].requires_grad


@pytest.mark.parametrize("overlap", [True, False])
def test_ranks_that_accumulate_equal_one_rank_that_does_not(overlap):
    batch, seen, models = batch_of(16), {}, [network() for _ in range(4)]  # threads share torch's random state

    def train(communicator):
        context = replace(context_of(models[communicator.rank], accumulate=2), communicator=communicator)
        method = Ddp(DdpHyperparameters(overlap=overlap, bucket_mib=1e-4), context)
        share = slice(communicator.rank * 4, communicator.rank * 4 + 4)
        for _ in range(3):
            method.step(Batch(indices=batch.indices[share], inputs=batch.inputs[share], targets=batch.targets[share]))
        seen[communicator.rank] = torch.cat([p.detach().flatten() for p in context.model.parameters()])
        return communicator.ledger.rows()

    rows = run_virtual_ranks(train, (0, 0, 0, 0))
    alone = context_of(network())
    method = Ddp(DdpHyperparameters(), alone)
    for _ in range(3):
        method.step(batch)
    expected = torch.cat([p.detach().flatten() for p in alone.model.parameters()])
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(seen[0], other) for other in seen.values())
    # Each bucket is sent once a step, not once a micro-batch.
    num_bytes = sum(row["wire_bytes"] for row in rows[0])
    assert num_bytes == pytest.approx(3 * 2 * 3 / 4 * 4 * expected.numel(), rel=0.01)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_is_torchs(precision):
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "float16")
    flat = FlatModel(network())
    context = context_of(flat.model, precision=precision, weight_decay=0.0, schedule="constant")
    ours = context.optimizers([flat.vector])
    for step in range(5):
        batch = batch_of(seed=step)
        with torch.autocast("cpu", getattr(torch, precision)):
            loss = nn.functional.cross_entropy(plain(batch.inputs), batch.targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert context.gradient(batch, flat) == loss.detach()
        ours.step()
        # The scale is a power of two, so scaled gradients have the same digits.
        assert torch.equal(flat.parameters, torch.cat([p.detach().flatten() for p in plain.parameters()]))


def test_an_overflow_skips_the_step_and_halves_the_scale():
    flat = FlatModel(network())
    context = context_of(flat.model, precision="float16", momentum=0.0)
    optimizer, batch = context.optimizers([flat.vector]), batch_of()
    before = flat.parameters.clone()
    context.optimizers.loss_scale.value = 2.0**40  # above float16's largest number
    context.gradient(batch, flat)
    optimizer.step()
    assert torch.equal(flat.parameters, before)
    assert context.optimizers.loss_scale.value == 2.0**39
    context.optimizers.loss_scale.value = 2.0**10
    context.gradient(batch, flat)
    optimizer.step()
    assert not torch.equal(flat.parameters, before)


def test_the_scale_grows_and_its_state_goes_on():
    scale, fine, infinite = LossScale(), [torch.ones(2)], [torch.tensor([1.0, float("inf")])]
    for _ in range(LossScale.GROWTH_INTERVAL - 1):
        assert scale.accepts(fine)
    copied = LossScale()
    copied.load_state_dict(scale.state_dict())
    for each in (scale, copied):
        assert each.accepts(fine)
        assert each.value == 2.0**17
    assert not scale.accepts(infinite)
    assert scale.value == 2.0**16


def test_methods_with_a_step_of_their_own_live_through_an_overflow():
    context = context_of(network(), precision="float16", momentum=0.0, learning_rate=0.1)
    method = Easgd(EasgdHyperparameters(form="jacobi", tau=100), context)
    context.optimizers.loss_scale.value = 2.0**40
    before = [p.detach().clone() for p in context.model.parameters()]
    method.step(batch_of())  # its exchange is with itself
    method.step(batch_of())
    assert all(torch.isfinite(p).all() for p in context.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, context.model.parameters(), strict=True))


def test_what_cuts_the_network_refuses():
    for setting in ({"precision": "bfloat16"}, {"accumulate": 2}):
        with pytest.raises(NotApplicable, match="group by group: precision must be float32 and accumulate 1"):
            Dni.check(DniHyperparameters(), OptimizerSettings(**setting), 2)
    with pytest.raises(ValueError, match=r"accumulate must be in 1\.\.batch_size \(8\); got 9"):
        OptimizerSettings(batch_size=8, accumulate=9)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16; got 'half'"):
        OptimizerSettings(precision="half")


def test_gradients_that_are_nan_at_a_scale_of_one_end_the_training():
    scale = LossScale()
    scale.value = 2.0
    assert not scale.accepts([torch.tensor([float("nan")])])
    with pytest.raises(FloatingPointError, match="NaN or infinite, though the loss is not scaled"):
        scale.accepts([torch.tensor([float("nan")])])


def test_accumulation_is_judged_by_the_batch_of_a_rank():
    total = OptimizerSettings(global_batch_size=256, accumulate=64)
    assert total.for_ranks(2).batch_size == 128
    with pytest.raises(ValueError, match=r"accumulate must be in 1\.\.batch_size \(32\); got 64"):
        total.for_ranks(8)
    with pytest.raises(ValueError, match=r"accumulate must be in 1\.\.global_batch_size \(32\); got 64"):
        OptimizerSettings(global_batch_size=32, accumulate=64)


@pytest.mark.parametrize("overlap", [True, False])
def test_scaled_gradients_are_sent_at_their_own_size(overlap):
    batch, models = batch_of(8), [network() for _ in range(2)]  # threads share torch's random state

    def train(communicator):
        context = replace(context_of(models[communicator.rank], precision="float16"), communicator=communicator)
        method = Ddp(DdpHyperparameters(overlap=overlap, bucket_mib=1e-4), context)
        mine = slice(communicator.rank * 4, communicator.rank * 4 + 4)
        for _ in range(3):
            method.step(Batch(indices=batch.indices[mine], inputs=batch.inputs[mine], targets=batch.targets[mine]))

    run_virtual_ranks(train, (0, 0))
    alone = context_of(network(), precision="float16")
    method = Ddp(DdpHyperparameters(), alone)
    for _ in range(3):
        method.step(batch)
    for found, expected in zip(models[0].parameters(), alone.model.parameters(), strict=True):
        # Products of float16 are rounded to 2^-11 of their size.
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
