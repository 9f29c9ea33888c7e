"""OIALR and AB training: what needs no ranks; the rest is in low_rank_contract.py."""

import math

import problem
import pytest
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.optimizers import retarget, state_bytes
from atoll.methods.low_rank.ab import Ab, decompose, place
from atoll.methods.low_rank.oialr import num_updated


def test_layers_join_the_basis_updates_from_the_output_backwards():
    # ceil: with int() a network of less than 1/alpha layers would never be updated
    assert [num_updated(4, 0.1, u) for u in (1, 2, 3, 6, 100)] == [1, 1, 2, 3, 4]
    assert [num_updated(10, 0.1, u) for u in range(1, 12)] == [*range(1, 11), 10]


def test_groups_are_as_equal_as_can_be_and_the_first_half_trains_a():
    def places(num_ranks, group_size):
        made = [place(rank, num_ranks, group_size) for rank in range(num_ranks)]
        return [(p.number, p.factor) for p in made]

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


@pytest.mark.parametrize("merge", ["with_stale", "only_learned"])
def test_an_odd_number_of_groups_merges_by_its_ranks(merge):
    def body(c):
        made, _ = problem.make(
            Ab,
            c,
            hyperparameters={"warmup": 0.0, "group_steps": 0.5, "group_size": 1, "cutoff": 0.0, "merge": merge},
            settings={"learning_rate": 0.01},
            model=problem.make_deep_model(),
        )
        problem.train(made, list(problem.batches(c, 10)))
        (layer,) = made._layers.values()
        factors = layer.A.detach().clone(), layer.B.detach().clone()
        made._merge()
        return factors, layer.weight.detach()

    ((a0, b0), weight), ((a1, b1), _), ((a2, b2), _) = run_virtual_ranks(body, [0, 0, 0])
    expected = (a0 + a1 + a2) @ (b0 + b1 + b2) / 9 if merge == "with_stale" else (a0 + a1) @ b2 / 2
    assert torch.equal(b0, b1)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_an_optimizer_goes_on_with_other_parameters():
    kept, old = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(4, 4))
    optimizer = torch.optim.AdamW([kept, old], 0.1, fused=True)
    (kept.sum() + (old * torch.arange(16.0).view(4, 4)).sum()).backward()
    optimizer.step()
    assert state_bytes(optimizer) == 2 * 4 * (3 + 16) + 2 * 4
    smaller, new = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(5))
    before = optimizer.state[old]["exp_avg"].clone()
    retarget(optimizer, [kept, smaller, new], {smaller: old})
    assert set(optimizer.state) == {kept, smaller}
    assert torch.equal(optimizer.state[smaller]["exp_avg"], before[:2, :2])
    assert optimizer.state[smaller]["step"].item() == 1
    for parameter in (kept, smaller, new):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # without moments the first step is lr times the gradient's sign, less the decay 0.1 * 0.01
    assert new.detach().tolist() == pytest.approx([1 - 0.1 - 0.001] * 5, rel=1e-5)
    assert math.isclose(optimizer.state[new]["step"].item(), 1)
