"""The world over MPI: every rank is a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from mpi4py import MPI

from atoll.communication.ledger import Ledger
from atoll.communication.lent import Lender
from atoll.communication.lent_family import LentFamily
from atoll.communication.mpi import MpiCommunicator, MpiFamily
from atoll.communication.mpi_mailbox import MpiMailbox
from atoll.communication.trial_comm import TrialComm
from atoll.communication.world import World

Value = TypeVar("Value")


class MpiWorld(World):
    """The ranks of an MPI communicator."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = MPI.Intracomm(comm)
        self._spare: list[tuple[MPI.Intracomm, MPI.Intracomm]] = []  # of a trial that has left nothing pending
        self.rank = comm.rank
        self.size = comm.size

    @property
    def allows_threads(self) -> bool:
        """Whether MPI was started so."""
        return MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def allgather(self, mine: Value) -> list[Value]:
        """What every rank gives, in the order of the ranks."""
        return self._comm.allgather(mine)

    def reordered(self, order: Sequence[int]) -> MpiWorld:
        """The same ranks with other numbers: the first one is `order[0]`, and so on."""
        return MpiWorld(self._comm.Split(0, order.index(self.rank)))

    def split(self, color: int | None) -> MpiWorld | None:
        """The ranks that gave the same color, in the same order; None on ranks that gave None."""
        comm = self._comm.Split(MPI.UNDEFINED if color is None else color, self.rank)
        return None if comm == MPI.COMM_NULL else MpiWorld(comm)

    def mailbox(self) -> MpiMailbox:
        """A mailbox between the ranks, of its own."""
        return MpiMailbox(self._comm.Dup())

    def records_steps(self, devices: Sequence[tuple[str, str]]) -> bool:
        """NCCL's sums end after the kernels before them: what was computing and what waiting cannot be told there."""
        return _kind(devices, devices[self.rank][1]) is MpiCommunicator

    def open(
        self,
        nodes: Sequence[int],
        devices: Sequence[tuple[str, str]],
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        spin: bool,
    ) -> tuple[MpiCommunicator, MpiFamily]:
        """A communicator for one trial, and what ends it."""
        family = MpiFamily()
        kind = _kind(devices, devices[self.rank][1])
        return kind(self._comm.Dup(), nodes, ledger=ledger, poll=poll, spin=spin, family=family), family

    def lend(self, lender: Lender) -> tuple[TrialComm, LentFamily]:
        """A communicator for a user's function; that of the trial before, if it is as it was."""
        family = LentFamily(lender, lambda *spare: self._spare.append(spare))
        pair = self._spare.pop() if self._spare else (self._comm.Dup(), self._comm.Dup())
        return family.lend(*pair), family

    def start_barrier(self) -> Callable[[], bool]:
        """Announce that this rank is here; returns a function that tells whether all are."""
        return self._comm.Ibarrier().Test


def _kind(devices: Sequence[tuple[str, str]], mine: str) -> type[MpiCommunicator]:
    """NCCL where each rank has a GPU to itself; else CUDA tensors are staged in host memory."""
    if not mine.startswith("cuda"):
        return MpiCommunicator
    from atoll.communication import nccl

    torch.cuda.set_device(mine)
    own = {(host, device) for host, device in devices if device.startswith("cuda")}
    return nccl.NcclCommunicator if len(own) == len(devices) and nccl.is_available() else MpiCommunicator
