"""The center of the asynchronous methods: one rank owns it and serves the others, as a parameter server.

A rank sends a vector; the owner applies the method's rule to the center and sends another vector back. Both messages
are non-blocking, so a rank can compute in between, and no rank ever waits for any but the owner. The owner serves in
every wait, at every step and, if the method asks for it, at every gradient of its own backward pass. This works between
hosts, where a one-sided access would wait for its target anyway.

The owner trains as the others do, and answers late while it is in one long operation, such as loading data. A dedicated
owner (`server: dedicated`) only serves, as the master of Zhang 2016, section 2.2: it takes no batches and has no
replica. Its steps are those of the other ranks on average, so that schedules and averages at the center keep pace.

A rank that has finished its steps departs: it tells the owner so. The owner serves until all have departed. A rank that
asks again is back. Departures and requests travel apart and may overtake each other, so a departure carries the number
of requests that precede it:

    a rank       ASK 1   ASK 2   DEPARTURE after 2             ASK 3
    the owner    at work                          departed     at work    (departed once requests 1 and 2 are answered)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.communication.communicator import Communicator, Request

OWNER = 0
ASK, ANSWER, DEPARTURE = 1, 2, 3  # tags

Rule = Callable[[int, Tensor, Tensor], None]


@dataclass
class Client:
    """A rank, as the parameter server knows it.

    Attributes:
        received: (n,) the last request of another rank than the owner; None before the first.
        answered: (n,) the answer to it.
        num_served: requests answered.
        departure: the number of requests after which the rank departed; None for a rank at work.
    """

    received: Tensor | None = None
    answered: Tensor | None = None
    num_served: int = 0
    departure: int | None = None

    @property
    def has_departed(self) -> bool:
        """Whether the rank has departed and asked nothing since."""
        return self.departure == self.num_served


@dataclass
class _Departure:
    """A departure that is being received."""

    rank: int
    num_asked: Tensor
    request: Request


class ParameterServer:
    """The owner's side of a center.

    Args:
        communicator: carries requests and answers.
        untracked: carries departures, which do not count as the method's traffic.
        like: (n,) in host memory, a vector like those that travel.
        rule: see Center.
        ranks: those that it serves.

    Attributes:
        clients: by rank.
    """

    def __init__(
        self, communicator: Communicator, untracked: Communicator, like: Tensor, rule: Rule, ranks: Iterable[int]
    ) -> None:
        self.clients = {rank: Client() for rank in ranks}
        self._communicator = communicator
        self._untracked = untracked
        self._like = like
        self._rule = rule
        self._incoming: list[tuple[int, Request]] = []
        self._outgoing: list[Request] = []
        self._departures: list[_Departure] = []

    def departed(self) -> list[int]:
        """The ranks that have departed, as far as the owner knows."""
        return [rank for rank, client in self.clients.items() if client.has_departed]

    @property
    def num_served(self) -> int:
        """Requests answered, of all ranks."""
        return sum(client.num_served for client in self.clients.values())

    def is_done(self) -> bool:
        """Whether every rank has departed with its last answer."""
        return len(self.departed()) == len(self.clients) and not self._outgoing

    def forget_departures(self) -> None:
        """All ranks are at work again."""
        for client in self.clients.values():
            client.departure = None

    def ask(self, request: Tensor, answer: Tensor) -> None:
        """Serve the others, then the owner itself: its `request` (n,) is answered in `answer` (n,) at once."""
        self.serve()
        self._rule(OWNER, request, answer)
        self.clients[OWNER].num_served += 1

    def serve(self) -> None:
        """Answer what has arrived; never waits."""
        trace = self._communicator.ledger.trace
        if trace is None:
            self._serve()
            return
        trace.begin_service()
        trace.end_service(self._serve())

    def _serve(self) -> int:
        """Returns the number of answers."""
        while (rank := self._communicator.arrived(ASK)) is not None:
            self._incoming.append((rank, self._communicator.start_receive(self._buffer(rank), rank, ASK)))
        while (rank := self._untracked.arrived(DEPARTURE)) is not None:
            num_asked = torch.zeros(1, dtype=torch.int64)
            receiving = self._untracked.start_receive(num_asked, rank, DEPARTURE)
            self._departures.append(_Departure(rank, num_asked, receiving))
        self._outgoing = [request for request in self._outgoing if not request.test()]
        num_asking = len(self._incoming)
        self._incoming = [(rank, request) for rank, request in self._incoming if not self._is_answered(rank, request)]
        for departure in [departure for departure in self._departures if departure.request.test()]:
            self.clients[departure.rank].departure = int(departure.num_asked)
            self._departures.remove(departure)
        return num_asking - len(self._incoming)

    def _buffer(self, rank: int) -> Tensor:
        """Where the next request of `rank` goes."""
        client = self.clients[rank]
        if client.received is None:
            client.received, client.answered = (torch.empty_like(self._like) for _ in range(2))
        return client.received

    def _is_answered(self, rank: int, request: Request) -> bool:
        """Answer a request if it has arrived."""
        if not request.test():
            return False
        client = self.clients[rank]
        assert client.received is not None
        assert client.answered is not None
        self._rule(rank, client.received, client.answered)
        client.num_served += 1
        self._outgoing.append(self._communicator.start_send(client.answered, rank, ANSWER))
        return True


class Center:
    """One rank's access to the center.

    Args:
        communicator: the worker's ranks; collective, as the center gets communicators of its own.
        like: (n,) a vector like those that travel; those stay in host memory.
        rule: called on the owner with the asking rank, its request (n,) and where the answer goes (n,).
        is_dedicated: whether the owner only serves.

    Attributes:
        server: on the owner, the parameter server; None on other ranks.
        only_serves: whether this rank does.
    """

    def __init__(self, communicator: Communicator, like: Tensor, rule: Rule, *, is_dedicated: bool = False) -> None:
        self._communicator = communicator.split(0, spans="center")
        self._untracked = communicator.split(0, ledger=communicator.ledger.untracked())
        self._request, self._answer = (torch.empty_like(like, device="cpu") for _ in range(2))
        self._exchange: list[Request] = []
        self._num_asked = 0
        self._departed_after: int | None = None  # the number of requests before the last departure
        self._departures: list[Request] = []
        self.server: ParameterServer | None = None
        self.only_serves = is_dedicated and communicator.rank == OWNER
        self._num_due = 0  # requests by the end of a dedicated owner's step
        if communicator.rank == OWNER:
            clients = [rank for rank in range(communicator.size) if rank != OWNER or not is_dedicated]
            self.server = ParameterServer(self._communicator, self._untracked, self._request, rule, clients)
            communicator.services.append(self.server.serve)

    def serve_step(self, *, exchanges: bool) -> None:
        """Take a dedicated owner's step: return when all others have, on average, sent their requests of this step.

        Args:
            exchanges: whether each of them sends one.
        """
        server = self.server
        assert server is not None
        self._num_due += len(server.clients) if exchanges else 0
        self._communicator.wait_until(lambda: server.num_served >= self._num_due)

    def ask(self, vector: Tensor) -> None:
        """Start to send `vector` (n,), which may change afterwards, and to receive the answer."""
        assert not self._exchange, "the previous answer has not been taken"
        self._num_asked += 1
        self._request.copy_(vector)
        if self.server is not None:
            self.server.ask(self._request, self._answer)
        else:
            self._exchange = [
                self._communicator.start_send(self._request, OWNER, ASK),
                self._communicator.start_receive(self._answer, OWNER, ANSWER),
            ]

    def answer(self) -> Tensor:
        """Wait for the answer (n,), in host memory; the next one overwrites it."""
        for request in self._exchange:
            request.wait()
        self._exchange = []
        return self._answer

    def depart(self) -> None:
        """Announce that this rank asks nothing for now; a second announcement has no effect."""
        if self.only_serves:
            return
        if self.server is not None:
            self.server.clients[OWNER].departure = self._num_asked
        elif self._num_asked != self._departed_after:
            self._departures.append(self._untracked.start_send(torch.tensor([self._num_asked]), OWNER, DEPARTURE))
            self._departed_after = self._num_asked

    def meet(self) -> None:
        """Depart, and wait until every rank has; collective. Afterwards all are at work again."""
        self.depart()
        if self.server is not None:
            self._untracked.wait_until(self.server.is_done)
        for departure in self._departures:
            departure.wait()
        self._departures.clear()
        # Before the barrier, so that no new departure is forgotten.
        self._departed_after = None
        if self.server is not None:
            self.server.forget_departures()
        self._untracked.barrier()
