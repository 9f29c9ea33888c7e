"""`trial.comm` over MPI: an mpi4py communicator that is lent to a user's function for one trial.

It is an `MPI.Intracomm`, to be given to any library. The methods that wait are replaced by ones that can be
interrupted, so that a rank whose peer has failed leaves, and nothing stays pending when the trial ends:

- A collective starts when all ranks have arrived: an all-reduce on a communicator of its own that each rank tests. What
  may stay pending after an abort is then this one operation, of two numbers, which the other ranks can join. It also
  tells whether all ranks have called the same method.
- A message is sent without blocking, and received when it is there (a matched probe).

What a library does on the communicator in C, and waits for several requests at once (`Waitall`), cannot be interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from mpi4py import MPI

if TYPE_CHECKING:
    from atoll.communication.lent_family import LentFamily

TOPOLOGIES = ("Create_cart", "Create_graph", "Create_dist_graph", "Create_dist_graph_adjacent")
# What makes something that would outlive the trial, or is waited for where nothing can interrupt.
REFUSED = (
    "Idup", "Idup_with_info", "Create_group", "Create_intercomm", "Spawn", "Spawn_multiple", "Accept", "Connect",
    "Join", "Send_init", "Ssend_init", "Bsend_init", "Rsend_init", "Recv_init", "Psend_init", "Precv_init",
)  # fmt: skip
COLLECTIVES = (
    "Barrier", "Bcast", "Gather", "Gatherv", "Scatter", "Scatterv", "Allgather", "Allgatherv", "Alltoall", "Alltoallv",
    "Alltoallw", "Reduce", "Allreduce", "Reduce_scatter", "Reduce_scatter_block", "Scan", "Exscan",
    "barrier", "bcast", "gather", "scatter", "allgather", "alltoall", "reduce", "allreduce", "scan", "exscan",
)  # fmt: skip
MAKING = ("Dup", "Clone", "Dup_with_info", "Split", "Split_type", "Create")
SENDS = {
    "Send": "Isend", "Ssend": "Issend", "Bsend": "Ibsend", "Rsend": "Irsend",
    "send": "isend", "ssend": "issend", "bsend": "ibsend",
}  # fmt: skip
NONBLOCKING_COLLECTIVES = (
    "Ibarrier", "Ibcast", "Igather", "Igatherv", "Iscatter", "Iscatterv", "Iallgather", "Iallgatherv", "Ialltoall",
    "Ialltoallv", "Ialltoallw", "Ireduce", "Iallreduce", "Ireduce_scatter", "Ireduce_scatter_block", "Iscan", "Iexscan",
)  # fmt: skip
# What changes a communicator: the next trial gets another one.
MARKING = ("Set_attr", "Set_errhandler", "Set_info", "Set_name")

ROOT = "comm"  # the name of the trial's own communicator


class TrialComm(MPI.Intracomm):
    """A trial's communicator, or one that the function has made of it."""

    def __new__(cls, plain: MPI.Intracomm, *_: Any, **__: Any) -> TrialComm:
        """Take over the communicator's handle."""
        made: TrialComm = super().__new__(cls, plain)
        return made

    def __init__(
        self, plain: MPI.Intracomm, arrivals: MPI.Intracomm, family: LentFamily, name: str, members: Sequence[int]
    ) -> None:
        self.of_trial = family
        self.label = name
        self.members = tuple(members)
        self.arrivals_comm = arrivals
        self.num_made = 0
        family.add(self)

    def Free(self) -> None:
        """Free it, on all of its ranks; the trial's own is freed when the trial ends."""
        if self.label == ROOT:
            self.of_trial.mark()
            return
        self.of_trial.collective(self, "Free", self._free)

    free = Free

    def _free(self) -> None:
        self.of_trial.forget(self)
        MPI.Intracomm.Free(self)
        self.arrivals_comm.Free()

    def Abort(self, errorcode: int = 0) -> NoReturn:
        """Fail this trial, and no other."""
        raise RuntimeError(f"trial.comm.Abort({errorcode}) was called")

    def together(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, which is collective, once all ranks are here."""
        return self.of_trial.collective(self, "checkpoint", call)

    # Messages.

    def Recv(self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> None:
        """Receive into a buffer."""
        with self.of_trial.lender.at_home():
            self.of_trial.message(self, source, tag, "Recv").Recv(buf, status)

    def recv(self, buf: Any = None, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> Any:
        """Receive an object."""
        with self.of_trial.lender.at_home():
            return self.of_trial.message(self, source, tag, "recv", of_object=True).recv(status)

    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: Any = None,
    ) -> None:
        """Send and receive buffers."""
        with self.of_trial.lender.at_home():
            request = self.of_trial.send(self, MPI.Intracomm.Isend(self, sendbuf, dest, sendtag), dest, sendbuf)
            self.of_trial.message(self, source, recvtag, "Sendrecv").Recv(recvbuf, status)
            self.of_trial.finish(request, "Sendrecv")

    def sendrecv(
        self,
        sendobj: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: Any = None,
    ) -> Any:
        """Send and receive objects."""
        with self.of_trial.lender.at_home():
            request = self.of_trial.send(self, MPI.Intracomm.isend(self, sendobj, dest, sendtag), dest, None)
            received = self.of_trial.message(self, source, recvtag, "sendrecv", of_object=True).recv(status)
            self.of_trial.finish(request, "sendrecv")
            return received

    def Mprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> MPI.Message:
        """Wait for a message, and take it out of the queue."""
        with self.of_trial.lender.at_home():
            return self.of_trial.message(self, source, tag, "Mprobe", status)

    def mprobe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> MPI.Message:
        """Wait for an object's message, and take it out of the queue."""
        with self.of_trial.lender.at_home():
            return self.of_trial.message(self, source, tag, "mprobe", status, of_object=True)

    def Probe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> Literal[True]:
        """Wait until a message is there."""
        with self.of_trial.lender.at_home():
            self.of_trial.lender.wait(
                lambda: MPI.Intracomm.Iprobe(self, source, tag, status),
                sources=lambda: self.of_trial.may_send(self, source),
                what="trial.comm.Probe",
            )
            return True

    probe = Probe

    def Improbe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> MPI.Message | None:
        """Take a message out of the queue, if one is there."""
        with self.of_trial.lender.at_home():
            return self.of_trial.taken(MPI.Intracomm.Improbe(self, source, tag, status))

    def improbe(self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> MPI.Message | None:
        """Take an object's message out of the queue, if one is there."""
        with self.of_trial.lender.at_home():
            return self.of_trial.taken(MPI.Intracomm.improbe(self, source, tag, status))

    def Irecv(self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG) -> TrialRequest:
        """Start to receive into a buffer."""
        with self.of_trial.lender.at_home():
            return self.of_trial.receive(self, MPI.Intracomm.Irecv(self, buf, source, tag), source)

    def irecv(self, buf: Any = None, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG) -> TrialRequest:
        """Start to receive an object."""
        with self.of_trial.lender.at_home():
            return self.of_trial.receive(self, MPI.Intracomm.irecv(self, buf, source, tag), source)


class TrialRequest(MPI.Request):
    """A request of a trial's communicator; waiting for it can be interrupted."""

    def __new__(cls, plain: MPI.Request, *_: Any) -> TrialRequest:
        """Take over the request's handle."""
        made: TrialRequest = super().__new__(cls, plain)
        return made

    def __init__(
        self, plain: MPI.Request, family: LentFamily, kind: str, buffer: Any, peers: Sequence[int] = ()
    ) -> None:
        self.of_trial = family
        self.peers = tuple(peers)  # who must act for it to complete
        self.kind = kind
        self.buffer = buffer  # MPI needs it until the request completes
        self.was_canceled = False

    def Wait(self, status: Any = None) -> Literal[True]:
        """Return when it is complete."""
        with self.of_trial.lender.at_home():
            self.of_trial.lender.wait(
                lambda: MPI.Request.Test(self, status),
                sources=self._may_complete,
                what="Wait of a request of trial.comm",
            )
        return True

    def wait(self, status: Any = None) -> Any:
        """Return the object that was received when it is complete."""
        result: list[Any] = []

        def done() -> bool:
            is_done, value = MPI.Request.test(self, status)
            result.append(value)
            return bool(is_done)

        with self.of_trial.lender.at_home():
            self.of_trial.lender.wait(done, sources=self._may_complete, what="wait of a request of trial.comm")
        return result[-1]

    def _may_complete(self) -> bool:
        return self.of_trial.may_act(self)

    def Cancel(self) -> None:
        """Cancel it, if it is not complete."""
        self.was_canceled = True
        super().Cancel()

    cancel = Cancel


def _guard(name: str) -> None:
    plain = getattr(MPI.Intracomm, name)

    @functools.wraps(plain)
    def collective(self: TrialComm, *arguments: Any, **options: Any) -> Any:
        return self.of_trial.collective(self, name, lambda: plain(self, *arguments, **options))

    setattr(TrialComm, name, collective)


def _guard_making(name: str) -> None:
    plain = getattr(MPI.Intracomm, name)

    @functools.wraps(plain)
    def make(self: TrialComm, *arguments: Any, **options: Any) -> Any:
        # Of the plain communicator, as mpi4py makes one of the same class.
        return self.of_trial.part(self, name, lambda: plain(MPI.Intracomm(self), *arguments, **options))

    setattr(TrialComm, name, make)


def _guard_send(name: str, starting: str) -> None:
    plain = getattr(MPI.Intracomm, starting)

    @functools.wraps(getattr(MPI.Intracomm, name))
    def send(self: TrialComm, obj: Any, dest: int, tag: int = 0) -> None:
        with self.of_trial.lender.at_home():
            self.of_trial.finish(self.of_trial.send(self, plain(self, obj, dest, tag), dest, obj), name)

    @functools.wraps(plain)
    def start(self: TrialComm, obj: Any, dest: int, tag: int = 0) -> TrialRequest:
        with self.of_trial.lender.at_home():
            return self.of_trial.send(self, plain(self, obj, dest, tag), dest, obj)

    setattr(TrialComm, name, send)
    setattr(TrialComm, starting, start)


def _guard_nonblocking(name: str) -> None:
    plain = getattr(MPI.Intracomm, name)

    @functools.wraps(plain)
    def start(self: TrialComm, *arguments: Any, **options: Any) -> TrialRequest:
        with self.of_trial.lender.at_home():
            return self.of_trial.nonblocking(self, plain(self, *arguments, **options), (arguments, options))

    setattr(TrialComm, name, start)


def _guard_marking(name: str) -> None:
    plain = getattr(MPI.Intracomm, name)

    @functools.wraps(plain)
    def change(self: TrialComm, *arguments: Any, **options: Any) -> Any:
        self.of_trial.mark()
        return plain(self, *arguments, **options)

    setattr(TrialComm, name, change)


def _guard_topology(name: str) -> None:
    plain = getattr(MPI.Intracomm, name)

    @functools.wraps(plain)
    def make(self: TrialComm, *arguments: Any, **options: Any) -> Any:
        return self.of_trial.topology(self, name, lambda: plain(self, *arguments, **options))

    setattr(TrialComm, name, make)


def _refuse(name: str) -> None:
    @functools.wraps(getattr(MPI.Intracomm, name))
    def refused(self: TrialComm, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"trial.comm.{name} is not supported: what it makes could not be ended with the trial; trial.comm has Dup, "
            "Split, and the methods that send, receive and wait"
        )

    setattr(TrialComm, name, refused)


for _name in COLLECTIVES:
    _guard(_name)
for _name in TOPOLOGIES:
    _guard_topology(_name)
for _name in REFUSED:
    _refuse(_name)
for _name in MAKING:
    _guard_making(_name)
for _name, _starting in SENDS.items():
    _guard_send(_name, _starting)
for _name in NONBLOCKING_COLLECTIVES:
    _guard_nonblocking(_name)
for _name in MARKING:
    _guard_marking(_name)
