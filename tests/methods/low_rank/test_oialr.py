"""OIALR (Coquelin 2024, chapter 4, algorithm 1)."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from low_rank import (
    ADAMW,
    FLOAT64,
    MOMENTUM,
    PLAIN,
    Run,
    num_broadcasts,
    trained,
    trains_saves_and_merges,
)
from on_ranks import on_ranks
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.optimizers import OPTIMIZERS, default_rate
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.low_rank import oialr
from atoll.methods.low_rank.factored import merged_state_dict
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.low_rank.oialr import Oialr, num_updated
from atoll.methods.low_rank.shared_svd import Svd, shared_svds
from atoll.testing import problem
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO

ADAM = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.0}


def square_model() -> nn.Module:
    """All weights are square but the last one, which stays in full rank."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return problem.seeded(model.double())


# Identities.


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("settings", [PLAIN, ADAMW], ids=["sgd", "adamw"])
def test_a_delay_beyond_the_end_equals_ddp(c: Communicator, settings: dict) -> None:
    whole = {"num_epochs": 5}
    low = trained(Oialr, c, {"delay": 1.02}, settings, **whole)
    full = trained(Ddp, c, {}, settings, **whole)
    assert problem.close(problem.vector(low.method.finalize()), problem.vector(full.method.finalize()), FLOAT64)


@on_ranks(SINGLE, PAIR, over=[])
def test_a_delay_to_the_end_converts_at_the_last_step(c: Communicator) -> None:
    low = trained(Oialr, c, {"delay": 1.0}, PLAIN, num_epochs=5)
    assert any(isinstance(layer, Factored) for layer in low.method.finalize().modules())


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
def test_without_cuts_and_with_square_layers_it_equals_ddp_for_plain_sgd(c: Communicator) -> None:
    """U S' V^T with S' = S - lr U^T G V is W - lr G where U U^T = V V^T = 1, weight decay included."""
    low = trained(Oialr, c, {"delay": 0.1, "update_period": 0.03, "beta": 0.0}, PLAIN, model=square_model())
    full = trained(Ddp, c, {}, PLAIN, model=square_model())
    merged = merged_state_dict(low.method.finalize())
    assert len(low.factored()) == 2
    assert c.size == 1 or num_broadcasts(c) > 10
    for name, value in full.method.finalize().state_dict().items():
        assert problem.close(merged[name], value, FLOAT64), name


# Basis updates.


@on_ranks(SINGLE, PAIR)
def test_a_basis_update_without_a_cut_leaves_the_weights(c: Communicator) -> None:
    run = Run(Oialr, c, {"delay": 0.1, "update_period": 0.5, "beta": 0.0, "alpha": 1.0}, {"learning_rate": 0.01})
    run.train(49)
    before = merged_state_dict(run.method.evaluation_model())
    bases = {name: layer.U.detach().clone() for name, layer in run.factored().items()}
    run.step_without_learning()  # the fiftieth
    for name, value in merged_state_dict(run.method.evaluation_model()).items():
        assert problem.close(value, before[name], 1e-14), name
    assert len(bases) == 2
    for name, layer in run.factored().items():
        assert not torch.allclose(layer.U, bases[name])
        assert torch.allclose(layer.S, torch.diag(layer.S.diagonal()))
        # Products of a few orthonormal matrices.
        assert torch.allclose(layer.U.T @ layer.U, torch.eye(layer.inner_rank, dtype=torch.float64), atol=1e-13)


def rotations(layer: Factored, before: Factored) -> tuple[torch.Tensor, torch.Tensor]:
    """U' (k, k') and V' of the basis update that has led from `before` to `layer`."""
    return before.U.T @ layer.U, before.Vt @ layer.Vt.T


