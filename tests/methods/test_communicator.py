"""The contract, over virtual ranks and over MPI, inside a host and over MPICH's TCP path."""

import pytest
import ranks
import torch

from atoll.communication.ledger import Ledger
from atoll.communication.threads import run_virtual_ranks

CONTRACT = "communicator_contract"
CASES = [pytest.param(name, layout, id=ranks.case_id(name, layout)) for name, layout in ranks.collect(CONTRACT)]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_virtual_ranks(name, layout):
    ranks.run_on_threads(CONTRACT, name, layout)


@pytest.fixture(scope="module")
def over_mpi():
    return {size: ranks.run_on_mpi(CONTRACT, size) for size in (1, 2, 4)}


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_mpi(name, layout, over_mpi):
    error = over_mpi[len(layout)].get(ranks.case_id(name, layout), "did not run: an earlier check failed")
    assert error is None, error


@pytest.mark.mpi
def test_mpi_over_tcp():
    errors = ranks.run_on_mpi(CONTRACT, 2, env=ranks.TCP)
    assert errors
    assert not any(errors.values()), errors


@pytest.mark.mpi
def test_a_torch_backend_beside_mpi():
    """What NCCL's communicator does, with gloo in NCCL's place."""
    errors = ranks.run_on_mpi(CONTRACT, 2, env={"ATOLL_TEST_GROUP": "gloo"})
    assert errors
    assert not any(errors.values()), errors


def test_a_failing_virtual_rank_interrupts_the_others():
    def fail_on_one(communicator):
        if communicator.rank == 1:
            raise KeyError("broken")
        communicator.sum(torch.zeros(1))

    with pytest.raises(KeyError, match="broken"):
        run_virtual_ranks(fail_on_one, (0, 0, 0), timeout=10)


def test_ledgers_add_up():
    def work(communicator):
        communicator.sum(torch.zeros(4))
        communicator.broadcast(torch.zeros(4))
        return communicator.ledger.rows()

    total = Ledger.total(run_virtual_ranks(work, (0, 1, 2)))
    # all-reduce: 3 ranks x 2 (2/3) 16 bytes; broadcast: 2 x 16 bytes
    assert total.wire_bytes() == pytest.approx(3 * 2 * 2 / 3 * 16 + 2 * 16)
    assert total.wire_bytes("node") == 0
    assert [row["count"] for row in total.rows()] == [3, 3]
