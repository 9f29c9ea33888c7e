"""The communicator for ranks that have a GPU each: NCCL sums and broadcasts CUDA tensors, MPI does everything else.

NCCL's operations are polled like MPI's, so a wait can be interrupted. When a trial is abandoned, pending operations are
aborted as its communicators close; the next trial gets new ones.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from mpi4py import MPI
from torch import Tensor

from atoll.communication.mpi import MpiCommunicator

# torch does not export the types of its stores and backends.
_c10d: Any = torch.distributed
# Our own deadlines end a wait; NCCL's watchdog would end the process.
_NO_TIMEOUT = timedelta(days=365)


def is_available() -> bool:
    """Whether this build of torch has NCCL, and this host a GPU."""
    return torch.cuda.is_available() and torch.distributed.is_available() and torch.distributed.is_nccl_available()


def _open_store(mpi: MPI.Comm) -> Any:
    """A store at rank 0, through which the ranks of a group find one another; collective."""
    host, store = socket.gethostname(), None
    if mpi.rank == 0:
        store = _c10d.TCPStore(host, 0, mpi.size, True, wait_for_workers=False)
    host, port = mpi.bcast((host, store.port if store is not None else 0))
    return store if store is not None else _c10d.TCPStore(host, port, mpi.size, False, wait_for_workers=False)


class NcclCommunicator(MpiCommunicator):
    """A communicator over MPI whose sums and broadcasts of CUDA tensors go through NCCL.

    Args:
        store: through which the ranks find one another. Default: a new one, made collectively.
        mpi, others, keywords: as for MpiCommunicator.
    """

    _sums_on_device = True

    def __init__(self, mpi: MPI.Comm, *others: Any, store: Any = None, **keywords: Any) -> None:
        super().__init__(mpi, *others, **keywords)
        self._store = _open_store(mpi) if store is None else store
        self._group = self._open_group(_c10d.PrefixStore(self.name, self._store))
        self._pending_work: list[Any] = []

    def _open_group(self, store: Any) -> Any:
        options = _c10d.ProcessGroupNCCL.Options()
        options._timeout = _NO_TIMEOUT
        return _c10d.ProcessGroupNCCL(store, self.rank, self.size, options)

    @staticmethod
    def _goes_by_group(buffer: Tensor) -> bool:
        return buffer.is_cuda

    def _post_sum(self, buffer: Tensor) -> Callable[[], bool]:
        if not self._goes_by_group(buffer):
            return super()._post_sum(buffer)
        return self._watch(self._group.allreduce([buffer], _c10d.AllreduceOptions()))

    def _post_broadcast(self, buffer: Tensor, root: int) -> Callable[[], bool]:
        if not self._goes_by_group(buffer):
            return super()._post_broadcast(buffer, root)
        options = _c10d.BroadcastOptions()
        options.rootRank = root
        return self._watch(self._group.broadcast([buffer], options))

    def _watch(self, work: Any) -> Callable[[], bool]:
        self._pending_work.append(work)

        def done() -> bool:
            if work in self._pending_work and work.is_completed():
                self._pending_work.remove(work)
                work.wait()  # raises NCCL's error, if any, and makes the current stream wait for NCCL's
            return work not in self._pending_work

        return done

    def _part(self, *arguments: Any, **keywords: Any) -> NcclCommunicator:
        return type(self)(*arguments, store=self._store, **keywords)

    def close(self) -> None:
        """Abort pending operations, and free the communicator."""
        if self._pending_work:
            self._group.abort()
            self._pending_work.clear()
        super().close()
