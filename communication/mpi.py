"""The communicator over MPI (mpi4py): host tensors travel without a copy, waits are polled tests.

After an abort some ranks have posted operations that the others have not. An MPI communicator with a pending collective
is never released, and MPICH has about 2,044 of them; so `MpiFamily.settle` lets the ranks that lag join pending
operations with throwaway buffers, and the communicators can be freed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.communication.world import Family

_MPI_TYPES = {
    torch.float64: MPI.DOUBLE,
    torch.float32: MPI.FLOAT,
    torch.int64: MPI.INT64_T,
    torch.int32: MPI.INT32_T,
}


def _sixteen_bit_sum(dtype: torch.dtype) -> MPI.Op:
    # MPI libraries differ in what they do with 16-bit floats (some add the bit patterns), so torch adds them.
    def add(received: Any, accumulated: Any, _: MPI.Datatype) -> None:
        torch.frombuffer(accumulated, dtype=dtype).add_(torch.frombuffer(received, dtype=dtype))

    return MPI.Op.Create(add, commute=True)


_SIXTEEN_BIT_SUMS = {dtype: _sixteen_bit_sum(dtype) for dtype in (torch.float16, torch.bfloat16)}

_DTYPES = {str(dtype): dtype for dtype in (*_MPI_TYPES, *_SIXTEEN_BIT_SUMS)}


def _as_bytes(buffer: Tensor) -> list[Any]:
    return [buffer.reshape(-1).view(torch.uint8).numpy(), MPI.BYTE]


def _as_summands(buffer: Tensor) -> tuple[list[Any], MPI.Op]:
    flat = buffer.reshape(-1)
    if buffer.dtype in _SIXTEEN_BIT_SUMS:
        return [flat.view(torch.int16).numpy(), MPI.INT16_T], _SIXTEEN_BIT_SUMS[buffer.dtype]
    return [flat.numpy(), _MPI_TYPES[buffer.dtype]], MPI.SUM


@dataclass(frozen=True)
class Summary:
    """One rank's operations on a communicator: collectives, messages sent minus received, and those pending."""

    size: int
    num_collectives: int
    num_unmatched: int
    num_pending: int


class MpiFamily(Family):
    """All MPI communicators of one trial: what must be settled and freed together when the trial ends."""

    def __init__(self) -> None:
        self._members: dict[str, MpiCommunicator] = {}

    def add(self, communicator: MpiCommunicator) -> None:
        """Add `communicator` to the family."""
        self._members[communicator.name] = communicator

    def close(self) -> None:
        """Free every communicator. No operation may be pending."""
        for communicator in self._members.values():
            communicator.close()
        self._members.clear()

    def posted(self) -> dict[str, dict[str, Any]]:
        """This rank's operations on each communicator, as plain data, for the ranks of the worker to compare."""
        return {name: communicator.posted() for name, communicator in self._members.items()}

    def summaries(self) -> dict[str, Summary]:
        """The numbers of this rank's operations on each communicator."""
        return {name: communicator.summary() for name, communicator in self._members.items()}

    def settle(self, reports: Sequence[dict[str, dict[str, Any]]]) -> bool:
        """Start the operations that complete every pending one; true when all of them are complete.

        Call it until it returns true on every rank.

        Args:
            reports: the results of `posted` of every rank of the worker.
        """
        settled = [c.settle([r[name] for r in reports if name in r]) for name, c in self._members.items()]
        return all(settled)


