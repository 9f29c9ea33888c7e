"""AB training (Coquelin 2024, chapter 5, algorithm 2)."""

import itertools
from functools import partial

import pytest
import torch
from low_rank import ADAMW, FLOAT64, MOMENTUM, NUM_STEPS, PLAIN, Run, trained, trains_saves_and_merges
from on_ranks import on_ranks
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.low_rank.ab import Ab, place
from atoll.methods.low_rank.ab_factors import decompose
from atoll.methods.low_rank.factored import merged_state_dict
from atoll.testing import CHECKS, Subject, problem
from atoll.testing.ranks import PAIR, TRIPLE, TWO_BY_TWO

GROUPS = {"warmup": 0.1, "group_steps": 0.2, "group_size": 1, "cutoff": 0.0, "lr_rebound": 0.0}
MERGES = ("with_stale", "only_learned", "full", "only_b")


def test_groups_are_as_equal_as_can_be_and_the_first_half_trains_a():
    def places(num_ranks, group_size):
        groups = [place(rank, num_ranks, group_size) for rank in range(num_ranks)]
        return [(group.number, group.factor) for group in groups]

    assert places(4, 4) == places(4, 2) == [(0, "A"), (0, "A"), (1, "B"), (1, "B")]
    assert places(3, 1) == [(0, "A"), (1, "A"), (2, "B")]  # odd: the larger half
    assert [n for n, _ in places(7, 3)] == [0, 0, 0, 0, 1, 1, 1]
    assert [f for _, f in places(5, 1)] == ["A", "A", "A", "B", "B"]


def test_the_factors_multiply_to_the_matrix_and_share_its_singular_values():
    torch.manual_seed(0)
    matrix = torch.randn(7, 5, dtype=torch.float64)
    parts = decompose(torch.linalg.svd(matrix, full_matrices=False))
    torch.testing.assert_close(parts["A"] @ parts["B"], matrix, rtol=1e-13, atol=1e-13)
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(parts["A"].T @ parts["A"], torch.diag(values), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts["B"] @ parts["B"].T, torch.diag(values), rtol=1e-12, atol=1e-12)


# Identities.


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("settings", [PLAIN, ADAMW], ids=["sgd", "adamw"])
def test_a_warm_up_to_the_end_equals_ddp(c: Communicator, settings: dict) -> None:
    low = trained(Ab, c, {"warmup": 1.0}, settings, num_epochs=5)
    full = trained(Ddp, c, {}, settings, num_epochs=5)
    assert problem.close(problem.vector(low.method.finalize()), problem.vector(full.method.finalize()), FLOAT64)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("merge", MERGES)
def test_rate_0_and_no_cutoff_change_nothing(c: Communicator, merge: str) -> None:
    run = Run(Ab, c, GROUPS | {"merge": merge}, PLAIN | {"learning_rate": problem.STILL})
    before = problem.vector(run.method.evaluation_model())
    apart = []

    def look() -> None:
        apart.append(bool(run.factored()))
        # Factors of an SVD multiplied again, at most three times over.
        assert problem.close(problem.vector(run.method.evaluation_model()), before, 1e-14)

    run.train(NUM_STEPS, after_each=look)
    assert sum(apart) == 20 + 15
    assert run.method.metrics()["group_share"] == (0.0 if merge == "only_b" else 35 / NUM_STEPS)


# Merges.


def apart(c: Communicator, merge: str) -> tuple[Run, dict[str, list[torch.Tensor]]]:
    """AB training in the middle of a group phase, and every rank's factors of its one layer."""
    run = Run(Ab, c, GROUPS | {"merge": merge}, PLAIN)
    run.train(20)
    (layer,) = run.factored().values()
    return run, {name: problem.gathered(c, getattr(layer, name)) for name in ("A", "B")}


def merged(run: Run) -> torch.Tensor:
    """The layer's weight as a merge would make it now."""
    return run.method.evaluation_model()[2].weight


@on_ranks(TWO_BY_TWO)
def test_the_merge_of_four_workers_is_equation_5_8(c: Communicator) -> None:
    run, learned = apart(c, "with_stale")
    (a1, a2), (b3, b4) = learned["A"][:2], learned["B"][2:]
    # The frozen copies are equal on all ranks that do not train them, and multiply to the weight of the warm-up.
    a0, b0 = learned["A"][2], learned["B"][0]
    assert torch.equal(learned["A"][3], a0)
    assert torch.equal(learned["B"][1], b0)
    warm = Run(Ddp, c, {}, PLAIN)
    warm.train(10)
    assert problem.close(a0 @ b0, warm.model[2].weight, 1e-13)
    assert not torch.allclose(a1, a2)
    expected = 4 * a0 @ b0 + 2 * (a1 @ b0 + a2 @ b0 + a0 @ b3 + a0 @ b4) + a1 @ b3 + a1 @ b4 + a2 @ b3 + a2 @ b4
    assert problem.close(merged(run), expected / 16, 1e-13)
    shown = problem.vector(run.method.evaluation_model())
    assert torch.equal(problem.vector(run.method.finalize()), shown)


