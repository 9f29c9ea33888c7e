"""The identities and the traffic of OIALR and AB training, as checks over any communicator."""

from __future__ import annotations

import problem
import pytest
import torch
from ranks import on_layouts
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.low_rank.ab import Ab, place
from atoll.methods.low_rank.factored import merged_state_dict
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.low_rank.oialr import Oialr

SINGLE, PAIR, TWO_BY_TWO = (0,), (0, 0), (0, 0, 1, 1)
# Sums in another order, over 50 steps that amplify rounding little; products of orthonormal factors add as much.
FLOAT64 = 1e-11
PLAIN = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 1e-3}
NUM_STEPS = 50  # of the 100 that problem.make says training has


def _square_model() -> nn.Module:
    """All weights square but the last one, which both methods leave in full rank."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return problem.seeded(model.double())


def _train(method, c: Communicator, hyperparameters: dict, settings: dict, num_steps: int = NUM_STEPS, **options):
    options.setdefault("model", problem.make_deep_model())
    made, model = problem.make(method, c, hyperparameters=hyperparameters, settings=settings, **options)
    problem.train(made, list(problem.batches(c, num_steps, dtype=problem.vector(model).dtype)))
    return made


def _everyones(c: Communicator, tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor of every rank."""
    untracked = c.split(0, ledger=Ledger())
    found = []
    for rank in range(c.size):
        copy = tensor.detach().clone()
        untracked.broadcast(copy, rank)
        found.append(copy)
    return found


# OIALR.


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_oialr_with_a_delay_beyond_the_end_equals_ddp(c: Communicator) -> None:
    for settings in (PLAIN, {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}):
        whole = {"num_epochs": 5}
        low = _train(Oialr, c, {"delay": 1.02}, settings, **whole)
        full = _train(Ddp, c, {}, settings, **whole)
        assert problem.close(problem.vector(low.finalize()), problem.vector(full.finalize()), FLOAT64)
    at_the_end = _train(Oialr, c, {"delay": 1.0}, PLAIN, **whole)
    assert any(isinstance(layer, Factored) for layer in at_the_end.finalize().modules())


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_oialr_that_cuts_nothing_off_square_layers_equals_ddp_for_plain_sgd(c: Communicator) -> None:
    """U S' V^T with S' = S - lr U^T G V is W - lr G where U U^T = V V^T = 1, weight decay included."""
    low = _train(Oialr, c, {"delay": 0.1, "update_period": 0.03, "beta": 0.0}, PLAIN, model=_square_model())
    full = _train(Ddp, c, {}, PLAIN, model=_square_model())
    merged = merged_state_dict(low.finalize())
    assert low._num_updates > 10
    for name, value in full.finalize().state_dict().items():
        assert problem.close(merged[name], value, FLOAT64), name


@on_layouts(SINGLE, PAIR)
def check_a_basis_update_without_a_cut_leaves_the_weights(c: Communicator) -> None:
    low = _train(Oialr, c, {"delay": 0.1, "update_period": 1.0, "beta": 0.0, "alpha": 1.0}, {"learning_rate": 0.01})
    before = merged_state_dict(low.evaluation_model())
    bases = [layer.U.detach().clone() for layer in low._layers.values()]
    low._update_bases()
    for name, value in merged_state_dict(low.evaluation_model()).items():
        assert problem.close(value, before[name], 1e-14), name
    for layer, basis in zip(low._layers.values(), bases, strict=True):
        assert not torch.allclose(layer.U, basis)
        assert torch.allclose(layer.S, torch.diag(layer.S.diagonal()))
        # Products of a few orthonormal matrices.
        assert torch.allclose(layer.U.T @ layer.U, torch.eye(layer.inner_rank, dtype=torch.float64), atol=1e-13)