@on_ranks(PAIR, TWO_BY_TWO)
def test_it_cuts_and_turns_the_moments(c: Communicator) -> None:
    run = Run(Oialr, c, {"delay": 0.1, "update_period": 0.5, "beta": 0.3, "alpha": 0.1}, ADAM)
    run.train(49)
    moments, before = run.moments(), copy.deepcopy(run.factored()["2"])
    last = run.factored()["2"]
    values = torch.linalg.svdvals(last.S.detach())
    assert len(values) == 16
    run.step_without_learning()
    k = int((values >= 0.3 * values[0]).sum())
    # ceil(2 x 0.1 x 1) = 1 layer: the last of those in low rank
    assert run.method.inner_ranks() == {"0": 16, "2": k}
    assert 1 < k < 16
    u, v = rotations(last, before)
    expected = {name: dict(moments[name]) for name in ("2.S", "2.bias", "0.S")}
    expected["2.S"]["exp_avg"] = u.T @ moments["2.S"]["exp_avg"] @ v
    expected["2.S"]["exp_avg_sq"] = (u**2).T @ moments["2.S"]["exp_avg_sq"] @ v**2
    after = run.moments()
    for name, kept in expected.items():
        # A gradient of 0 leaves beta1 and beta2 of the moments.
        for moment, share in (("exp_avg", 0.9), ("exp_avg_sq", 0.999)):
            assert problem.close(after[name][moment], share * kept[moment], 1e-13), (name, moment)
        assert int(after[name]["step"]) == int(moments[name]["step"]) + 1
    for tensor in (last.U, last.S, last.Vt):
        assert all(torch.equal(theirs, tensor) for theirs in problem.gathered(c, tensor))


@on_ranks(PAIR)
def test_momentum_is_turned(c: Communicator) -> None:
    """torch's fused SGD wants momentum of all parameters or of none."""
    run = Run(Oialr, c, {"delay": 0.1, "update_period": 0.5, "beta": 0.3, "alpha": 0.1}, MOMENTUM)
    run.train(49)
    momentum, before = run.moments()["2.S"]["momentum_buffer"], copy.deepcopy(run.factored()["2"])
    run.step_without_learning()
    u, v = rotations(run.factored()["2"], before)
    assert 1 < u.shape[1] < 16
    assert problem.close(run.moments()["2.S"]["momentum_buffer"], 0.9 * (u.T @ momentum @ v), 1e-13)
    run.train(1)


