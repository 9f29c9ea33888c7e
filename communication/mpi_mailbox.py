"""The mailbox over MPI.

Propulate's blocking sends freeze a worker whose peer is inside a long evaluation, and deadlock two equal workers once
an individual exceeds the eager limit. Here a send is a non-blocking one whose request is kept until it completes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mpi4py import MPI

from atoll.communication.mailbox import Mailbox


class MpiMailbox(Mailbox):
    """A mailbox between the ranks of an MPI communicator, which it owns."""

    # Requests are tested in sweeps, each twice as many as were left pending: a constant share of every send.
    SWEEP = 16

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self.rank = comm.rank
        self.size = comm.size
        self._status = MPI.Status()
        self._pending: list[tuple[MPI.Request, bytes]] = []  # the request knows nothing of its buffer
        self._sweep_at = self.SWEEP

    def send_to(self, ranks: Iterable[int], obj: Any, tag: int) -> None:
        """Start to send a Python object to several ranks; it is pickled once."""
        data = MPI.pickle.dumps(obj)
        if len(self._pending) >= self._sweep_at:
            self.all_sent()
            self._sweep_at = 2 * len(self._pending) + self.SWEEP
        self._pending += [(self._comm.Isend((data, MPI.BYTE), dest, tag), data) for dest in ranks]

    def take(self, tag: int, source: int | None = None) -> tuple[int, Any] | None:
        """Sender and content of the next message with `tag`, from `source` or from anyone; None if there is none."""
        message = self._comm.improbe(MPI.ANY_SOURCE if source is None else source, tag, self._status)
        return None if message is None else (self._status.Get_source(), message.recv())

    def all_sent(self) -> bool:
        """Whether every message has left this rank."""
        self._pending = [(request, data) for request, data in self._pending if not request.Test()]
        return not self._pending

    def start_barrier(self) -> Callable[[], bool]:
        """Announce that this rank is here; returns a function that tells whether all are."""
        return self._comm.Ibarrier().Test

    def close(self) -> None:
        """Free the communicator. Nothing may be pending."""
        assert self.all_sent(), "messages are pending"
        self._comm.Free()
