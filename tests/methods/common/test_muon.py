"""Muon against its definition by an SVD, against torch's, and under the methods."""

import pytest
import torch
from on_ranks import on_ranks
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.muon import COEFFICIENTS, Muon, orthogonalized
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.data_parallel.diloco import Diloco
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE
from atoll.testing.ranks import PAIR, SINGLE

RATE, MOMENTUM, DECAY, BETAS = 0.02, 0.9, 0.05, (0.8, 0.95)


def by_svd(matrix):
    """The same singular vectors; each singular value goes five times through the polynomial."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = sum(coefficient * s**power for coefficient, power in zip(COEFFICIENTS, (1, 3, 5), strict=True))
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (9, 2), (1, 5)])
def test_singular_vectors_stay_and_singular_values_come_near_1(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = orthogonalized(matrix)
    torch.testing.assert_close(found, by_svd(matrix), rtol=1e-9, atol=1e-12)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalized(torch.zeros(3, 2)), torch.zeros(3, 2))


@pytest.mark.parametrize("shape", [(4, 6), (5, 2, 3, 3)], ids=["matrix", "filters"])
def test_a_step_of_a_matrix_is_its_definition(shape):
    generator = torch.Generator().manual_seed(0)
    weights = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    optimizer = Muon([weights], RATE, MOMENTUM, BETAS, weight_decay=DECAY)
    w, buffer = weights.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    for _ in range(4):
        weights.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        buffer = MOMENTUM * buffer + weights.grad
        step = by_svd((weights.grad + MOMENTUM * buffer).flatten(1))
        w = w - RATE * DECAY * w - RATE * 0.2 * max(step.shape) ** 0.5 * step.view(shape)
        optimizer.step()
    torch.testing.assert_close(weights.detach(), w, rtol=1e-9, atol=1e-12)


def test_it_is_torchs_up_to_bfloat16():
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(16, 24, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    given = {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}
    optimizers = Muon([ours], **given, betas=BETAS), torch.optim.Muon([theirs], **given, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(16, 24, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    # 8 bits of the mantissa, in five Newton-Schulz steps of two products each.
    assert (ours - theirs).norm() < 2**-8 * 10 * moved
    assert moved > 0.2


def test_vectors_take_adamws_step():
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Muon([ours], RATE, MOMENTUM, BETAS, weight_decay=DECAY),
        torch.optim.AdamW([theirs], RATE, BETAS, weight_decay=DECAY),
    )
    for _ in range(6):
        ours.grad = torch.randn(7, generator=generator, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@on_ranks(SINGLE, PAIR)
def test_data_parallel_training_equals_one_rank_with_the_whole_batch(c: Communicator) -> None:
    """In the default groups: matrices decay, vectors do not; each matrix is orthogonalized as a whole."""
    settings = {"optimizer": "muon", "learning_rate": 0.01, "weight_decay": 0.1}
    method, model = problem.make(Ddp, c, settings=settings)
    losses = problem.train(method, list(problem.batches(c, 30, batch_size=8)))
    alone, reference = c.split(c.rank), problem.make_model()
    optimizer = Muon(problem.torch_groups(reference, 0.1), 0.01, 0.9, (0.9, 0.999), weight_decay=0.1)
    for batch in problem.batches(alone, 30, batch_size=8 * c.size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(batch.inputs), batch.targets).backward()
        optimizer.step()
    assert problem.close(problem.vector(model), problem.vector(reference), ADAPTIVE)
    assert sum(losses[-10:]) < sum(losses[:10])


@on_ranks(PAIR)
def test_inside_diloco_it_is_muloco(c: Communicator) -> None:
    """Ranks step with Muon on their own; the outer step is Nesterov's, as with any inner optimizer."""
    settings = {"optimizer": "muon", "learning_rate": 0.01}
    method, _ = problem.make(Diloco, c, hyperparameters={"H": 3, "outer_learning_rate": 0.7}, settings=settings)
    replica = problem.make_model()
    start = problem.vector(replica)
    inner = Muon(problem.torch_groups(replica, 1e-3), 0.01, 0.9, (0.9, 0.999), weight_decay=1e-3)
    for batch in problem.batches(c, 3):
        method.step(batch)
        inner.zero_grad()
        nn.functional.cross_entropy(replica(batch.inputs), batch.targets).backward()
        inner.step()
    mean = problem.vector(replica)
    c.mean(mean)
    expected = start - 0.7 * 1.9 * (start - mean)  # the first step with momentum 0.9
    assert problem.close(problem.vector(method.finalize()), expected, ADAPTIVE)