def flipping(seed: int) -> Callable[..., list[Svd]]:
    """`shared_svds` whose singular vectors have other signs, equal on all ranks."""
    generator = torch.Generator().manual_seed(seed)

    def flipped(*args: Any) -> list[Svd]:
        svds = shared_svds(*args)
        signs = [(torch.randint(2, svd.s.shape, generator=generator) * 2 - 1).to(svd.s) for svd in svds]
        return [Svd(svd.u * sign, svd.s, svd.vt * sign[:, None]) for svd, sign in zip(svds, signs, strict=True)]

    return flipped


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_signs_of_singular_vectors_do_not_matter(monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """They are arbitrary: rounding, and so the machine, may decide them."""
    given = {"delay": 0.1, "update_period": 0.05, "beta": 0.3, "alpha": 0.5}
    settings = {"optimizer": optimizer, "learning_rate": default_rate(optimizer)}

    def work(c: Communicator) -> tuple[torch.Tensor, dict[str, int]]:
        run = trained(Oialr, c, given, settings)
        merged = merged_state_dict(run.method.finalize())
        return torch.cat([value.reshape(-1) for value in merged.values()]), run.method.inner_ranks()

    ((expected, ranks),) = run_virtual_ranks(work, SINGLE)
    monkeypatch.setattr(oialr, "shared_svds", flipping(seed=1))
    ((found, flipped_ranks),) = run_virtual_ranks(work, SINGLE)
    assert flipped_ranks == ranks
    assert problem.close(found, expected, 1e-9)


@on_ranks(SINGLE, PAIR)
def test_without_cuts_and_with_square_layers_momentum_is_that_of_ddp(c: Communicator) -> None:
    """M_S = U^T M_W V in every basis, weight decay included; from the start, as conversion begins with no moments."""
    given = {"delay": 0.0, "update_period": 0.03, "beta": 0.0, "full_rank_warmup": False, "full_rank_first": False}
    settings = MOMENTUM | {"weight_decay": 1e-3}
    low = trained(Oialr, c, given, settings, model=square_model())
    full = trained(Ddp, c, {}, settings, model=square_model())
    merged = merged_state_dict(low.method.finalize())
    assert len(low.factored()) == 2
    for name, value in full.method.finalize().state_dict().items():
        assert problem.close(merged[name], value, FLOAT64), name


@on_ranks(SINGLE)
def test_ftrl_which_derives_weights_from_its_state_goes_on_from_the_turned_ones(c: Communicator) -> None:
    settings = {"optimizer": "ftrl", "learning_rate": 0.1, "weight_decay": 0.0}
    run = Run(Oialr, c, {"delay": 0.1, "update_period": 0.5, "beta": 0.0, "alpha": 1.0}, settings)
    run.train(49)
    before = merged_state_dict(run.method.evaluation_model())
    run.train(1, scale=0.0)  # an update of the bases, and a step with gradients of 0
    assert torch.allclose(run.factored()["2"].S, torch.diag(run.factored()["2"].S.diagonal()), atol=1e-14)
    for name, value in merged_state_dict(run.method.evaluation_model()).items():
        assert problem.close(value, before[name], 1e-13), name


@on_ranks(SINGLE, PAIR)
def test_conversion_starts_with_new_moments(c: Communicator) -> None:
    run = Run(Oialr, c, {"delay": 0.2}, {"learning_rate": 0.01})
    run.train(19)
    assert not run.factored()
    run.train(1)
    assert list(run.factored()) == ["0", "2"]
    moments = run.moments()
    assert (int(moments["2.S"]["step"]), int(moments["2.bias"]["step"])) == (1, 20)


@on_ranks(PAIR)
@pytest.mark.parametrize(
    ("hyperparameters", "expected"),
    [
        ({"delay": 0.23, "update_period": 0.05}, [23, 25, 30, 35]),  # the multiples of 5 after the conversion
        ({"delay": 0.2, "update_period": 0.05, "full_rank_warmup": False}, [25, 30, 35]),
    ],
    ids=["converted", "low_rank_from_the_start"],
)
def test_bases_are_updated_at_multiples_of_the_period(c: Communicator, hyperparameters: dict, expected: list) -> None:
    """Every decomposition is broadcast."""
    run = Run(Oialr, c, hyperparameters, PLAIN)
    counts = [num_broadcasts(c)]
    assert bool(counts[0]) == (not hyperparameters.get("full_rank_warmup", True))
    run.train(38, after_each=lambda: counts.append(num_broadcasts(c)))
    assert [step for step in range(1, 39) if counts[step] > counts[step - 1]] == expected


def test_layers_join_the_basis_updates_from_the_output_backwards():
    # ceil: with int() a network of less than 1/alpha layers would never be updated
    assert [num_updated(4, 0.1, u) for u in (1, 2, 3, 6, 100)] == [1, 1, 2, 3, 4]
    assert [num_updated(10, 0.1, u) for u in range(1, 12)] == [*range(1, 11), 10]


# Networks.


@on_ranks(PAIR, TWO_BY_TWO)
def test_convolutions_and_attention_train_save_and_merge(c: Communicator) -> None:
    trains_saves_and_merges(c, Oialr, {"delay": 0.1, "update_period": 0.05, "beta": 0.3, "alpha": 0.5})


@on_ranks(SINGLE)
def test_a_frozen_weight_stays_and_does_not_count(c: Communicator) -> None:
    model = problem.make_deep_model()
    model[2].weight.requires_grad_(False)
    before = model[2].weight.detach().clone()
    run = Run(Oialr, c, {"delay": 0.1, "full_rank_last": False}, {"learning_rate": 0.01}, model=model)
    run.train(9)
    assert run.method.metrics()["trainable_share"] == 1.0
    assert run.method.metrics()["compression"] == 1.0
    run.train(9)
    assert list(run.method.inner_ranks()) == ["0", "4"]
    assert torch.equal(model[2].weight, before)


# Traffic.


@on_ranks(PAIR, TWO_BY_TWO)
def test_bytes(c: Communicator) -> None:
    p = c.size
    model = problem.make_deep_model(torch.float32)
    num_full = problem.vector(model).numel()
    run = Run(Oialr, c, {"delay": 0.1, "update_period": 1.0}, {"learning_rate": 0.01}, model=model)
    run.train(9)
    assert c.ledger.wire_bytes() == pytest.approx(9 * 2 * (p - 1) / p * 4 * num_full, rel=1e-12)
    spent = problem.worker_bytes(c)
    run.train(20)
    low_rank = 16 * 16 + 16 * 16 + (16 + 16 + 10 + 160)  # two S of rank 16, biases and the last weight
    assert run.method.metrics()["trainable_share"] == pytest.approx(low_rank / num_full, rel=1e-12)
    # U, s and V^T of both, from whoever has decomposed them, and how many values each has: a sum of two int64
    svds = (p - 1) * 4 * 16 * ((16 + 64 + 1) + (16 + 16 + 1)) + p * 2 * (p - 1) / p * 8 * 2
    expected = p * 20 * 2 * (p - 1) / p * 4 * low_rank + svds
    assert problem.worker_bytes(c) - spent == pytest.approx(expected, rel=1e-12)
