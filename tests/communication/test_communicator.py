"""What every communicator must do: the same tests on virtual ranks, over MPI and beside it.

By default each transport has one layout of two ranks; all layouts, and MPI as between hosts, are in the long tier.
"""

from __future__ import annotations

import gc

import pytest
import torch
from on_ranks import on_ranks, processes, proxies

from atoll.communication.communicator import Communicator, PeerAborted
from atoll.communication.trace import Trace
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO, TWO_NODES

DEFAULT = [
    proxies(PAIR),
    processes(PAIR, "mpi", long=False),
    *(processes(PAIR, kind) for kind in ("gloo", "proxied_mpi")),
]
on_pairs = on_ranks(
    PAIR, TWO_BY_TWO, over=[*DEFAULT, processes(TWO_BY_TWO), processes(PAIR, "tcp"), processes(TWO_BY_TWO, "gloo")]
)
everywhere = on_ranks(
    SINGLE,
    PAIR,
    TWO_NODES,
    TWO_BY_TWO,
    over=[*DEFAULT, *map(processes, (SINGLE, TWO_NODES, TWO_BY_TWO)), processes(PAIR, "tcp")],
)


@everywhere
def test_sum_in_every_dtype(c: Communicator) -> None:
    for dtype in (torch.float64, torch.float32, torch.int64, torch.int32, torch.float16, torch.bfloat16):
        tensor = torch.full((3, 5), c.rank + 1, dtype=dtype)
        c.sum(tensor)
        assert tensor.tolist() == torch.full((3, 5), c.size * (c.size + 1) // 2, dtype=dtype).tolist()


@everywhere
def test_sixteen_bit_sums_add_numbers_not_bit_patterns(c: Communicator) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(c.size, 1001, generator=generator)
    for dtype in (torch.float16, torch.bfloat16):
        tensor = parts[c.rank].to(dtype)
        c.sum(tensor)
        exact = parts.to(dtype).to(torch.float64).sum(dim=0)
        # p-1 additions, each rounded to the dtype: at most (p-1) half units in the last place of the sum.
        bound = max(1, c.size - 1) * torch.finfo(dtype).eps / 2 * exact
        assert ((tensor.to(torch.float64) - exact).abs() <= bound).all()


@everywhere
def test_mean(c: Communicator) -> None:
    tensor = torch.arange(7, dtype=torch.float64) + c.rank
    c.mean(tensor)
    assert torch.equal(tensor, torch.arange(7, dtype=torch.float64) + (c.size - 1) / 2)


@everywhere
def test_narrow_wire_fills_the_wide_tensor(c: Communicator) -> None:
    value = 1 + 2**-9  # bfloat16 keeps 8 bits of the mantissa, float16 11
    for wire, expected in ((torch.bfloat16, 1.0 if c.size > 1 else value), (torch.float16, value), (None, value)):
        tensor = torch.full((4,), value)
        c.mean(tensor, wire=wire)
        assert tensor.dtype == torch.float32
        # Powers of two ranks: scaling and adding equal parts is exact.
        assert tensor.tolist() == [expected] * 4


@everywhere
def test_narrow_mean_does_not_overflow(c: Communicator) -> None:
    tensor = torch.full((2,), 60000.0)
    c.mean(tensor, wire=torch.float16)
    assert tensor.tolist() == [60000.0] * 2


@everywhere
def test_what_cannot_be_summed_is_refused(c: Communicator) -> None:
    with pytest.raises(ValueError, match="needs one of the dtypes"):
        c.sum(torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="needs one of the dtypes"):
        c.sum(torch.zeros(2), wire=torch.int8)
    if c.size > 1:
        with pytest.raises(ValueError, match="floating dtype"):
            c.mean(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="contiguous"):
        c.sum(torch.zeros(4, 4).t()[:2])
    with pytest.raises(ValueError, match=rf"root must be a rank in 0..{c.size - 1}; got {c.size}"):
        c.broadcast(torch.zeros(1), root=c.size)
    assert c.ledger.rows() == []


@everywhere
def test_broadcast_from_every_root(c: Communicator) -> None:
    for root in range(c.size):
        for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.uint8, torch.int64):
            tensor = torch.tensor([c.rank % 2, 1, 0], dtype=dtype)
            c.broadcast(tensor, root)
            assert tensor.tolist() == torch.tensor([root % 2, 1, 0], dtype=dtype).tolist()


@everywhere
def test_every_rank_gathers_the_rows_of_all(c: Communicator) -> None:
    for dtype in (torch.float32, torch.uint8, torch.int64):
        rows = torch.full((c.size, 3, 5), 99, dtype=dtype)
        rows[c.rank] = c.rank + 1
        c.all_gather(rows)
        assert torch.equal(rows, torch.arange(1, c.size + 1, dtype=dtype).view(-1, 1, 1).expand(c.size, 3, 5))
    empty = torch.zeros(c.size, 0)
    c.all_gather(empty)
    with pytest.raises(ValueError, match=rf"a row for each of the {c.size} ranks; got a tensor of shape \(9, 2\)"):
        c.all_gather(torch.zeros(9, 2))


