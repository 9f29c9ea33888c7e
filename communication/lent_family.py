"""The communicators of one trial that are lent to a user's function, and how they end with it.

Arrivals in collectives, messages and requests are counted, so that what is pending when a trial ends can be joined,
received, canceled, or given up, and the communicator lent again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from atoll.communication.lent import Lender
from atoll.communication.mpi import Summary
from atoll.communication.trial_comm import COLLECTIVES, MAKING, ROOT, TOPOLOGIES, TrialComm, TrialRequest
from atoll.communication.world import Family

SETTLING = 5.0  # seconds for what is pending at a trial's end, after which its communicator is given up


class LentFamily(Family):
    """The communicators of one trial that are lent to a function.

    Args:
        lender: this rank.
        give_back: gets the trial's communicator and that of its arrivals if the next trial may have them.
    """

    def __init__(self, lender: Lender, give_back: Callable[[MPI.Intracomm, MPI.Intracomm], None]) -> None:
        self.lender = lender
        self._give_back = give_back
        self._comms: dict[str, TrialComm] = {}
        self._requests: list[TrialRequest] = []
        self._arrivals: list[tuple[MPI.Request, Any]] = []
        self._sent: dict[int, int] = {}  # messages, by the receiver's number in the trial
        self._num_received = 0
        self._num_nonblocking = 0
        self._is_marked = False
        self._waiting_since = 0.0  # for a collective that some ranks may not have started
        self._topologies: list[MPI.Comm] = []
        self._given_up: float | None = None
        self._left: list[str] | None = None  # the communicators that all their ranks still have, once it is known

    def lend(self, plain: MPI.Intracomm, arrivals: MPI.Intracomm) -> TrialComm:
        """The trial's communicator."""
        return TrialComm(plain, arrivals, self, ROOT, range(plain.size))

    def add(self, comm: TrialComm) -> None:
        """Add a communicator."""
        self._comms[comm.label] = comm
        self.lender.arrivals[comm.label] = 0

    def forget(self, comm: TrialComm) -> None:
        """The function has freed it."""
        del self._comms[comm.label]

    def mark(self) -> None:
        """The communicator was changed: no other trial may have it."""
        self._is_marked = True

    # Collectives.

    def arrive(self, comm: TrialComm, what: str) -> Exception | None:
        """Return when all ranks have called the same method; see Lender.arrive.

        Raises:
            RuntimeError: if they have called different ones.
        """
        self.lender.arrivals[comm.label] += 1
        code = _code(what)
        numbers = np.array([code, -code], np.int64)
        request = comm.arrivals_comm.Iallreduce(MPI.IN_PLACE, numbers, MPI.MAX)
        is_here = False

        def all_here() -> bool:
            nonlocal is_here
            is_here = is_here or request.Test()
            return is_here

        try:
            interruption = self.lender.arrive(comm.label, comm.members, all_here, what)
        except BaseException:
            self._arrivals.append((request, numbers))
            raise
        if numbers[0] != -numbers[1]:
            raise interruption or RuntimeError(
                f"the ranks of trial.comm called different collectives at once; this one called {what}"
            )
        return interruption

    def collective(self, comm: TrialComm, what: str, call: Callable[[], Any]) -> Any:
        """A collective, once all ranks have arrived."""
        with self.lender.at_home():
            interruption = self.arrive(comm, what)
            result = call()
        if interruption is not None:
            raise interruption
        return result

    def part(self, comm: TrialComm, what: str, call: Callable[[], MPI.Intracomm]) -> Any:
        """A communicator that the function makes of another one."""
        with self.lender.at_home():
            interruption = self.arrive(comm, what)
            made = call()
            comm.num_made += 1
            if made != MPI.COMM_NULL:
                world, here = comm.members, made.Get_group()
                own = comm.Get_group()
                ranks = MPI.Group.Translate_ranks(here, list(range(here.size)), own)
                members = [world[rank] for rank in ranks]
                # Parts of one split have different first ranks.
                label = f"{comm.label}.{comm.num_made}/{members[0]}"
                made = TrialComm(made, made.Dup(), self, label, members)
                here.Free()
                own.Free()
        if interruption is not None:
            raise interruption
        return made

    def topology(self, comm: TrialComm, what: str, call: Callable[[], MPI.Comm]) -> Any:
        """A communicator with a topology, which ends with the trial."""
        made = self.collective(comm, what, call)
        self._topologies.append(made)
        return made

    def nonblocking(self, comm: TrialComm, request: MPI.Request, buffers: Any) -> TrialRequest:
        """A collective that the function completes by itself."""
        self._num_nonblocking += 1
        return self._track(TrialRequest(request, self, "collective", buffers, comm.members))

    # Messages.

    def send(self, comm: TrialComm, request: MPI.Request, dest: int, buffer: Any) -> TrialRequest:
        """A message that is on its way."""
        if dest == MPI.PROC_NULL:
            return self._track(TrialRequest(request, self, "nothing", buffer))
        receiver = comm.members[dest]
        self._sent[receiver] = self._sent.get(receiver, 0) + 1
        return self._track(TrialRequest(request, self, "send", buffer, (receiver,)))

    def receive(self, comm: TrialComm, request: MPI.Request, source: int) -> TrialRequest:
        """A message that is expected."""
        if source == MPI.PROC_NULL:
            return self._track(TrialRequest(request, self, "nothing", None))
        senders = comm.members if source == MPI.ANY_SOURCE else (comm.members[source],)
        return self._track(TrialRequest(request, self, "receive", None, senders))

    def finish(self, request: TrialRequest, what: str) -> None:
        """Return when a message has left."""
        self.lender.wait(
            lambda: MPI.Request.Test(request), sources=lambda: self.may_act(request), what=f"trial.comm.{what}"
        )

    def message(
        self, comm: TrialComm, source: int, tag: int, what: str, status: Any = None, *, of_object: bool = False
    ) -> MPI.Message:
        """The next message of a source, once it is there; mpi4py receives objects with a buffer of its own."""
        found: list[MPI.Message] = []
        probe = MPI.Intracomm.improbe if of_object else MPI.Intracomm.Improbe

        def is_there() -> bool:
            message = probe(comm, source, tag, status)
            if message is not None:
                found.append(message)
            return bool(found)

        self.lender.wait(is_there, sources=lambda: self.may_send(comm, source), what=f"trial.comm.{what}")
        self.taken(found[0])
        return found[0]

    def taken(self, message: MPI.Message | None) -> MPI.Message | None:
        """Count a message."""
        if message is not None and message != MPI.MESSAGE_NO_PROC:
            self._num_received += 1
        return message

    def may_send(self, comm: TrialComm, source: int) -> bool:
        """Whether a source may still send: its function has not returned."""
        senders = comm.members if source == MPI.ANY_SOURCE else (comm.members[source],) if source >= 0 else ()
        return not senders or any(rank not in self.lender.returned for rank in senders)

    def may_act(self, request: TrialRequest) -> bool:
        """Whether a request may still complete: somebody has not returned whom it needs.

        Of a collective nobody knows whether those that have returned had started it: it gets some seconds.
        """
        returned = [rank for rank in request.peers if rank in self.lender.returned]
        if not returned or not request.peers:
            return True
        if request.kind != "collective":
            return len(returned) < len(request.peers)
        self._waiting_since = self._waiting_since or time.monotonic()
        return time.monotonic() - self._waiting_since < SETTLING

    def _track(self, request: TrialRequest) -> TrialRequest:
        if len(self._requests) >= 256:
            self._forget_complete()
        self._requests.append(request)
        return request

    def _forget_complete(self) -> None:
        pending = []
        for request in self._requests:
            if request != MPI.REQUEST_NULL:
                pending.append(request)
            elif request.kind == "receive" and not request.was_canceled:
                self._num_received += 1
        self._requests = pending

    # The trial's end.

    def summaries(self) -> dict[str, Any]:
        """What this rank has posted: all in one, as messages are counted over all communicators."""
        for request in self._requests:
            if request.kind == "send" and request != MPI.REQUEST_NULL:
                MPI.Request.Test(request)
        self._forget_complete()
        num_left = len(self._requests) + len(self._arrivals) + len(self._comms) - 1 + self._is_marked
        entered = sum(self.lender.arrivals[name] for name in self._comms) + self._num_nonblocking
        unmatched = sum(self._sent.values()) - self._num_received
        return {ROOT: Summary(self._comms[ROOT].size, entered, unmatched, num_left)}

    def posted(self) -> dict[str, dict[str, Any]]:
        """This rank's communicators and how often it has arrived on each, its messages, and its collectives."""
        return {
            ROOT: {
                "arrivals": {name: self.lender.arrivals[name] for name in self._comms},
                "sent": dict(self._sent),
                "nonblocking": self._num_nonblocking,
                "members": {name: comm.members for name, comm in self._comms.items()},
            }
        }

    def settle(self, reports: Sequence[dict[str, dict[str, Any]]]) -> bool:
        """Join the arrivals of others, and receive or cancel messages; what is pending after SETTLING is given up.

        So are non-blocking collectives that not all ranks have started. Their communicator is never freed; MPICH has
        about 2,000, and after as many such trials the ranks fail, and are started again.
        """
        of_ranks = [report[ROOT] for report in reports]
        if self._given_up is None:
            self._given_up = time.monotonic() + SETTLING
            self._is_marked = True
            self._left = _held_by_all(of_ranks)
            self._join_arrivals(of_ranks)
            for request in self._requests:
                if request.kind == "receive" and request != MPI.REQUEST_NULL and not request.was_canceled:
                    self._end_receive(request)
            self._forget_complete()
        me = self._comms[ROOT].rank
        expected = sum(report["sent"].get(me, 0) for report in of_ranks)
        for comm in self._comms.values():
            while self._num_received < expected and self._swallow(comm):
                pass
        self._arrivals = [(request, numbers) for request, numbers in self._arrivals if not request.Test()]
        for request in self._requests:
            if request != MPI.REQUEST_NULL and request.kind != "collective":
                MPI.Request.Test(request)
        is_even = len({report["nonblocking"] for report in of_ranks}) == 1
        if is_even:
            self._test_collectives()
        self._forget_complete()
        pending = [request for request in self._requests if is_even or request.kind != "collective"]
        is_settled = not self._arrivals and not pending and self._num_received >= expected
        if (self._requests and is_settled) or time.monotonic() > self._given_up:
            self._left = []  # not freed: MPI would wait, or crash
            return True
        return is_settled

    def _join_arrivals(self, of_ranks: Sequence[dict[str, Any]]) -> None:
        for name, comm in self._comms.items():
            most = max(report["arrivals"].get(name, 0) for report in of_ranks)
            for _ in range(most - self.lender.arrivals[name]):
                numbers = np.zeros(2, np.int64)
                self._arrivals.append((comm.arrivals_comm.Iallreduce(MPI.IN_PLACE, numbers, MPI.MAX), numbers))

    def _end_receive(self, request: TrialRequest) -> None:
        status = MPI.Status()
        request.was_canceled = True
        MPI.Request.Cancel(request)
        MPI.Request.Wait(request, status)  # local, once it is canceled
        if not status.Is_cancelled():
            self._num_received += 1

    def _swallow(self, comm: TrialComm) -> bool:
        status = MPI.Status()
        message = MPI.Intracomm.Improbe(comm, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if message is None:
            return False
        self._num_received += 1
        size = status.Get_count(MPI.BYTE)
        message.Recv([bytearray(max(size, 0)), MPI.BYTE])
        return True

    def _test_collectives(self) -> None:
        for request in self._requests:
            if request != MPI.REQUEST_NULL and request.kind == "collective":
                MPI.Request.Test(request)

    def close(self) -> None:
        """Give the communicators back to the next trial, free them, or leave them as they are."""
        for topology in self._topologies:
            if topology != MPI.COMM_NULL and (not self._is_marked or self._left):
                topology.Free()
        own = self._comms.pop(ROOT)
        if not self._is_marked:
            self._give_back(MPI.Intracomm(own), own.arrivals_comm)
            return
        for name, comm in [*self._comms.items(), (ROOT, own)]:
            if self._left is not None and name in self._left:
                MPI.Intracomm.Free(comm)
                comm.arrivals_comm.Free()
        self._comms.clear()


def _held_by_all(of_ranks: Sequence[dict[str, Any]]) -> list[str]:
    """The communicators that none of their ranks has freed, in one order for all."""
    held = []
    for name in sorted({name for report in of_ranks for name in report["arrivals"]}):
        members = next(report["members"][name] for report in of_ranks if name in report["members"])
        if all(name in of_ranks[rank]["arrivals"] for rank in members):
            held.append(name)
    return sorted(held, key=lambda name: (-name.count("."), name))  # the trial's own comes last


@functools.cache
def _code(what: str) -> int:
    """A number for a method's name, the same in every process."""
    return 1 + sorted({*COLLECTIVES, *TOPOLOGIES, *MAKING, "Free", "checkpoint"}).index(what)