@on_layouts(PAIR, TWO_BY_TWO)
def check_oialr_cuts_and_slices_the_moments(c: Communicator) -> None:
    hyperparameters = {"delay": 0.1, "update_period": 1.0, "beta": 0.3, "alpha": 0.1}
    low = _train(Oialr, c, hyperparameters, {"learning_rate": 0.01})
    first, last = low._layers.values()
    moments = {name: value.clone() for name, value in low._optimizer.state[last.S].items()}
    bias = low._optimizer.state[last.bias]["exp_avg"].clone()
    num_values = last.inner_rank
    values = torch.linalg.svdvals(last.S.detach())
    low._update_bases()
    k = int((values >= 0.3 * values[0]).sum())
    # ceil(2 x 0.1 x 1) = 1 layer: the last of those in low rank
    assert first.inner_rank == min(first.weight.shape)
    assert (num_values, last.inner_rank) == (16, k)
    assert 1 < k < 16
    assert torch.equal(low._optimizer.state[last.S]["exp_avg"], moments["exp_avg"][:k, :k])
    assert torch.equal(low._optimizer.state[last.S]["exp_avg_sq"], moments["exp_avg_sq"][:k, :k])
    assert torch.equal(low._optimizer.state[last.bias]["exp_avg"], bias)
    for tensor in (last.U, last.S, last.Vt):
        assert all(torch.equal(theirs, tensor) for theirs in _everyones(c, tensor))


@on_layouts(SINGLE, PAIR)
def check_conversion_starts_with_new_moments(c: Communicator) -> None:
    low = _train(Oialr, c, {"delay": 0.2}, {"learning_rate": 0.01}, num_steps=19)
    layer = next(iter(low._layers.values()))
    kept = low._optimizer.state[layer.bias]["step"].item()
    low._convert()
    assert kept == 19 == low._optimizer.state[layer.bias]["step"].item()
    assert layer.S not in low._optimizer.state
    started = _train(Oialr, c, {"full_rank_warmup": False, "delay": 0.2, "update_period": 0.05}, PLAIN, num_steps=24)
    assert all(isinstance(layer, Factored) for layer in started._layers.values())
    assert started._num_updates == 0
    problem.train(started, list(problem.batches(c, 1)))
    assert started._num_updates == 1  # step 25: the first multiple of 5 after d = 20


MOMENTUM = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9}


@on_layouts(PAIR)
def check_momentum_is_sliced_and_starts_at_zero(c: Communicator) -> None:
    """torch's fused SGD wants momentum of all parameters or of none."""
    low = _train(Oialr, c, {"delay": 0.1, "update_period": 1.0, "beta": 0.3, "alpha": 0.1}, MOMENTUM)
    last = list(low._layers.values())[-1]
    before = low._optimizer.state[last.S]["momentum_buffer"].clone()
    low._update_bases()
    k = last.inner_rank
    assert torch.equal(low._optimizer.state[last.S]["momentum_buffer"], before[:k, :k])
    problem.train(low, list(problem.batches(c, 1)))
    made = _make_ab(c, GROUPS, MOMENTUM)
    problem.train(made, list(problem.batches(c, 10)))
    made._decompose()
    (layer,) = made._layers.values()
    moments = made._optimizer.state[getattr(layer, made._trains)]["momentum_buffer"]
    assert float(moments.abs().max()) == 0.0
    problem.train(made, list(problem.batches(c, 25)))


