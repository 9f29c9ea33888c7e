"""`trial.comm` between threads: mpi4py's methods for objects and for NumPy arrays, without MPI.

For searches in one process (`in_process=True`), of one rank or for debugging. Objects are copied by pickling, as over
MPI. It has what scripts call, and no more: a library that needs an MPI communicator needs ranks over MPI.
"""

from __future__ import annotations

import operator
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from atoll.communication.lent import Lender

# Negative, as MPI's, of which one is that of no rank: MPICH's is -1, and Open MPI's -2.
ANY_SOURCE, ANY_TAG = -1_000_000, -1_000_000


class _Board:
    """What the ranks of one communicator share."""

    def __init__(self, size: int) -> None:
        self.lock = threading.Lock()
        self.size = size
        self.given: dict[int, dict[int, tuple[str, Any]]] = {}
        self.num_taken: dict[int, int] = {}
        self.messages: list[deque[tuple[int, int, Any]]] = [deque() for _ in range(size)]
        self.parts: dict[tuple[int, Any], _Board] = {}


def shared_board(size: int) -> _Board:
    """What the communicators of `size` threads share."""
    return _Board(size)


class ThreadRequest:
    """A request that is complete when its message has left, or is there."""

    def __init__(self, complete: Callable[[bool], tuple[bool, Any]]) -> None:
        self._complete = complete

    def wait(self, status: Any = None) -> Any:
        """Return what was received, once it is there."""
        return self._complete(True)[1]

    def test(self, status: Any = None) -> tuple[bool, Any]:
        """Whether it is complete, and what was received."""
        return self._complete(False)

    def Wait(self, status: Any = None) -> bool:
        """Return when it is complete."""
        return self._complete(True)[0]

    def Test(self, status: Any = None) -> bool:
        """Whether it is complete."""
        return self._complete(False)[0]


