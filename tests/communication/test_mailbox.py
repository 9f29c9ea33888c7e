"""Mailboxes: the double inside one process; over MPI they are tested by what uses them (tests of the search)."""

import pytest

from atoll.communication.local_mailbox import LocalMailbox


def test_messages_of_a_tag_arrive_in_their_order_with_their_sender():
    first, second, third = LocalMailbox.connected(3)
    first.send("a", 2, tag=1)
    second.send("b", 2, tag=1)
    first.send("c", 2, tag=2)
    assert third.take(tag=2) == (0, "c")
    assert [third.take(tag=1), third.take(tag=1), third.take(tag=1)] == [(0, "a"), (1, "b"), None]
    assert first.all_sent()


def test_what_is_sent_is_a_copy():
    sender, receiver = LocalMailbox.connected(2)
    content = {"values": [1]}
    sender.send_to([0, 1], content, tag=0)
    content["values"].append(2)
    assert receiver.take(tag=0) == sender.take(tag=0) == (0, {"values": [1]})


@pytest.mark.parametrize("size", [1, 3])
def test_the_others_are_all_but_oneself(size):
    boxes = LocalMailbox.connected(size)
    assert [box.others() for box in boxes] == [[r for r in range(size) if r != rank] for rank in range(size)]
