"""Messages between two processes: in order, whole, with open files; the other end can neither block nor run code."""

import os
import socket

import pytest
import torch

from atoll.communication.channel import Channel, wait_for
from atoll.communication.shared_buffers import MappedBuffers, SharedBuffers


def test_messages_arrive_in_their_order_with_numbers_as_they_were():
    one, other = Channel.pair()
    sent = [["a", 1], ["b", 0.1 + 0.2, float("inf")], ["c", {"text": "é\n"}]]
    for message in sent:
        one.send(message)
    assert other.receive() == sent
    assert other.receive() == []


def test_a_sender_whose_peer_does_not_read_is_not_blocked():
    one, other = Channel.pair()
    messages = [["piece", number, "x" * 100_000] for number in range(100)]
    for message in messages:
        one.send(message)
    assert not one.flush()
    received = []
    while len(received) < len(messages):
        received += other.receive()
        one.flush()
    assert received == messages


def test_open_files_come_with_their_messages():
    one, other = Channel.pair()
    for content in (b"first", b"second"):
        reads, writes = os.pipe()
        os.write(writes, content)
        os.close(writes)
        one.send(["file", len(content)], reads)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(reads)  # it has been closed here
    messages = []
    while len(messages) < 2:
        messages += other.receive()
    assert [os.read(other.take_file(), 100) for _ in messages] == [b"first", b"second"]
    with pytest.raises(ValueError, match="came without"):
        other.take_file()


def test_what_was_sent_before_the_end_arrives():
    one, other = Channel.pair()
    one.send(["last"])
    one.close()
    wait_for([other], 5.0)
    assert other.receive() == [["last"]]
    assert other.receive() == []
    assert other.is_closed
    other.send(["to nobody"])
    assert other.flush()


@pytest.mark.parametrize("garbage", [b"\0\0\0\2{]", b"\0\0\0\2{}", b"\0\0\0\1\xff", b"\0\0\0\2[]"])
def test_what_is_no_message_is_a_value_error(garbage):
    one, other = socket.socketpair()
    one.send(garbage)
    with pytest.raises(ValueError):  # noqa: PT011  (of three kinds)
        Channel(other).receive()


def test_blocks_are_the_same_memory_on_both_sides_and_reused():
    one, other = Channel.pair()
    mine, theirs = SharedBuffers(one), MappedBuffers()
    blocks = [mine.take(size) for size in (0, 3, 4096, 4097, 3 << 20)]
    for _, length in other.receive() + other.receive() + other.receive():
        theirs.add(other.take_file(), length)
    for number, block in enumerate(blocks):
        block.content.fill_(number)
        view = theirs.view(block.segment, block.offset, len(block.content))
        assert view.tolist()[:: len(view) - 1] == [number, number]
    small = blocks[1]
    theirs.view(small.segment, small.offset, 8, torch.float32).copy_(torch.tensor([1.5, 2.5]))
    assert small.content[:8].view(torch.float32).tolist() == [1.5, 2.5]
    mine.give_back(small)
    assert mine.take(100)[:2] == small[:2]
    assert other.receive() == []  # no new segment
    for place in ((9, 0, 1), (0, -8, 8), (0, 0, 1 << 30), (-1, 0, 1)):
        with pytest.raises(ValueError, match="not shared"):
            theirs.view(*place)
