"""Virtual ranks: what only they have."""

import pytest
import torch

from atoll.communication.threads import run_virtual_ranks


def test_a_failing_virtual_rank_interrupts_the_others():
    def fail_on_one(communicator):
        if communicator.rank == 1:
            raise KeyError("broken")
        communicator.sum(torch.zeros(1))

    with pytest.raises(KeyError, match="broken"):
        run_virtual_ranks(fail_on_one, (0, 0, 0), timeout=10)


def test_a_rank_that_never_ends_is_given_up():
    def wait_on_one(communicator):
        if communicator.rank == 1:
            communicator.wait_until(lambda: False)

    with pytest.raises(TimeoutError, match=r"still busy after 0\.05 s"):
        run_virtual_ranks(wait_on_one, (0, 0), timeout=0.05)


def test_results_come_in_the_order_of_ranks():
    assert run_virtual_ranks(lambda c: (c.rank, c.size, c.scope), (0, 0, 1)) == [(r, 3, "global") for r in range(3)]