@on_pairs
def test_messages_keep_their_order_and_tags(c: Communicator) -> None:
    right, left = (c.rank + 1) % c.size, (c.rank - 1) % c.size
    requests = [c.start_send(torch.full((2,), 10.0 * c.rank + i), right, tag=i // 2) for i in range(4)]
    received = [torch.zeros(2) for _ in range(4)]
    pending = [c.start_receive(received[i], left, tag=i // 2) for i in (2, 3, 0, 1)]
    for request in reversed(pending + requests):
        request.wait()
    assert [int(tensor[0]) for tensor in received] == [10 * left + i for i in range(4)]


@on_pairs
def test_many_under_way(c: Communicator) -> None:
    tensors = [torch.full((100,), float(c.rank + i)) for i in range(20)]
    requests = [c.start_sum(tensor) for tensor in tensors]
    for request in reversed(requests):
        request.wait()
        assert request.test()
    base = sum(range(c.size))
    assert [float(tensor[0]) for tensor in tensors] == [base + c.size * i for i in range(20)]


@on_pairs
def test_dropped_buffers_live_until_completion(c: Communicator) -> None:
    requests = [c.start_broadcast(torch.full((50_000,), float(i)), root=i % c.size) for i in range(8)]
    requests += [c.start_sum(torch.ones(50_000)) for _ in range(8)]
    requests += [c.start_all_gather(torch.ones(c.size, 25_000)) for _ in range(8)]
    gc.collect()
    for request in requests:
        request.wait()


@everywhere
def test_a_large_sum_is_cut_into_pieces_and_whole_again(c: Communicator) -> None:
    count = 3 * 2**18 + 5  # float32, so a little over 3 MiB: several pieces over MPI, of uneven length
    tensor = torch.arange(count, dtype=torch.float32) % 1000 + c.rank
    c.sum(tensor)
    assert torch.equal(tensor, c.size * (torch.arange(count, dtype=torch.float32) % 1000) + sum(range(c.size)))
    assert [row["count"] for row in c.ledger.rows()] == [1]


@on_pairs
def test_arrived_tells_who_has_sent_what_nobody_receives_yet(c: Communicator) -> None:
    assert c.arrived(tag=3) is None
    c.barrier()
    if c.rank == c.size - 1:
        c.send(torch.full((2,), 7.0), 0, tag=3)
        c.send(torch.full((2,), 8.0), 0, tag=3)
    c.barrier()
    if c.rank == 0:
        seen = []
        for _ in range(2):
            c.wait_until(lambda: c.arrived(tag=3) is not None)
            assert (c.arrived(tag=3), c.arrived(tag=4)) == (c.size - 1, None)
            tensor = torch.zeros(2)
            c.receive(tensor, c.size - 1, tag=3)
            seen.append(float(tensor[0]))
        assert seen == [7.0, 8.0]
        assert c.arrived(tag=3) is None


@on_pairs
def test_every_wait_serves(c: Communicator) -> None:
    """Rank 0 waits in a barrier of another communicator; the others come there once it has answered them."""
    untracked = c.split(0)
    if c.rank == 0:
        answers: list = []

        def serve() -> None:
            while (source := c.arrived(tag=1)) is not None:
                answers.append((source, question := torch.zeros(1), c.start_receive(question, source, tag=1)))
            for entry in [entry for entry in answers if entry[2].test()]:
                answers.remove(entry)
                replies.append(c.start_send(entry[1] + 1, entry[0], tag=2))

        replies: list = []
        c.services.append(serve)
        untracked.barrier()
        for reply in replies:
            reply.wait()
        assert len(replies) == c.size - 1
        c.services.remove(serve)
    else:
        word = torch.full((1,), float(c.rank))
        c.send(word, 0, tag=1)
        c.receive(word, 0, tag=2)
        assert float(word) == c.rank + 1
        untracked.barrier()


@on_ranks(TWO_BY_TWO, over=[proxies(TWO_BY_TWO), processes(TWO_BY_TWO)])
def test_split_and_scopes(c: Communicator) -> None:
    node = c.split(c.nodes[c.rank])
    group = c.split(node.rank)
    assert (c.scope, node.scope, group.scope) == ("global", "node", "global")
    assert (node.size, group.size, node.rank, group.rank) == (2, 2, c.rank % 2, c.rank // 2)
    tensor = torch.tensor([float(c.rank)])
    node.sum(tensor)
    assert tensor.item() == {0: 1.0, 1: 5.0}[c.rank // 2]
    group.sum(tensor)
    assert tensor.item() == 6.0


@everywhere
def test_ledger_counts_what_is_sent(c: Communicator) -> None:
    p = c.size
    c.sum(torch.zeros(10))
    c.start_mean(torch.zeros(10), wire=torch.bfloat16).wait()
    c.broadcast(torch.zeros(5, dtype=torch.float64), root=p - 1)
    c.all_gather(torch.zeros(p, 7))
    if p > 1:
        c.send(torch.zeros(3), (c.rank + 1) % p)
        c.receive(torch.zeros(3), (c.rank - 1) % p)
    rows = {(r["operation"], r["overlapped"], r["payload_bytes"]): r for r in c.ledger.rows()}
    ring = 2 * (p - 1) / p
    assert rows["all_reduce", False, 40]["wire_bytes"] == pytest.approx(ring * 40)
    # With one rank nothing is scaled, and the wire's dtype still rules.
    assert rows["all_reduce", True, 20]["wire_bytes"] == pytest.approx(ring * 20)
    assert rows["broadcast", False, 40]["wire_bytes"] == ((p - 1) * 40 if c.rank == p - 1 else 0)
    assert rows["all_gather", False, 28]["wire_bytes"] == (p - 1) * 28
    if p > 1:
        assert rows["send", False, 12]["wire_bytes"] == 12
        assert rows["receive", False, 12]["wire_bytes"] == 0
    assert {r["scope"] for r in c.ledger.rows()} == {c.scope}
    assert all(r["count"] == 1 and r["seconds_waited"] >= 0 for r in rows.values())


@everywhere
def test_a_trace_keeps_what_was_posted_and_waited_for(c: Communicator) -> None:
    c.ledger.trace = trace = Trace()
    node = c.split(c.nodes[c.rank], spans="node")
    same = c.split(0)
    partner = (c.rank + 1) % c.size, (c.rank - 1) % c.size
    trace.begin()
    node.sum(torch.zeros(10))
    under_way = same.start_broadcast(torch.zeros(4))
    expected = [["post", "all_reduce", "node", node.size, 40], ["wait", 1], ["post", "broadcast", "all", c.size, 16]]
    if c.size > 1:
        sent = c.start_send(torch.zeros(3), partner[0], tag=5)  # no step waits for it
        c.receive(torch.zeros(3), partner[1], tag=5)
        expected += [["post", "send", "all", c.size, 12, partner[0], 5]]
        expected += [["post", "receive", "all", c.size, 12, partner[1], 5], ["wait", 1]]
    while not under_way.test():
        c.progress()
    under_way.wait()  # what follows rests on it, although it has been seen before
    trace.end_step()
    trace.pause()
    if c.size > 1:
        sent.wait()
    (pattern,) = trace.as_dict()["patterns"]
    assert pattern["events"] == [*expected, ["wait", 3 if c.size > 1 else 1]]
    assert len(pattern["samples"][0]) == len(pattern["events"]) + 1
    assert all(gap >= 0 for gap in pattern["samples"][0])
    c.ledger.trace = None


@on_pairs
@pytest.mark.parametrize("operation", ["sum", "broadcast", "all_gather", "receive"])
def test_every_wait_can_be_interrupted(c: Communicator, operation: str) -> None:
    """Rank 0 waits alone and is interrupted; then the others come, and what was started completes."""
    tensor = torch.full((c.size if operation == "all_gather" else 3,), float(c.rank))

    def start():
        if operation == "all_gather":
            return c.start_all_gather(tensor)
        if operation == "sum":
            return c.start_sum(tensor)
        if operation == "broadcast":
            return c.start_broadcast(tensor, root=1)
        return c.start_receive(tensor, 1) if c.rank == 0 else c.start_send(tensor, 0)

    if c.rank == 0:
        request = start()
        _interrupt(c, request.wait)
    _let_the_others_go(c)
    if c.rank == 0 or operation != "receive" or c.rank == 1:
        request = request if c.rank == 0 else start()
        request.wait()
    if operation == "all_gather":
        assert tensor.tolist() == [float(rank) for rank in range(c.size)]
        return
    expected = {"sum": float(sum(range(c.size))), "broadcast": 1.0, "receive": 1.0}[operation]
    assert c.rank > 1 or tensor.tolist() == [expected] * 3


@on_pairs
def test_a_barrier_can_be_interrupted(c: Communicator) -> None:
    if c.rank == 0:
        _interrupt(c, c.barrier)
    _let_the_others_go(c)
    if c.rank > 0:
        c.barrier()
    c.barrier()
    # Nobody will ever ask again about the barrier that rank 0 has left: MPI's communicator settles it.
    if c.rank == 0 and hasattr(c, "settle"):
        assert c.settle([c.posted()])


def _interrupt(c: Communicator, wait) -> None:
    poll, c.poll = c.poll, _abort
    with pytest.raises(PeerAborted):
        wait()
    c.poll = poll


def _let_the_others_go(c: Communicator) -> None:
    gate = torch.zeros(1)
    if c.rank > 0:
        c.receive(gate, 0, tag=7)
    else:
        for other in range(1, c.size):
            c.send(gate, other, tag=7)


def _abort() -> None:
    raise PeerAborted(1)