class MpiCommunicator(Communicator):
    """A communicator over an MPI communicator that it owns.

    Args:
        mpi: the MPI communicator; freed by `close`.
        nodes: the node of each rank.
        members: the rank in the whole worker of each rank. Default: the same.
        ledger, poll, spin, services: see Communicator.
        family: the communicators that end together.
        name: equal on all ranks of a communicator, and unique among the communicators of a rank.
    """

    LOG_LENGTH = 256
    # A large sum is split into several concurrent collectives: adding one piece overlaps copying the next. On two ranks
    # of one host this halves the wait for 40 MB (docs/results/step.json: mlp_10m, "one piece").
    PIECE_BYTES, MAX_PIECES = 2**20, 32

    def __init__(
        self,
        mpi: MPI.Comm,
        nodes: Sequence[int],
        members: Sequence[int] | None = None,
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        spin: bool,
        services: list[Callable[[], None]] | None = None,
        family: MpiFamily,
        name: str = "0",
    ) -> None:
        super().__init__(
            mpi.rank,
            nodes,
            members or range(len(nodes)),
            ledger=ledger,
            poll=poll,
            spin=spin,
            services=services,
        )
        self.name = name
        self._mpi = mpi
        self._family = family
        self._num_splits = 0
        # mpi4py's non-blocking operations hold no reference to their buffers, and a dropped buffer crashes.
        self._pending: dict[int, tuple[list[MPI.Request], Tensor]] = {}
        self._num_posted = 0
        self._num_collectives = 0
        self._collectives: deque[tuple[str, str, int, int]] = deque(maxlen=self.LOG_LENGTH)
        self._sent: Counter[tuple[int, int]] = Counter()
        self._received: Counter[tuple[int, int]] = Counter()
        self._receives: dict[int, tuple[int, int, int]] = {}
        self._joined = False
        family.add(self)

    def _post_sum(self, buffer: Tensor) -> Callable[[], bool]:
        # The number of pieces depends on the size alone, so it is the same on every rank.
        num_pieces = max(1, min(self.MAX_PIECES, buffer.nbytes // self.PIECE_BYTES))
        requests = []
        for piece in buffer.reshape(-1).tensor_split(num_pieces):
            summands, operation = _as_summands(piece)
            requests.append(self._mpi.Iallreduce(MPI.IN_PLACE, summands, op=operation))
        return self._collective(requests, buffer, ("sum", str(buffer.dtype), buffer.numel(), 0))

    def _post_broadcast(self, buffer: Tensor, root: int) -> Callable[[], bool]:
        request = self._mpi.Ibcast(_as_bytes(buffer), root=root)
        return self._collective([request], buffer, ("broadcast", "", buffer.nbytes, root))

    def _post_all_gather(self, buffer: Tensor) -> Callable[[], bool]:
        request = self._mpi.Iallgather(MPI.IN_PLACE, _as_bytes(buffer))
        return self._collective([request], buffer, ("all_gather", "", buffer.nbytes, 0))

    def _post_barrier(self) -> Callable[[], bool]:
        return self._collective([self._mpi.Ibarrier()], torch.empty(0), ("barrier", "", 0, 0))

    def _post_send(self, buffer: Tensor, destination: int, tag: int) -> Callable[[], bool]:
        self._sent[destination, tag] += 1
        return self._track([self._mpi.Isend(_as_bytes(buffer), dest=destination, tag=tag)], buffer)

    def _post_receive(self, buffer: Tensor, source: int, tag: int) -> Callable[[], bool]:
        self._received[source, tag] += 1
        self._receives[self._num_posted] = (source, tag, self._received[source, tag])
        return self._track([self._mpi.Irecv(_as_bytes(buffer), source=source, tag=tag)], buffer)

    def _arrived(self, tag: int) -> int | None:
        status = MPI.Status()
        return status.source if self._mpi.Iprobe(MPI.ANY_SOURCE, tag, status) else None

    def _start_split(self, color: int, ledger: Ledger) -> Callable[[], Communicator | None]:
        return self._once_all_arrived(lambda: self._split(color, ledger))

    def _split(self, color: int, ledger: Ledger) -> MpiCommunicator:
        colors = self._mpi.allgather(color)
        ranks = [rank for rank, other in enumerate(colors) if other == color]
        name = f"{self.name}.{self._num_splits}/{color}"
        self._num_splits += 1
        return self._part(
            self._mpi.Split(color, self.rank),
            [self.nodes[rank] for rank in ranks],
            [self.members[rank] for rank in ranks],
            ledger=ledger,
            poll=self.poll,
            spin=self.spin,
            services=self.services,
            family=self._family,
            name=name,
        )

    def _part(self, *arguments: Any, **keywords: Any) -> MpiCommunicator:
        """A communicator of the same class."""
        return MpiCommunicator(*arguments, **keywords)

    def close(self) -> None:
        """Free the MPI communicator. No operation may be pending."""
        assert not self._pending, f"{len(self._pending)} operations are pending on communicator {self.name}"
        if self._mpi != MPI.COMM_NULL:
            self._mpi.Free()

    # Pending operations.

    def _collective(
        self, requests: list[MPI.Request], buffer: Tensor, signature: tuple[str, str, int, int]
    ) -> Callable[[], bool]:
        self._num_collectives += 1
        self._collectives.append(signature)
        return self._track(requests, buffer)

    def _track(self, requests: list[MPI.Request], buffer: Tensor) -> Callable[[], bool]:
        number = self._num_posted
        self._num_posted += 1
        self._pending[number] = (requests, buffer)

        def done() -> bool:
            if number in self._pending and MPI.Request.Testall(requests):
                self._forget(number)
            return number not in self._pending

        return done

    def _forget(self, number: int) -> None:
        del self._pending[number]
        self._receives.pop(number, None)

    # Settling after an abort.

    def summary(self) -> Summary:
        """The numbers of this rank's operations."""
        unmatched = self._sent.total() - self._received.total()
        return Summary(self.size, self._num_collectives, unmatched, len(self._pending))

    def posted(self) -> dict[str, Any]:
        """This rank's operations: the newest collectives, their number, and the number of messages to each rank."""
        return {
            "rank": self.rank,
            "num_collectives": self._num_collectives,
            "collectives": list(self._collectives),
            "sent": [[destination, tag, count] for (destination, tag), count in self._sent.items()],
        }

    def settle(self, reports: Sequence[dict[str, Any]]) -> bool:
        """Join the other ranks' operations, and test the pending ones; true when none is left."""
        if not self._joined:
            self._joined = True
            self._join_collectives(reports)
            self._match_messages(reports)
        for number, (requests, _) in list(self._pending.items()):
            if MPI.Request.Testall(requests):
                self._forget(number)
        return not self._pending

    def _join_collectives(self, reports: Sequence[dict[str, Any]]) -> None:
        ahead = max(reports, key=lambda report: report["num_collectives"])
        missing = ahead["num_collectives"] - self._num_collectives
        if missing > len(ahead["collectives"]):
            raise RuntimeError(f"a rank is {missing} collectives behind; the log keeps {self.LOG_LENGTH}")
        for kind, dtype, size, root in ahead["collectives"][len(ahead["collectives"]) - missing :]:
            if kind == "sum":
                self._post_sum(torch.zeros(size, dtype=_DTYPES[dtype]))
            elif kind == "broadcast":
                self._post_broadcast(torch.zeros(size, dtype=torch.uint8), root)
            elif kind == "all_gather":
                self._post_all_gather(torch.zeros(size, dtype=torch.uint8))
            else:
                self._post_barrier()

    def _match_messages(self, reports: Sequence[dict[str, Any]]) -> None:
        sent = {
            (report["rank"], tag): count
            for report in reports
            for destination, tag, count in report["sent"]
            if destination == self.rank
        }
        for number, (source, tag, ordinal) in list(self._receives.items()):
            if ordinal > sent.get((source, tag), 0):
                requests, _ = self._pending[number]
                requests[0].Cancel()
        for (source, tag), count in sent.items():
            for _ in range(count - self._received[source, tag]):
                self._swallow(source, tag)

    def _swallow(self, source: int, tag: int) -> None:
        # The message was posted before its sender reported, so this probe finds it without waiting for a computation.
        status = MPI.Status()
        message = self._mpi.Mprobe(source, tag, status)
        buffer = torch.empty(status.Get_count(MPI.BYTE), dtype=torch.uint8)
        self._track([message.Irecv(_as_bytes(buffer))], buffer)