@on_ranks(PAIR, TWO_BY_TWO)
def test_the_merge_without_frozen_copies(c: Communicator) -> None:
    half = c.size // 2
    run, learned = apart(c, "only_learned")
    expected = sum(learned["A"][:half]) @ sum(learned["B"][half:]) / half**2
    assert problem.close(merged(run), expected, 1e-13)


@on_ranks(PAIR, TWO_BY_TWO)
def test_the_merge_of_products(c: Communicator) -> None:
    run, learned = apart(c, "full")
    expected = sum(a @ b for a, b in zip(learned["A"], learned["B"], strict=True)) / c.size
    assert problem.close(merged(run), expected, 1e-13)


@on_ranks(TRIPLE)
@pytest.mark.parametrize("merge", ["with_stale", "only_learned"])
def test_an_odd_number_of_groups_merges_by_its_ranks(c: Communicator, merge: str) -> None:
    run, learned = apart(c, merge)
    (a0, a1, a2), (b0, b1, b2) = learned["A"], learned["B"]
    expected = (a0 + a1 + a2) @ (b0 + b1 + b2) / 9 if merge == "with_stale" else (a0 + a1) @ b2 / 2
    assert torch.equal(b0, b1)
    assert problem.close(merged(run), expected, 1e-12)


@on_ranks(PAIR, TWO_BY_TWO)
def test_without_groups_all_ranks_train_b_together(c: Communicator) -> None:
    run, learned = apart(c, "only_b")
    frozen = learned["A"][0]
    assert all(torch.equal(a, frozen) for a in learned["A"])
    assert all(torch.equal(b, learned["B"][0]) for b in learned["B"])
    # as one rank with the whole batch: the reference is written out, B the only factor that moves
    reference = problem.make_deep_model()
    rate, decay = PLAIN["learning_rate"], PLAIN["weight_decay"]
    for number, batch in enumerate(problem.batches(c, 20)):
        inputs, targets = (torch.cat(problem.gathered(c, part)) for part in (batch.inputs, batch.targets))
        reference.zero_grad()
        nn.functional.cross_entropy(reference(inputs), targets).backward()
        for parameter in reference.parameters():
            gradient = parameter.grad
            if number >= 10 and parameter is reference[2].weight:
                gradient = frozen @ frozen.T @ gradient  # W = A B, dL/dB = A^T dL/dW
            parameter.data -= rate * (gradient + (decay if parameter.dim() > 1 else 0.0) * parameter.data)
    assert problem.close(merged(run), reference[2].weight, FLOAT64)


# Traffic, rates and moments.


@on_ranks(TWO_BY_TWO)
def test_groups_do_not_communicate_with_each_other(c: Communicator) -> None:
    """Each group is a node here, so that traffic between nodes is traffic between groups."""
    model = problem.make_deep_model(torch.float32)
    num_full = problem.vector(model).numel()
    run = Run(Ab, c, GROUPS | {"group_size": 2, "cutoff": 0.3}, PLAIN, model=model)
    p, totals = c.size, [(0.0, 0.0)]
    run.train(40, after_each=lambda: totals.append((c.ledger.wire_bytes(), c.ledger.wire_bytes("global"))))
    rows = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(totals)]
    full_rank = 2 * (p - 1) / p * 4 * num_full
    k = run.method.inner_ranks()["2"]
    assert 1 < k < 16
    rest = num_full - 16 * 16
    assert rows[:10] == [pytest.approx((full_rank, full_rank), rel=1e-12)] * 10
    # after the first step apart, whose SVD is broadcast: 2(g-1)/g 4(mk + rest), g = 2, and nothing crosses
    assert rows[11:30] == [(pytest.approx(4 * (16 * k + rest), rel=1e-12), 0.0)] * 19
    assert rows[10][1] < full_rank
    merge = 2 * (p - 1) / p * 4 * (2 * 16 * k + rest)
    assert rows[30] == pytest.approx((merge + full_rank,) * 2, rel=1e-12)
    assert rows[31:35] == [pytest.approx((full_rank, full_rank), rel=1e-12)] * 4


@on_ranks(PAIR)
def test_the_learning_rate_climbs_after_each_change_of_shape(c: Communicator) -> None:
    run = Run(Ab, c, GROUPS | {"group_steps": 0.08, "rebound": 0.5, "lr_rebound": 0.5}, PLAIN)
    rates = []

    def look() -> None:
        rates.append(run.method.state_dict()["optimizer"]["param_groups"][0]["lr"] / PLAIN["learning_rate"])

    run.train(24, after_each=look)
    climb = [0.25, 0.5, 0.75, 1.0]
    assert rates == pytest.approx([1.0] * 10 + climb + [1.0] * 4 + climb + climb[:2])