class Mixed(nn.Module):
    """A convolution, batch normalisation, attention and linear layers on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        images = torch.relu(self.norm(self.conv(torch.relu(self.first(inputs.view(-1, 1, 8, 8))))))
        return self.last(self.encoder(images.flatten(2).transpose(1, 2)).mean(dim=1))


def _mixed(seed: int = 0) -> nn.Module:
    return problem.seeded(Mixed().double(), seed, scale=0.2)


@on_layouts(PAIR, TWO_BY_TWO)
def check_convolutions_and_attention_train_save_and_merge(c: Communicator) -> None:
    cases = (
        (Oialr, {"delay": 0.1, "update_period": 0.05, "beta": 0.3, "alpha": 0.5}),
        (Ab, {"warmup": 0.1, "group_steps": 0.06, "group_size": 1, "cutoff": 0.2}),
    )
    steps = list(problem.batches(c, 40))
    for method, given in cases:
        made, model = problem.make(method, c, hyperparameters=given, settings={"learning_rate": 0.01}, model=_mixed())
        plain = sorted(model.state_dict())
        assert list(made._layers)[-4:] == [
            "encoder.self_attn",
            "encoder.self_attn.out_proj",
            "encoder.linear1",
            "encoder.linear2",
        ]
        losses = problem.train(made, steps[:28])  # of AB training in the middle of a group phase
        assert any(isinstance(layer, Factored) for layer in model.modules())
        state = made.state_dict()
        shown = made.evaluation_model()
        again, _ = problem.make(
            method, c, hyperparameters=given, settings={"learning_rate": 0.01}, model=_mixed(seed=5)
        )
        again.load_state_dict(state)
        torch.testing.assert_close(again.evaluation_model().state_dict(), shown.state_dict(), rtol=0, atol=0)
        losses += problem.train(made, steps[28:])
        problem.train(again, steps[28:])
        ends = [problem.everything(m.finalize()) for m in (made, again)]
        assert torch.equal(*ends), method
        assert all(torch.equal(theirs, ends[0]) for theirs in _everyones(c, ends[0])), method
        assert sum(losses[-10:]) < sum(losses[:10]), method
        assert sorted(merged_state_dict(made.finalize())) == plain


@on_layouts(SINGLE)
def check_what_is_frozen_stays_and_does_not_count(c: Communicator) -> None:
    model = problem.make_deep_model()
    model[2].weight.requires_grad_(False)
    before = model[2].weight.detach().clone()
    low = _train(Oialr, c, {"delay": 0.1, "full_rank_last": False}, {"learning_rate": 0.01}, 9, model=model)
    assert low.metrics()["trainable_share"] == 1.0
    assert low.metrics()["compression"] == 1.0
    problem.train(low, list(problem.batches(c, 9)))
    assert list(low._layers) == ["0", "4"]
    assert torch.equal(model[2].weight, before)


@on_layouts(PAIR, TWO_BY_TWO)
def check_bytes_of_oialr(c: Communicator) -> None:
    p = c.size
    model = problem.make_deep_model(torch.float32)
    num_full = problem.vector(model).numel()
    before = c.ledger.wire_bytes()
    low = _train(Oialr, c, {"delay": 0.1, "update_period": 1.0}, {"learning_rate": 0.01}, 9, model=model)
    assert c.ledger.wire_bytes() - before == pytest.approx(9 * 2 * (p - 1) / p * 4 * num_full, rel=1e-12)
    spent = [float(b) for b in _everyones(c, torch.tensor([c.ledger.wire_bytes()], dtype=torch.float64))]
    problem.train(low, list(problem.batches(c, 20, dtype=torch.float32)))
    low_rank = 16 * 16 + 16 * 16 + (16 + 16 + 10 + 160)  # two S of rank 16, biases and the last weight
    assert low._flat.parameters.numel() == low_rank
    # U, s and V^T of both, from whoever has decomposed them, and how many values each has: a sum of two int64
    svds = (p - 1) * 4 * 16 * ((16 + 64 + 1) + (16 + 16 + 1)) + p * 2 * (p - 1) / p * 8 * 2
    expected = p * 20 * 2 * (p - 1) / p * 4 * low_rank + svds
    total = sum(float(b) for b in _everyones(c, torch.tensor([c.ledger.wire_bytes()], dtype=torch.float64)))
    assert total - sum(spent) == pytest.approx(expected, rel=1e-12)


# AB training.

GROUPS = {"warmup": 0.1, "group_steps": 0.2, "group_size": 1, "cutoff": 0.0, "lr_rebound": 0.0}


@on_layouts(PAIR, TWO_BY_TWO)
def check_ab_with_a_warm_up_to_the_end_equals_ddp(c: Communicator) -> None:
    for settings in (PLAIN, {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}):
        low = _train(Ab, c, {"warmup": 1.0}, settings, num_epochs=5)
        full = _train(Ddp, c, {}, settings, num_epochs=5)
        assert problem.close(problem.vector(low.finalize()), problem.vector(full.finalize()), FLOAT64)


@on_layouts(PAIR, TWO_BY_TWO)
def check_ab_with_rate_0_and_no_cutoff_changes_nothing(c: Communicator) -> None:
    for merge in ("with_stale", "only_learned", "full", "only_b"):
        settings = PLAIN | {"learning_rate": 1e-300}
        made = _make_ab(c, GROUPS | {"merge": merge}, settings)
        before = problem.vector(made.evaluation_model())
        apart = 0
        for batch in problem.batches(c, NUM_STEPS):
            made.step(batch)
            apart += made._is_apart
            shown = problem.vector(made.evaluation_model())
            # Factors of an SVD multiplied again, at most three times over.
            assert problem.close(shown, before, 1e-14), merge
        assert apart == 20 + 15, merge
        assert made.metrics()["group_share"] == (0.0 if merge == "only_b" else 35 / NUM_STEPS)


def _make_ab(c: Communicator, hyperparameters: dict, settings: dict = PLAIN, dtype: torch.dtype = torch.float64) -> Ab:
    model = problem.make_deep_model(dtype)
    return problem.make(Ab, c, hyperparameters=hyperparameters, settings=settings, model=model)[0]


def _apart(c: Communicator, merge: str, **changes):
    """AB training in the middle of a group phase, and the factors of its layer: before it, and every rank's."""
    hyperparameters = GROUPS | {"merge": merge} | changes
    made = _make_ab(c, hyperparameters)
    (layer,) = made._layers.values()
    start, decompose = {}, made._decompose

    def remembering() -> None:
        decompose()
        start.update({name: getattr(layer, name).detach().clone() for name in ("A", "B")})

    made._decompose = remembering
    problem.train(made, list(problem.batches(c, 20)))
    return made, layer, start, {name: _everyones(c, getattr(layer, name)) for name in ("A", "B")}


