"""The ledger: what ranks have sent."""

import pytest
import torch

from atoll.communication.ledger import Exchange, Ledger
from atoll.communication.threads import run_virtual_ranks


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


def test_equal_exchanges_share_a_tally():
    ledger = Ledger()
    for seconds in (1.0, 2.0):
        tally = ledger.tally(Exchange("send", "node", 8, False))
        tally.count += 1
        tally.wire_bytes += 8
        tally.seconds_waited += seconds
    ledger.tally(Exchange("send", "global", 8, False)).wire_bytes += 4
    assert [row["count"] for row in ledger.rows()] == [0, 2]
    assert (ledger.wire_bytes("node"), ledger.wire_bytes("global"), ledger.wire_bytes()) == (16, 4, 20)
    assert ledger.seconds_waited() == 3.0


def test_an_untracked_ledger_shares_the_trace_only():
    ledger = Ledger()
    ledger.tally(Exchange("send", "node", 8, False)).count += 1
    untracked = ledger.untracked()
    assert untracked.trace is ledger.trace
    assert not untracked.is_recorded
    assert untracked.rows() == []
