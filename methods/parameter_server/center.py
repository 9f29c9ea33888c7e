"""The center of the asynchronous methods: one rank owns it, and serves the others from its poll points.

A rank sends a vector, the owner applies the method's rule to the center and sends another vector back. Both messages
are non-blocking, so a rank can compute in between, and no rank ever waits for another one but the owner. The owner
serves in every wait, at every step and, where the method asks for it, at every gradient of its own backward pass: so
this works between hosts, where a one-sided access would wait for its target anyway.

A rank that has done its steps says so (`leave`), and goes on to serve, if it is the owner, until all have; a rank that
asks again is back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atoll.communication.communicator import Communicator, Request

OWNER = 0
ASK, ANSWER, LEAVE = 1, 2, 3


class Center:
    """One rank's access to the center.

    Args:
        communicator: the worker's ranks; collective, as the center gets communicators of its own.
        like: a vector such as those that travel; travelling ones stay in host memory.
        rule: called on the owner with the asking rank, what it sends (n,) and where the answer goes (n,).

    Attributes:
        received: on the owner, what each other rank sent last.
        answered: on the owner, what it was told.
    """

    def __init__(self, communicator: Communicator, like: Tensor, rule: Callable[[int, Tensor, Tensor], None]) -> None:
        self._communicator = communicator.split(0, spans="center")
        self._untracked = communicator.split(
            0, ledger=communicator.ledger.untracked()
        )  # leaving is no traffic of the method
        self._rule = rule
        self._sent, self._answer = (torch.empty_like(like, device="cpu") for _ in range(2))
        self._exchange: list[Request] = []
        self._num_asked = 0
        self._num_asked_at_farewell = -1
        self._farewells: list[Request] = []
        self.received: dict[int, Tensor] = {}
        self.answered: dict[int, Tensor] = {}
        self._incoming: list[tuple[int, Request]] = []
        self._outgoing: list[Request] = []
        self._leaving: list[tuple[int, Tensor, Request]] = []
        self._num_served = [0] * communicator.size
        self._num_asked_when_left: list[int | None] = [None] * communicator.size
        if self.is_owner:
            communicator.services.append(self.serve)

    @property
    def is_owner(self) -> bool:
        """Whether this rank holds the center."""
        return self._communicator.rank == OWNER

    # Every rank.

    def ask(self, vector: Tensor) -> None:
        """Start to send `vector` (n,), which may change afterwards, and to receive the answer."""
        assert not self._exchange, "the answer to what was asked before has not been taken"
        self._num_asked += 1
        self._sent.copy_(vector)
        if self.is_owner:
            self.serve()
            self._rule(OWNER, self._sent, self._answer)
            self._num_served[OWNER] += 1
        else:
            self._exchange = [
                self._communicator.start_send(self._sent, OWNER, ASK),
                self._communicator.start_receive(self._answer, OWNER, ANSWER),
            ]

    def answer(self) -> Tensor:
        """Wait for the answer (n,), in host memory; it is overwritten by the next one."""
        for request in self._exchange:
            request.wait()
        self._exchange = []
        return self._answer

    def leave(self) -> None:
        """Say that this rank asks no more for now; saying it twice is saying it once."""
        if self.is_owner:
            self._num_asked_when_left[OWNER] = self._num_asked
        elif self._num_asked != self._num_asked_at_farewell:
            self._farewells.append(self._untracked.start_send(torch.tensor([self._num_asked]), OWNER, LEAVE))
            self._num_asked_at_farewell = self._num_asked

    def meet(self) -> None:
        """Leave, and wait until every rank has; collective."""
        self.leave()
        if self.is_owner:
            self._untracked.wait_until(lambda: len(self.left()) == self._untracked.size and not self._outgoing)
        for farewell in self._farewells:
            farewell.wait()
        self._farewells.clear()
        # From here on nobody has left; before the barrier, so that no new farewell is forgotten.
        self._num_asked_when_left = [None] * self._untracked.size
        self._num_asked_at_farewell = -1
        self._untracked.barrier()

    # The owner.

    def left(self) -> list[int]:
        """The ranks that have left, as far as the owner knows."""
        return [r for r, num in enumerate(self._num_asked_when_left) if num == self._num_served[r]]

    def serve(self) -> None:
        """Answer what has arrived; never waits."""
        trace = self._communicator.ledger.trace
        if trace is None:
            self._serve()
            return
        trace.begin_service()
        trace.end_service(self._serve())

    def _serve(self) -> int:
        """Returns how many have been answered."""
        while (rank := self._communicator.arrived(ASK)) is not None:
            if rank not in self.received:
                self.received[rank], self.answered[rank] = (torch.empty_like(self._sent) for _ in range(2))
            self._incoming.append((rank, self._communicator.start_receive(self.received[rank], rank, ASK)))
        while (rank := self._untracked.arrived(LEAVE)) is not None:
            word = torch.zeros(1, dtype=torch.int64)
            self._leaving.append((rank, word, self._untracked.start_receive(word, rank, LEAVE)))
        self._outgoing = [request for request in self._outgoing if not request.test()]
        num_asking = len(self._incoming)
        self._incoming = [(rank, request) for rank, request in self._incoming if not self._served(rank, request)]
        for entry in [e for e in self._leaving if e[2].test()]:
            rank, word, _ = entry
            self._num_asked_when_left[rank] = int(word)
            self._leaving.remove(entry)
        return num_asking - len(self._incoming)

    def _served(self, rank: int, request: Request) -> bool:
        if not request.test():
            return False
        self._rule(rank, self.received[rank], self.answered[rank])
        self._num_served[rank] += 1
        self._outgoing.append(self._communicator.start_send(self.answered[rank], rank, ANSWER))
        return True