class ThreadComm:
    """The communicator of one rank that is a thread.

    Args:
        rank: this rank's number.
        members: the number in the trial of each rank.
        board: what its ranks share.
        lender: this rank.
        name: of the communicator, the same on all of its ranks.
    """

    def __init__(self, rank: int, members: Sequence[int], board: _Board, lender: Lender, name: str = "comm") -> None:
        self.rank, self.size = rank, board.size
        self.name = name
        self._members = tuple(members)
        self._board = board
        self._lender = lender
        self._num_parts = 0
        self._expected: deque[Callable[[], bool]] = deque()
        lender.arrivals[name] = 0

    def Get_rank(self) -> int:
        """This rank's number."""
        return self.rank

    def Get_size(self) -> int:
        """The number of ranks."""
        return self.size

    def together(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, on all ranks, once all are here."""
        self._exchange("checkpoint", None)
        return call()

    # Collectives on objects.

    def _exchange(self, what: str, mine: Any) -> list[Any]:
        """What every rank gives, in the order of the ranks."""
        with self._lender.at_home():
            self._lender.arrivals[self.name] += 1
            number, board = self._lender.arrivals[self.name], self._board
            with board.lock:
                given = board.given.setdefault(number, {})
                given[self.rank] = (what, pickle.dumps(mine))
            all_here = lambda: len(given) == board.size  # noqa: E731
            interruption = self._lender.arrive(self.name, self._members, all_here, what)
            with board.lock:
                board.num_taken[number] = board.num_taken.get(number, 0) + 1
                if board.num_taken[number] == board.size:
                    del board.given[number], board.num_taken[number]
        if interruption is not None:
            raise interruption
        if len({called for called, _ in given.values()}) > 1:
            raise RuntimeError(f"the ranks of trial.comm called different collectives at once; this one called {what}")
        return [pickle.loads(given[rank][1]) for rank in range(board.size)]

    def barrier(self) -> None:
        """Return when all ranks have called this."""
        self._exchange("barrier", None)

    Barrier = barrier

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """The object of `root`, on all ranks."""
        return self._exchange("bcast", obj if self.rank == root else None)[root]

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        """The objects of all ranks, on `root`."""
        every = self._exchange("gather", sendobj)
        return every if self.rank == root else None

    def allgather(self, sendobj: Any) -> list[Any]:
        """The objects of all ranks."""
        return self._exchange("allgather", sendobj)

    def scatter(self, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        """This rank's element of what `root` gives."""
        return self._exchange("scatter", sendobj if self.rank == root else None)[root][self.rank]

    def alltoall(self, sendobj: Sequence[Any]) -> list[Any]:
        """What each rank has for this one."""
        return [every[self.rank] for every in self._exchange("alltoall", list(sendobj))]

    def allreduce(self, sendobj: Any, op: Callable[[Any, Any], Any] = operator.add) -> Any:
        """The objects of all ranks, combined in their order. Default: their sum."""
        return reduce(op, self._exchange("allreduce", sendobj))

    def reduce(self, sendobj: Any, op: Callable[[Any, Any], Any] = operator.add, root: int = 0) -> Any:
        """The objects of all ranks, combined in their order, on `root`. Default: their sum."""
        every = self._exchange("reduce", sendobj)
        return reduce(op, every) if self.rank == root else None

    def scan(self, sendobj: Any, op: Callable[[Any, Any], Any] = operator.add) -> Any:
        """The objects of the ranks up to this one, combined."""
        return reduce(op, self._exchange("scan", sendobj)[: self.rank + 1])

    def exscan(self, sendobj: Any, op: Callable[[Any, Any], Any] = operator.add) -> Any:
        """The objects of the ranks before this one, combined; None on rank 0."""
        before = self._exchange("exscan", sendobj)[: self.rank]
        return reduce(op, before) if before else None

    # Collectives on arrays.

    def Bcast(self, buf: Any, root: int = 0) -> None:
        """Fill an array with that of `root`."""
        _fill(buf, self._exchange("Bcast", _array(buf) if self.rank == root else None)[root])

    def Allreduce(self, sendbuf: Any, recvbuf: Any, op: Callable[[Any, Any], Any] = operator.add) -> None:
        """Combine the arrays of all ranks element by element. Default: their sum."""
        every = self._exchange("Allreduce", _array(_source(sendbuf, recvbuf)))
        _fill(recvbuf, reduce(_elementwise(op), every))

    def Reduce(self, sendbuf: Any, recvbuf: Any, op: Callable[[Any, Any], Any] = operator.add, root: int = 0) -> None:
        """Combine the arrays of all ranks element by element, on `root`. Default: their sum."""
        every = self._exchange("Reduce", _array(_source(sendbuf, recvbuf)))
        if self.rank == root:
            _fill(recvbuf, reduce(_elementwise(op), every))

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:
        """The arrays of all ranks, one after another."""
        _fill(recvbuf, np.concatenate([every.reshape(-1) for every in self._exchange("Allgather", _array(sendbuf))]))

    def Gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:
        """The arrays of all ranks, one after another, on `root`."""
        every = self._exchange("Gather", _array(sendbuf))
        if self.rank == root:
            _fill(recvbuf, np.concatenate([one.reshape(-1) for one in every]))

    def Scatter(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:
        """This rank's part of the array of `root`."""
        whole = self._exchange("Scatter", _array(sendbuf) if self.rank == root else None)[root]
        _fill(recvbuf, np.split(whole.reshape(-1), self.size)[self.rank])

    def Alltoall(self, sendbuf: Any, recvbuf: Any) -> None:
        """Each rank's part for this one, one after another."""
        every = self._exchange("Alltoall", _array(sendbuf))
        _fill(recvbuf, np.concatenate([np.split(one.reshape(-1), self.size)[self.rank] for one in every]))

    # Messages.

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Send an object."""
        if dest == _proc_null():
            return
        with self._lender.at_home(), self._board.lock:
            self._board.messages[self._known(dest)].append((self.rank, tag, pickle.dumps(obj)))

    def recv(self, buf: Any = None, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> Any:
        """Receive an object."""
        return self._post(source, tag, status).wait()

    def Send(self, buf: Any, dest: int, tag: int = 0) -> None:
        """Send an array."""
        self.send(_array(buf), dest, tag)

    def Recv(self, buf: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG, status: Any = None) -> None:
        """Fill an array with a message."""
        if source != _proc_null():
            _fill(buf, self.recv(None, source, tag, status))

    def sendrecv(
        self,
        sendobj: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = ANY_SOURCE,
        recvtag: int = ANY_TAG,
        status: Any = None,
    ) -> Any:
        """Send and receive objects."""
        self.send(sendobj, dest, sendtag)
        return self.recv(None, source, recvtag, status)

    def isend(self, obj: Any, dest: int, tag: int = 0) -> ThreadRequest:
        """Start to send an object."""
        self.send(obj, dest, tag)
        return ThreadRequest(lambda _: (True, None))

    def irecv(self, buf: Any = None, source: int = ANY_SOURCE, tag: int = ANY_TAG) -> ThreadRequest:
        """Start to receive an object."""
        return self._post(source, tag, None)

    def _post(self, source: int, tag: int, status: Any) -> ThreadRequest:
        """Expect a message; those that were expected earlier come first."""
        if source == _proc_null():
            return ThreadRequest(lambda _: (True, None))
        if source >= 0:
            self._known(source)
        found: list[Any] = []

        def take() -> bool:
            if not found and (message := self._take(source, tag)) is not None:
                sender, its_tag, content = message
                found.append(pickle.loads(content))
                if status is not None:
                    status.Set_source(sender)
                    status.Set_tag(its_tag)
            return bool(found)

        def is_there() -> bool:
            while self._expected and self._expected[0]():
                self._expected.popleft()
            for earlier in list(self._expected):  # one that waits for another message does not hold up the others
                if earlier():
                    self._expected.remove(earlier)
            return bool(found)

        def may_come() -> bool:
            senders = self._members if source < 0 else (self._members[source],)
            return any(rank not in self._lender.returned for rank in senders)

        def complete(waits: bool) -> tuple[bool, Any]:
            with self._lender.at_home():
                if waits:
                    self._lender.wait(is_there, sources=may_come, what="trial.comm.recv")
                return is_there(), found[0] if found else None

        self._expected.append(take)
        return ThreadRequest(complete)

    def _known(self, rank: int) -> int:
        if not 0 <= rank < self.size:
            raise ValueError(f"a rank of trial.comm must be 0 to {self.size - 1}; got {rank}")
        return rank

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> ThreadRequest:
        """Start to send an array."""
        return self.isend(_array(buf), dest, tag)

    def Irecv(self, buf: Any, source: int = ANY_SOURCE, tag: int = ANY_TAG) -> ThreadRequest:
        """Start to fill an array with a message."""
        request = self.irecv(None, source, tag)
        is_filled = False

        def complete(waits: bool) -> tuple[bool, Any]:
            nonlocal is_filled
            is_there, value = (True, request.wait()) if waits else request.test()
            if is_there and not is_filled and source != _proc_null():
                is_filled = True
                _fill(buf, value)
            return is_there, None

        return ThreadRequest(complete)

    def _take(self, source: int, tag: int) -> tuple[int, int, bytes] | None:
        """The first message of the source with the tag, if there is one."""
        with self._board.lock:
            waiting = self._board.messages[self.rank]
            for place, (sender, its_tag, message) in enumerate(waiting):
                if (source < 0 or sender == source) and (tag < 0 or its_tag == tag):
                    del waiting[place]
                    return sender, its_tag, message
        return None

    # Parts.

    def Split(self, color: Any = 0, key: int = 0) -> ThreadComm | None:
        """The ranks with the same color, in the order of their keys; None with a negative color."""
        every = self._exchange("Split", (color, key))
        self._num_parts += 1
        if color < 0:
            return None
        order = sorted((key, rank) for rank, (own, key) in enumerate(every) if own == color)
        ranks = [rank for _, rank in order]
        with self._board.lock:
            board = self._board.parts.setdefault((self._num_parts, color), _Board(len(ranks)))
        name = f"{self.name}.{self._num_parts}/{self._members[ranks[0]]}"
        return ThreadComm(ranks.index(self.rank), [self._members[rank] for rank in ranks], board, self._lender, name)

    def Dup(self) -> ThreadComm | None:
        """A communicator of the same ranks."""
        return self.Split(0, self.rank)

    def Free(self) -> None:
        """Nothing to release."""


def _proc_null() -> int | None:
    """MPI's number for no rank, if the function has imported MPI."""
    mpi = sys.modules.get("mpi4py.MPI")
    return None if mpi is None else int(mpi.PROC_NULL)


def _array(buf: Any) -> np.ndarray[Any, Any]:
    """The array of a buffer, which may be [array, type] or [array, count, type], as mpi4py takes them."""
    return np.asarray(buf[0] if isinstance(buf, list | tuple) else buf)


def _source(sendbuf: Any, recvbuf: Any) -> Any:
    """What is sent: the array that is received into, if the other one is no array, such as MPI.IN_PLACE."""
    return sendbuf if isinstance(sendbuf, list | tuple | np.ndarray) else recvbuf


def _fill(buf: Any, values: np.ndarray[Any, Any]) -> None:
    target = _array(buf)
    if target.size < values.size:
        raise ValueError(f"the buffer must have at least {values.size} elements; got {target.size}")
    target.flat[: values.size] = values.flat


def _elementwise(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    if op is operator.add:
        return op
    return lambda a, b: np.frompyfunc(op, 2, 1)(a, b).astype(a.dtype)
