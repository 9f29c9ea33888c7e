"""A world of threads: what is collective, what is split, and how one rank's failure ends the others."""

import threading
import time

import pytest
import torch

from atoll.communication.ledger import Ledger
from atoll.communication.local_mailbox import LocalMailbox
from atoll.communication.thread_world import WorldFailed, run_in_threads


def results(size, function):
    returned = {}

    def rank(world):
        returned[world.rank] = function(world)

    run_in_threads(size, rank)
    return [returned[number] for number in range(size)]


def test_all_gather_in_the_order_of_ranks():
    def rank(world):
        return world.allgather(10 * world.rank), world.allgather("x")

    assert results(3, rank) == [([0, 10, 20], ["x", "x", "x"])] * 3


def test_a_world_is_split_by_color_and_none_stays_out():
    def rank(world):
        part = world.split(None if world.rank == 2 else world.rank % 2)
        return None if part is None else (part.rank, part.size, part.allgather(world.rank))

    assert results(5, rank) == [(0, 2, [0, 4]), (0, 2, [1, 3]), None, (1, 2, [1, 3]), (1, 2, [0, 4])]


def test_a_barrier_waits_for_all():
    order = []

    def rank(world):
        if world.rank == 0:
            time.sleep(0.1)
        order.append("before")
        world.meet()
        order.append("after")

    run_in_threads(3, rank)
    assert order == ["before"] * 3 + ["after"] * 3


def test_each_trial_gets_a_communicator_of_its_own():
    def in_step(world):
        nodes, devices = [0, 1], [("here", "cpu")] * 2
        sums = []
        for trial in range(3):
            options = {"ledger": Ledger(), "poll": world.check, "spin": False}
            communicator, family = world.open(nodes, devices, **options)
            if trial == 1:  # only one of them posts: the next trial is none the wiser
                if world.rank == 0:
                    communicator.start_sum(torch.ones(1))
            else:
                summand = torch.tensor([1.0 + world.rank])
                communicator.sum(summand)
                sums.append(float(summand))
            family.close()
            world.meet()
        return sums

    assert results(2, in_step) == [[3.0, 3.0]] * 2


def test_a_rank_that_fails_ends_the_others_and_is_the_one_that_is_told():
    interrupted = []

    def rank(world):
        if world.rank == 1:
            raise RuntimeError("broken on purpose")
        try:
            world.meet()
        except WorldFailed:
            interrupted.append(world.rank)
            raise

    with pytest.raises(RuntimeError, match="broken on purpose"):
        run_in_threads(3, rank)
    assert sorted(interrupted) == [0, 2]


def test_a_failed_rank_interrupts_a_peer_that_splits():
    def rank(world):
        options = {"ledger": Ledger(), "poll": world.check, "spin": False}
        communicator, _ = world.open([0, 0], [("here", "cpu")] * 2, **options)
        if world.rank == 1:
            raise RuntimeError("broken on purpose")
        communicator.split(0)

    with pytest.raises(RuntimeError, match="broken on purpose"):
        run_in_threads(2, rank)


def test_what_the_calling_thread_raises_ends_the_ranks():
    left = []

    def rank(world):
        try:
            while True:
                world.check()
                time.sleep(0.01)
        finally:
            left.append(world.rank)

    def watch():
        raise OSError("the lock is gone")

    with pytest.raises(OSError, match="the lock is gone"):
        run_in_threads(2, rank, watch=watch)
    assert sorted(left) == [0, 1]


def test_the_calling_thread_watches_meanwhile():
    watched, threads = [], set()

    def rank(world):
        threads.add(threading.current_thread().name)
        time.sleep(0.1)

    run_in_threads(2, rank, watch=lambda: watched.append(threading.current_thread()))
    assert set(watched) == {threading.current_thread()}
    assert threads == {"rank 0", "rank 1"}


def test_a_mailbox_takes_by_tag_and_by_sender_in_the_order_of_sending():
    first, second, third = LocalMailbox.connected(3)
    second.send("a", 0, tag=1)
    third.send("b", 0, tag=1)
    second.send("c", 0, tag=2)
    second.send("d", 0, tag=1)
    assert first.take(3) is None
    assert first.take(1, source=2) == (2, "b")
    assert first.take(1, source=2) is None
    assert [first.take(1), first.take(1), first.take(1)] == [(1, "a"), (1, "d"), None]
    assert first.take(2) == (1, "c")


def test_what_a_mailbox_delivers_is_a_copy():
    first, second = LocalMailbox.connected(2)
    sent = {"x": [1]}
    first.send_to(first.others(), sent, tag=1)
    sent["x"].append(2)
    assert second.take(1) == (0, {"x": [1]})


def test_a_mailboxs_barriers_come_one_after_the_other():
    first, second = LocalMailbox.connected(2)
    one = first.start_barrier()
    assert not one()
    other = second.start_barrier()
    assert one()
    assert other()
    assert not first.start_barrier()()
