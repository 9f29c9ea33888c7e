"""`trial.comm` between threads: what differs most easily from MPI."""

import threading
from contextlib import nullcontext

import pytest
from mpi4py import MPI

from atoll.communication.lent import Lender
from atoll.communication.thread_comm import ThreadComm, shared_board


@pytest.fixture
def pair():
    """Two communicators of one board, in one thread."""
    board = shared_board(2)

    def comm(rank):
        lender = Lender(at_home=nullcontext, poll=lambda: None, gives_up=lambda: None, spin=False)
        return ThreadComm(rank, range(2), board, lender)

    return comm(0), comm(1)


def test_no_rank_gets_and_gives_nothing(pair):
    first, second = pair
    first.send("lost", dest=MPI.PROC_NULL)
    assert first.recv(source=MPI.PROC_NULL) is None
    first.send("kept", dest=1)
    assert second.recv() == "kept"  # and nothing of the other one
    with pytest.raises(ValueError, match=r"a rank of trial\.comm must be 0 to 1; got 2"):
        first.send(1, dest=2)


def test_the_status_tells_sender_and_tag(pair):
    first, second = pair
    first.send("x", dest=1, tag=5)
    status = MPI.Status()
    assert second.recv(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status) == "x"
    assert (status.Get_source(), status.Get_tag()) == (0, 5)


def test_messages_go_to_those_who_expected_them_first(pair):
    first, second = pair
    expected = [second.irecv(source=0), second.irecv(source=0)]
    of_a_tag = second.irecv(source=0, tag=9)
    for message in ("a", "b"):
        first.send(message, dest=1)
    assert expected[1].wait() == "b"
    assert expected[0].wait() == "a"
    assert of_a_tag.test() == (False, None)
    first.send("c", dest=1, tag=9)
    assert of_a_tag.wait() == "c"


def test_what_is_sent_is_a_copy(pair):
    first, second = pair
    sent = [1]
    first.send(sent, dest=1)
    sent.append(2)
    assert second.recv() == [1]
    with pytest.raises(TypeError, match="pickle"):
        first.send(threading.Lock(), dest=1)  # as over MPI