@on_layouts(TWO_BY_TWO)
def check_the_merge_of_four_workers_is_equation_5_8(c: Communicator) -> None:
    made, layer, start, learned = _apart(c, "with_stale")
    a0, b0 = start["A"], start["B"]
    (a1, a2), (b3, b4) = learned["A"][:2], learned["B"][2:]
    # The frozen copies are still what they were, on whoever does not train them.
    assert all(torch.equal(a, a0) for a in learned["A"][2:])
    assert all(torch.equal(b, b0) for b in learned["B"][:2])
    assert not torch.allclose(a1, a2)
    expected = 4 * a0 @ b0 + 2 * (a1 @ b0 + a2 @ b0 + a0 @ b3 + a0 @ b4) + a1 @ b3 + a1 @ b4 + a2 @ b3 + a2 @ b4
    shown = problem.vector(made.evaluation_model())
    made._merge()
    assert problem.close(layer.weight, expected / 16, 1e-13)
    assert torch.equal(problem.vector(made.finalize()), shown)


@on_layouts(PAIR, TWO_BY_TWO)
def check_the_other_merges(c: Communicator) -> None:
    half = c.size // 2
    made, layer, _, learned = _apart(c, "only_learned")
    made._merge()
    expected = sum(learned["A"][:half]) @ sum(learned["B"][half:]) / half**2
    assert problem.close(layer.weight, expected, 1e-13)
    made, layer, _, learned = _apart(c, "full")
    made._merge()
    expected = sum(a @ b for a, b in zip(learned["A"], learned["B"], strict=True)) / c.size
    assert problem.close(layer.weight, expected, 1e-13)


