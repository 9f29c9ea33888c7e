"""Messages between ranks that never block the sender: Python objects over an MPI communicator.

Propulate's blocking sends freeze a worker whose peer is inside a long evaluation, and deadlock two equal workers once
an individual exceeds the eager limit. Here sends are non-blocking, and their requests are kept until they complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpi4py import MPI


class Mailbox:
    """A communicator whose `send` returns at once."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self.rank = comm.rank
        self.size = comm.size
        self._status = MPI.Status()
        self._pending: list[tuple[MPI.Request, bytes]] = []  # mpi4py's request does not keep its buffer alive
        self._sweep_at = self.SWEEP

    # Requests are tested in sweeps, the next at twice the number left pending: amortized constant cost per send.
    SWEEP = 16

    def send(self, obj: Any, dest: int, tag: int) -> None:
        """Start to send a Python object."""
        self.send_to((dest,), obj, tag)

    def send_to(self, ranks: Iterable[int], obj: Any, tag: int) -> None:
        """Start to send a Python object to several ranks; it is pickled once."""
        data = MPI.pickle.dumps(obj)
        if len(self._pending) >= self._sweep_at:
            self.all_sent()
            self._sweep_at = 2 * len(self._pending) + self.SWEEP
        self._pending += [(self.comm.Isend((data, MPI.BYTE), dest, tag), data) for dest in ranks]

    def others(self) -> list[int]:
        """All ranks but this one."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def take(self, tag: int, source: int = MPI.ANY_SOURCE) -> tuple[int, Any] | None:
        """Sender and content of the next message with `tag`, or None if none has arrived."""
        message = self.comm.improbe(source, tag, self._status)
        return None if message is None else (self._status.Get_source(), message.recv())

    def all_sent(self) -> bool:
        """Whether every message has left this rank."""
        self._pending = [(request, data) for request, data in self._pending if not request.Test()]
        return not self._pending

    def close(self) -> None:
        """Free the communicator. Nothing may be pending."""
        assert self.all_sent(), "messages are pending"
        self.comm.Free()
