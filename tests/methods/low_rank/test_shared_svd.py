"""Shared decompositions: every rank has them all, equal, and no rank has much more to do than another."""

import pytest
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.low_rank.shared_svd import share_out, shared_svds, truncated_svd


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_ranks_have_all_factors(size):
    torch.manual_seed(0)
    matrices = [torch.randn(shape, dtype=torch.float64) for shape in ((6, 4), (3, 9), (5, 5), (2, 2), (12, 7))]
    found = run_virtual_ranks(lambda c: shared_svds(matrices, 0.3, c), [0] * size)
    for theirs in found:
        for matrix, svd, expected in zip(matrices, theirs, found[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(svd, expected, strict=True))
            u, s, vt = svd
            alone = truncated_svd(matrix, 0.3)
            torch.testing.assert_close(u * s @ vt, alone[0] * alone[1] @ alone[2], rtol=1e-12, atol=1e-12)


def test_the_cutoff_is_a_share_of_the_largest_value():
    matrix = torch.diag(torch.tensor([2.0, 8.0, 0.79, 0.8]))
    assert truncated_svd(matrix, 0.1)[1].tolist() == pytest.approx([8.0, 2.0, 0.8])
    assert len(truncated_svd(matrix, 0.0)[1]) == 4
    assert len(truncated_svd(torch.zeros(3, 3), 0.1)[1]) >= 1


def test_what_is_no_number_stays_none_in_the_same_shapes():
    u, s, vt = truncated_svd(torch.full((4, 3), float("nan")), 0.5)
    assert (u.shape, s.shape, vt.shape) == ((4, 3), (3,), (3, 3))
    assert all(part.isnan().all() for part in (u, s, vt))


def test_tasks_are_shared_out_by_cost():
    owners = share_out([5, 1, 1, 1, 1, 1], 2)
    assert sorted(owners.count(rank) for rank in (0, 1)) == [1, 5]
    assert set(share_out([1.0] * 8, 4)) == {0, 1, 2, 3}