@on_ranks(PAIR)
def test_moments_of_parameters_that_change_shape_are_reset(c: Communicator) -> None:
    run = Run(Ab, c, GROUPS, {"learning_rate": 0.01})

    def steps() -> dict[str, int]:
        return {name: int(moments["step"]) for name, moments in run.moments().items()}

    run.train(10)
    assert steps()["2.weight"] == 10
    run.train(1)  # decomposes first
    factor = place(c.rank, c.size, 1).factor
    assert factor == ("A" if c.rank == 0 else "B")
    layer = run.factored()["2"]
    assert (layer.A.requires_grad, layer.B.requires_grad) == (factor == "A", factor == "B")
    assert (steps()[f"2.{factor}"], steps()["2.bias"]) == (1, 11)
    run.train(19)
    assert (steps()[f"2.{factor}"], steps()["2.bias"]) == (20, 30)
    run.train(1)  # merges first
    assert set(steps().values()) == {1}


@on_ranks(PAIR)
def test_momentum_starts_at_zero(c: Communicator) -> None:
    """torch's fused SGD wants momentum of all parameters or of none."""
    run = Run(Ab, c, GROUPS, MOMENTUM)
    run.train(10)
    run.step_without_learning()  # decomposes first
    factor = place(c.rank, c.size, 1).factor
    moments = run.moments()
    assert float(moments[f"2.{factor}"]["momentum_buffer"].abs().max()) == 0.0
    assert float(moments["2.bias"]["momentum_buffer"].abs().max()) > 0.0
    run.train(25)


# Networks.


@on_ranks(PAIR, TWO_BY_TWO)
def test_convolutions_and_attention_train_save_and_merge(c: Communicator) -> None:
    trains_saves_and_merges(c, Ab, {"warmup": 0.1, "group_steps": 0.06, "group_size": 1, "cutoff": 0.2})


@on_ranks(PAIR)
@pytest.mark.parametrize("merge", MERGES)
def test_every_phase_continues_from_a_checkpoint(c: Communicator, merge: str) -> None:
    """Warm-up, two group phases with a rebound after each, and moments that survive a merge without groups."""
    phases = {"warmup": 0.1, "group_steps": 0.2, "rebound": 0.5, "lr_rebound": 1.0, "group_size": 1, "merge": merge}
    settings = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9}
    CHECKS["continues_from_a_checkpoint_at_any_step"](c, Subject(method=Ab, hyperparameters=phases, settings=settings))


# The result in low rank.

CUT = GROUPS | {"cutoff": 0.5, "low_rank_result": True}


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("num_steps", [5, 20, 33])
def test_with_low_rank_result_size_and_network_are_the_same_ones(c: Communicator, num_steps: int) -> None:
    """In the warm-up, apart and in a rebound: what is evaluated is cut, and training is as without."""
    whole, low = (Run(Ab, c, CUT | {"low_rank_result": is_cut}, PLAIN) for is_cut in (False, True))
    for run in (whole, low):
        run.train(num_steps)
    trained_on = problem.vector(low.model)
    weight = merged(whole)
    values = torch.linalg.svdvals(weight)
    k = int((values >= 0.5 * values[0]).sum())
    assert 1 < k < 16
    shown, end = low.method.evaluation_model(), None
    for _ in range(2):
        assert problem.close(merged_state_dict(shown)["2.weight"], truncated(weight, k), FLOAT64)
        assert (shown[2].A.shape, shown[2].B.shape) == ((16, k), (k, 16))
        assert low.method.inner_ranks() == {"2": k}
        sizes = [problem.vector(network).numel() for network in (problem.make_deep_model(), shown)]
        assert low.method.metrics()["compression"] == sizes[0] / sizes[1]
        assert torch.equal(problem.vector(whole.model), trained_on)
        if end is None:
            shown = end = low.method.finalize()
    assert all(torch.equal(one, problem.vector(end)) for one in problem.gathered(c, problem.vector(end)))


def truncated(weight: torch.Tensor, k: int) -> torch.Tensor:
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :k] * s[:k] @ vt[:k]


@on_ranks(PAIR)
@pytest.mark.parametrize(
    "check",
    [
        "continues_from_a_checkpoint_at_any_step",
        "evaluation_is_no_traffic_and_disturbs_nothing",
        "lowers_the_loss_and_all_ranks_end_alike",
        "the_same_seed_gives_the_same_numbers",
    ],
)
def test_a_low_rank_result_keeps_the_contract(c: Communicator, check: str) -> None:
    given = {"warmup": 0.1, "group_steps": 0.08, "group_size": 1, "cutoff": 0.3, "low_rank_result": True}
    model = partial(problem.make_deep_model, torch.float64)
    CHECKS[check](c, Subject(method=Ab, hyperparameters=given, settings={"learning_rate": 0.02}, model=model))
