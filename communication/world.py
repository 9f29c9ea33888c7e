"""The ranks of a search as one of them sees them: processes over MPI, or threads of one process.

A world is split into islands and workers. It makes mailboxes for control messages, and for each trial communicators for
tensors, which end with the trial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from atoll.communication.communicator import Communicator, Patience
from atoll.communication.ledger import Ledger
from atoll.communication.lent import Lender
from atoll.communication.mailbox import Mailbox

Value = TypeVar("Value")


class Family(ABC):
    """The communicators of one trial: the worker's, and those split from it.

    After an abort some ranks have posted operations that the others have not. Before the family is closed the ranks
    compare what they have posted; if that is uneven, each calls `settle` until it returns true.
    """

    @abstractmethod
    def summaries(self) -> dict[str, Any]:
        """What this rank has posted on each communicator, in numbers; empty if nothing can be left pending."""

    @abstractmethod
    def posted(self) -> dict[str, dict[str, Any]]:
        """What this rank has posted on each communicator, as plain data."""

    @abstractmethod
    def settle(self, reports: Sequence[dict[str, dict[str, Any]]]) -> bool:
        """Start what it takes to complete every pending operation; true when all of them are complete.

        Args:
            reports: what `posted` returned on every rank of the worker.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the communicators' resources back. No operation may be pending."""


class Families(Family):
    """Several families that end together."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def summaries(self) -> dict[str, Any]:
        """Those of all."""
        return {f"{n}:{name}": of for n, family in enumerate(self._families) for name, of in family.summaries().items()}

    def posted(self) -> dict[str, dict[str, Any]]:
        """What this rank has posted, by family."""
        return {str(number): family.posted() for number, family in enumerate(self._families)}

    def settle(self, reports: Sequence[dict[str, dict[str, Any]]]) -> bool:
        """Settle each."""
        settled = [
            family.settle([report[str(number)] for report in reports if str(number) in report])
            for number, family in enumerate(self._families)
        ]
        return all(settled)

    def close(self) -> None:
        """Close each."""
        for family in self._families:
            family.close()


class World(ABC):
    """A group of ranks. Its methods are collective: every rank calls them, in the same order.

    Attributes:
        rank, size: this rank's number, and how many there are.
    """

    rank: int
    size: int

    @property
    @abstractmethod
    def allows_threads(self) -> bool:
        """Whether several threads of a rank may communicate at once."""

    @abstractmethod
    def allgather(self, mine: Value) -> list[Value]:
        """What every rank gives, in the order of the ranks."""

    @abstractmethod
    def reordered(self, order: Sequence[int]) -> World:
        """The same ranks with other numbers: the first one is `order[0]`, and so on."""

    @abstractmethod
    def split(self, color: int | None) -> Self | None:
        """The ranks that gave the same color, in the same order; None on ranks that gave None."""

    @abstractmethod
    def mailbox(self) -> Mailbox:
        """A mailbox between the ranks, of its own."""

    @abstractmethod
    def records_steps(self, devices: Sequence[tuple[str, str]]) -> bool:
        """Whether steps of communicators on these devices can be recorded: which is computing, and which waiting."""

    @abstractmethod
    def open(
        self,
        nodes: Sequence[int],
        devices: Sequence[tuple[str, str]],
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        spin: bool,
    ) -> tuple[Communicator, Family]:
        """A communicator for one trial, and what ends it.

        Args:
            nodes: the node of each rank.
            devices: host and device of each rank.
            ledger, poll, spin: see Communicator.
        """

    @abstractmethod
    def lend(self, lender: Lender) -> tuple[Any, Family]:
        """A communicator for a user's function, with mpi4py's methods, for one trial; and what ends it."""

    @abstractmethod
    def start_barrier(self) -> Callable[[], bool]:
        """Announce that this rank is here; returns a function that tells whether all are."""

    def meet(self, serve: Callable[[], None] = lambda: None) -> None:
        """Return when every rank has come here; serves meanwhile."""
        patience = Patience(spin=False)
        everyone_is_here = self.start_barrier()
        while not everyone_is_here():
            serve()
            patience.pause()
