"""Messages between ranks that never block the sender: Python objects over an MPI communicator.

Propulate's blocking sends freeze a worker whose peer is inside a long evaluation, and deadlock two equal workers once
an individual exceeds the eager limit. A mailbox has the part of a communicator's interface that Propulate uses, with
`send` as a non-blocking send whose request is kept until it completes.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI


class Mailbox:
    """A communicator whose `send` returns at once."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self.rank = comm.rank
        self.size = comm.size
        self._pending: list[MPI.Request] = []

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Start to send a Python object."""
        self._pending = [request for request in self._pending if not request.Test()]
        self._pending.append(self.comm.isend(obj, dest=int(dest), tag=tag))

    def iprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: MPI.Status | None = None) -> bool:
        """Whether a message has arrived."""
        return self.comm.iprobe(source, tag, status)

    def recv(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG) -> Any:
        """The next message, which has been seen by `iprobe`."""
        return self.comm.recv(source=source, tag=tag)

    def take(self, tag: int, source: int = MPI.ANY_SOURCE) -> tuple[int, Any] | None:
        """Sender and content of the next message with `tag`, or None where none has arrived."""
        status = MPI.Status()
        message = self.comm.improbe(source, tag, status)
        return None if message is None else (status.Get_source(), message.recv())

    def all_sent(self) -> bool:
        """Whether every message has left this rank."""
        self._pending = [request for request in self._pending if not request.Test()]
        return not self._pending

    def close(self) -> None:
        """Free the communicator. Nothing may be pending."""
        assert self.all_sent(), "messages are pending"
        self.comm.Free()