@on_layouts(PAIR, TWO_BY_TWO)
def check_without_groups_all_ranks_train_b_together(c: Communicator) -> None:
    _, layer, start, learned = _apart(c, "only_b")
    assert torch.equal(layer.A, start["A"])
    assert not torch.allclose(layer.B, start["B"])
    assert all(torch.equal(layer.B, b) for b in learned["B"])
    # as one rank with the whole batch: the reference is written out, B the only factor that moves
    reference = problem.make_deep_model()
    rate, decay = PLAIN["learning_rate"], PLAIN["weight_decay"]
    for number, batch in enumerate(problem.batches(c, 20)):
        inputs, targets = (torch.cat(_everyones(c, part)) for part in (batch.inputs, batch.targets))
        reference.zero_grad()
        nn.functional.cross_entropy(reference(inputs), targets).backward()
        for parameter in reference.parameters():
            gradient = parameter.grad
            if number >= 10 and parameter is reference[2].weight:
                gradient = start["A"] @ start["A"].T @ gradient  # W = A B, dL/dB = A^T dL/dW
            parameter.data -= rate * (gradient + decay * parameter.data)
    assert problem.close(layer.weight, reference[2].weight, FLOAT64)


@on_layouts(TWO_BY_TWO)
def check_groups_do_not_communicate_with_each_other(c: Communicator) -> None:
    """Each group is a node here, so that what crosses nodes is what crosses groups."""
    made = _make_ab(c, GROUPS | {"group_size": 2, "cutoff": 0.3}, dtype=torch.float32)
    num_full = problem.vector(made.evaluation_model()).numel()

    def crossed() -> float:
        return sum(row["wire_bytes"] for row in c.ledger.rows() if row["scope"] == "global")

    p, rows = c.size, []
    for batch in problem.batches(c, 40, dtype=torch.float32):
        before = c.ledger.wire_bytes(), crossed()
        made.step(batch)
        rows.append((c.ledger.wire_bytes() - before[0], crossed() - before[1]))
    full_rank = 2 * (p - 1) / p * 4 * num_full
    k = made._inner_ranks["2"]
    assert 1 < k < 16
    rest = num_full - 16 * 16
    assert rows[:10] == [pytest.approx((full_rank, full_rank), rel=1e-12)] * 10
    # after the first step apart, whose SVD is broadcast: 2(g-1)/g 4(mk + rest), g = 2, and nothing crosses
    assert rows[11:30] == [(pytest.approx(4 * (16 * k + rest), rel=1e-12), 0.0)] * 19
    assert rows[10][1] < full_rank
    merge = 2 * (p - 1) / p * 4 * (2 * 16 * k + rest)
    assert rows[30] == pytest.approx((merge + full_rank,) * 2, rel=1e-12)
    assert rows[31:35] == [pytest.approx((full_rank, full_rank), rel=1e-12)] * 4


@on_layouts(PAIR)
def check_the_learning_rate_climbs_after_each_change_of_shape(c: Communicator) -> None:
    hyperparameters = GROUPS | {"group_steps": 0.08, "rebound": 0.5, "lr_rebound": 0.5}
    made = _make_ab(c, hyperparameters)
    rates = []
    for batch in problem.batches(c, 24):
        made.step(batch)
        rates.append(made._optimizer.param_groups[0]["lr"] / PLAIN["learning_rate"])
    climb = [0.25, 0.5, 0.75, 1.0]
    assert rates == pytest.approx([1.0] * 10 + climb + [1.0] * 4 + climb + climb[:2])


@on_layouts(PAIR)
def check_the_moments_of_what_changes_shape_are_reset(c: Communicator) -> None:
    made = _make_ab(c, GROUPS, {"learning_rate": 0.01})
    problem.train(made, list(problem.batches(c, 10)))
    (layer,) = made._layers.values()
    weight = layer.weight
    assert weight in made._optimizer.state
    made._decompose()
    state = made._optimizer.state
    assert weight not in state
    assert not any(p in state for p in (layer.A, layer.B))
    assert state[layer.bias]["step"].item() == 10
    assert (layer.A.requires_grad, layer.B.requires_grad) == ((True, False) if c.rank == 0 else (False, True))
    assert place(c.rank, c.size, 1).factor == made._trains
    problem.train(made, list(problem.batches(c, 20)))  # which starts with a merge and a decomposition of its own
    assert made._optimizer.state[layer.bias]["step"].item() == 20
    made._merge()
    assert not made._optimizer.state
