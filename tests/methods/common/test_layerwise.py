"""LARS and LAMB against references written out from the papers, and under the methods."""

import math

import pytest
import torch
from on_ranks import on_ranks
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.groups import default_groups
from atoll.methods.common.layerwise import Lamb, Lars
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
from atoll.platform.study import registry
from atoll.testing import problem
from atoll.testing.method_contract import ADAPTIVE, FLOAT64
from atoll.testing.ranks import PAIR, SINGLE

RATE, MOMENTUM, DECAY, TRUST, BETAS, EPS = 2.0, 0.9, 0.05, 0.01, (0.8, 0.95), 1e-6


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def lars_by_hand(w: list[float], gradients: list[list[float]], *, is_vector: bool) -> list[float]:
    """Algorithm 1 of You et al. 2017, number by number."""
    v = [0.0] * len(w)
    for g in gradients:
        ratio = 1.0 if is_vector else TRUST * norm(w) / (norm(g) + DECAY * norm(w))
        v = [MOMENTUM * vi + RATE * ratio * (gi + DECAY * wi) for vi, gi, wi in zip(v, g, w, strict=True)]
        w = [wi - vi for wi, vi in zip(w, v, strict=True)]
    return w


def lamb_by_hand(w: list[float], gradients: list[list[float]], *, is_vector: bool) -> list[float]:
    """Algorithm 2 of You et al. 2020, number by number."""
    (b1, b2), m, v = BETAS, [0.0] * len(w), [0.0] * len(w)
    for t, g in enumerate(gradients, 1):
        m = [b1 * mi + (1 - b1) * gi for mi, gi in zip(m, g, strict=True)]
        v = [b2 * vi + (1 - b2) * gi * gi for vi, gi in zip(v, g, strict=True)]
        u = [
            mi / (1 - b1**t) / (math.sqrt(vi / (1 - b2**t)) + EPS) + DECAY * wi
            for mi, vi, wi in zip(m, v, w, strict=True)
        ]
        ratio = 1.0 if is_vector else norm(w) / norm(u)
        w = [wi - 0.01 * ratio * ui for wi, ui in zip(w, u, strict=True)]
    return w


@pytest.mark.parametrize("shape", [(2, 3), (6,)], ids=["matrix", "vector"])
@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_it_is_the_papers_algorithm(name, shape):
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(9))
    weights = nn.Parameter(start.clone().view(shape))
    if name == "lars":
        optimizer = Lars([weights], RATE, MOMENTUM, weight_decay=DECAY, trust=TRUST)
        by_hand = lars_by_hand
    else:
        optimizer, by_hand = Lamb([weights], 0.01, BETAS, weight_decay=DECAY, eps=EPS), lamb_by_hand
    for gradient in gradients:
        weights.grad = gradient.view(shape)
        optimizer.step()
    expected = by_hand(start.tolist(), [gradient.tolist() for gradient in gradients], is_vector=len(shape) == 1)
    assert weights.detach().flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_zeros_are_numbers(name):
    settings = OptimizerSettings(optimizer=name, learning_rate=0.1, schedule="constant")
    for start, gradient in ((torch.zeros(2, 2), torch.ones(2, 2)), (torch.ones(2, 2), torch.zeros(2, 2))):
        weights = nn.Parameter(start.clone())
        optimizer = OptimizerFactory(settings, 10)([weights])
        weights.grad = gradient
        optimizer.step()
        assert torch.isfinite(weights).all()
        assert torch.equal(weights.detach(), start) is not bool(gradient.any() or settings.weight_decay)


@pytest.mark.parametrize("name", ["lars", "lamb", "adafactor", "muon"])
def test_optimizers_by_layer_get_the_parameters_themselves(name):
    model = problem.make_model()
    flat = FlatModel(model, default_groups(model))
    optimizer = OptimizerFactory(OptimizerSettings(optimizer=name), 10)(flat)
    given = {p for group in optimizer.param_groups for p in group["params"]}
    assert given == set(model.parameters())


@on_ranks(SINGLE)
@pytest.mark.parametrize("name", ["ddp", "local_sgd", "oialr"])
@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_methods_train_with_it(c: Communicator, name: str, optimizer: str) -> None:
    """On one rank, as the optimizer alone on the network's parameters in the default groups."""
    settings = {
        "optimizer": optimizer,
        "learning_rate": 0.05 if optimizer == "lars" else 0.01,
        "weight_decay": 0.1,
        "trust": 0.1,
    }
    steps = list(problem.batches(c, 30))
    own = {"delay": 2.0} if name == "oialr" else {}
    method, _ = problem.make(
        registry.method(name), c, hyperparameters=own, settings=settings | {"schedule": "constant"}
    )
    losses = problem.train(method, steps)
    model = problem.make_model()
    groups = problem.torch_groups(model, 0.1)
    if optimizer == "lars":
        reference = Lars(groups, 0.05, 0.9, weight_decay=0.1, trust=0.1)
    else:
        reference = Lamb(groups, 0.01, (0.9, 0.999), weight_decay=0.1)
    for batch in steps:
        reference.zero_grad()
        nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        reference.step()
    assert problem.close(problem.vector(method.finalize()), problem.vector(model), ADAPTIVE)
    assert sum(losses[-10:]) < sum(losses[:10])


@on_ranks(PAIR)
@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_p_ranks_equal_one_rank_with_the_whole_batch(c: Communicator, optimizer: str) -> None:
    ends = []
    for ranks, batch_size in ((c, 8), (c.split(c.rank), 8 * c.size)):
        method, model = problem.make(
            registry.method("ddp"), ranks, settings={"optimizer": optimizer, "learning_rate": 0.05}
        )
        problem.train(method, list(problem.batches(ranks, 30, batch_size=batch_size)))
        ends.append(problem.vector(model))
    assert problem.close(*ends, FLOAT64 if optimizer == "lars" else ADAPTIVE)
