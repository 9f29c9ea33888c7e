"""The world inside one process: every rank is a thread. For tests, and for debugging whole searches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from atoll.communication.communicator import Patience
from atoll.communication.ledger import Ledger
from atoll.communication.lent import Lender
from atoll.communication.local_mailbox import LocalMailbox
from atoll.communication.thread_comm import ThreadComm, shared_board
from atoll.communication.threads import ThreadCommunicator, connected_board
from atoll.communication.world import Family, World

Value = TypeVar("Value")

LEAVING = 2.0  # seconds that ranks get to leave when the calling thread gives up


class WorldFailed(BaseException):
    """Another rank of the process has failed: this one leaves, as it would be killed over MPI.

    It is no Exception, so that no trial takes it for its own failure.
    """


class ThreadFamily(Family):
    """The communicators of one trial between threads: they go with their last reference."""

    def summaries(self) -> dict[str, Any]:
        """Nothing can be left pending."""
        return {}

    def posted(self) -> dict[str, dict[str, Any]]:
        """Nothing can be left pending."""
        return {}

    def settle(self, reports: Sequence[dict[str, dict[str, Any]]]) -> bool:
        """Nothing can be left pending."""
        return True

    def close(self) -> None:
        """Nothing to give back."""


class _Shared:
    """What the ranks of one world share."""

    def __init__(self, size: int, failures: list[BaseException]) -> None:
        self.size = size
        self.failures = failures  # of all ranks of the process
        self.lock = threading.Lock()
        self.exchanges: dict[int, dict[int, Any]] = {}
        self.parts: dict[tuple[int, int], _Shared] = {}
        self.made: dict[tuple[str, int], Any] = {}  # what one rank makes and all use, by kind and number

    def once(self, kind: str, number: int, make: Callable[[], Any]) -> Any:
        with self.lock:
            if (kind, number) not in self.made:
                self.made[kind, number] = make()
            return self.made[kind, number]

    def forget(self, kind: str, number: int) -> None:
        with self.lock:
            self.made.pop((kind, number), None)


class ThreadWorld(World):
    """One rank. A rank that raises ends the others: their next wait raises WorldFailed."""

    def __init__(self, rank: int, shared: _Shared) -> None:
        self.rank = rank
        self.size = shared.size
        self._shared = shared
        self._num_exchanges = self._num_mailboxes = self._num_opened = self._num_lent = 0

    def check(self) -> None:
        """Raise WorldFailed if another rank of the process has failed."""
        if self._shared.failures:
            raise WorldFailed

    def _start_exchange(self, mine: object) -> tuple[int, Callable[[], bool]]:
        number = self._num_exchanges
        self._num_exchanges += 1
        with self._shared.lock:
            given = self._shared.exchanges.setdefault(number, {})
            given[self.rank] = mine
        return number, lambda: len(given) == self.size

    @property
    def allows_threads(self) -> bool:
        """Always."""
        return True

    def allgather(self, mine: Value) -> list[Value]:
        """What every rank gives, in the order of the ranks."""
        number, complete = self._start_exchange(mine)
        patience = Patience(spin=False)
        while not complete():
            self.check()
            patience.pause()
        given = self._shared.exchanges[number]
        return [given[rank] for rank in range(self.size)]

    def reordered(self, order: Sequence[int]) -> ThreadWorld:
        """The same ranks with other numbers: the first one is `order[0]`, and so on."""
        number = self._num_exchanges
        self.allgather(None)
        with self._shared.lock:
            part = self._shared.parts.setdefault((number, 0), _Shared(self.size, self._shared.failures))
        return ThreadWorld(order.index(self.rank), part)

    def split(self, color: int | None) -> ThreadWorld | None:
        """The ranks that gave the same color, in the same order; None on ranks that gave None."""
        number = self._num_exchanges
        colors = self.allgather(color)
        if color is None:
            return None
        ranks = [rank for rank, other in enumerate(colors) if other == color]
        with self._shared.lock:
            part = self._shared.parts.setdefault((number, color), _Shared(len(ranks), self._shared.failures))
        return ThreadWorld(ranks.index(self.rank), part)

    def mailbox(self) -> LocalMailbox:
        """A mailbox between the ranks, of its own."""
        number = self._num_mailboxes
        self._num_mailboxes += 1
        boxes: list[LocalMailbox] = self._shared.once("mailbox", number, lambda: LocalMailbox.connected(self.size))
        return boxes[self.rank]

    def records_steps(self, devices: Sequence[tuple[str, str]]) -> bool:
        """Always."""
        return True

    def open(
        self,
        nodes: Sequence[int],
        devices: Sequence[tuple[str, str]],
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        spin: bool,
    ) -> tuple[ThreadCommunicator, ThreadFamily]:
        """A communicator for one trial, and what ends it."""
        number = self._num_opened
        self._num_opened += 1
        board = self._shared.once("board", number, lambda: connected_board(self.size))
        self._shared.forget("board", number - 2)  # every rank has ended that trial: it has told so
        communicator = ThreadCommunicator(self.rank, nodes, range(self.size), board, ledger=ledger, poll=poll)
        return communicator, ThreadFamily()

    def lend(self, lender: Lender) -> tuple[ThreadComm, ThreadFamily]:
        """A communicator for a user's function between threads."""
        number = self._num_lent
        self._num_lent += 1
        board = self._shared.once("lent", number, lambda: shared_board(self.size))
        self._shared.forget("lent", number - 2)
        return ThreadComm(self.rank, range(self.size), board, lender), ThreadFamily()

    def start_barrier(self) -> Callable[[], bool]:
        """Announce that this rank is here; returns a function that tells whether all are."""
        _, complete = self._start_exchange(None)

        def arrived() -> bool:
            self.check()
            return complete()

        return arrived


def run_in_this_thread(function: Callable[[ThreadWorld], None], *, watch: Callable[[], None] = lambda: None) -> None:
    """Call `function` with a world of one rank, in the calling thread; `watch` is called in another one meanwhile.

    Raises:
        What `function` has raised, or `watch`, which interrupts the rank by WorldFailed.
    """
    failures: list[BaseException] = []
    has_ended = threading.Event()

    def watching() -> None:
        try:
            while not has_ended.wait(0.02):
                watch()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=watching, name="watch", daemon=True)
    thread.start()
    try:
        function(ThreadWorld(0, _Shared(1, failures)))
    except WorldFailed:
        pass  # of `watch`
    finally:
        has_ended.set()
        thread.join()
    if failures:
        raise failures[0]


def run_in_threads(
    size: int, function: Callable[[ThreadWorld], None], *, watch: Callable[[], None] = lambda: None
) -> None:
    """Call `function` once per rank of a world, each in a thread of its own, and return when all have ended.

    Args:
        size: the number of ranks.
        function: gets the rank's world.
        watch: called again and again meanwhile, in the calling thread.

    Raises:
        What the first rank that failed has raised, or `watch`; the other ranks are interrupted by WorldFailed.
    """
    failures: list[BaseException] = []
    shared = _Shared(size, failures)

    def target(rank: int) -> None:
        try:
            function(ThreadWorld(rank, shared))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            watch()
            next(thread for thread in threads if thread.is_alive() or thread is threads[-1]).join(0.02)
    except BaseException as error:
        failures.append(error)
        deadline = time.monotonic() + LEAVING
        for thread in threads:  # a rank that never polls ends with the process
            thread.join(max(0.0, deadline - time.monotonic()))
        raise
    if failures:
        raise failures[0]
