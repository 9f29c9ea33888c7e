"""Virtual ranks: threads of one process in place of MPI ranks, for exact tests and for debugging."""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from atoll.communication.communicator import Communicator, PeerAborted
from atoll.communication.ledger import Ledger

Result = TypeVar("Result")


class _Board:
    """The shared state of one communicator's virtual ranks: collectives by number, messages by sender and tag."""

    def __init__(self, size: int) -> None:
        self.lock = threading.Lock()
        self.size = size
        self.contributions: dict[int, dict[int, Tensor]] = defaultdict(dict)
        self.num_collected: dict[int, int] = defaultdict(int)
        self.messages: dict[tuple[int, int, int], deque[Tensor]] = defaultdict(deque)
        self.parts: dict[tuple[int, int], _Board] = {}


def connected_board(size: int) -> _Board:
    """What the communicators of `size` virtual ranks share."""
    return _Board(size)


class ThreadCommunicator(Communicator):
    """One virtual rank. Sums are added in rank order, each addition rounded to the communication dtype."""

    def __init__(
        self,
        rank: int,
        nodes: Sequence[int],
        members: Sequence[int],
        board: _Board,
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        services: list[Callable[[], None]] | None = None,
    ) -> None:
        super().__init__(rank, nodes, members, ledger=ledger, poll=poll, spin=False, services=services)
        self._board = board
        self._num_collectives = 0
        self._early: dict[tuple[int, int], deque[Callable[[], bool]]] = defaultdict(deque)

    def _post_sum(self, buffer: Tensor) -> Callable[[], bool]:
        def combine(contributions: list[Tensor]) -> None:
            total = contributions[0].clone()
            for contribution in contributions[1:]:
                total.add_(contribution)
            buffer.copy_(total)

        return self._collective(buffer.clone(), combine)

    def _post_broadcast(self, buffer: Tensor, root: int) -> Callable[[], bool]:
        def combine(contributions: list[Tensor]) -> None:
            buffer.copy_(contributions[root])

        return self._collective(buffer.clone(), combine)

    def _post_all_gather(self, buffer: Tensor) -> Callable[[], bool]:
        def combine(contributions: list[Tensor]) -> None:
            torch.stack(contributions, out=buffer)

        return self._collective(buffer[self.rank].clone(), combine)

    def _post_barrier(self) -> Callable[[], bool]:
        return self._collective(torch.empty(0), lambda _: None)

    def _post_send(self, buffer: Tensor, destination: int, tag: int) -> Callable[[], bool]:
        with self._board.lock:
            self._board.messages[self.rank, destination, tag].append(buffer.clone())
        return lambda: True

    def _post_receive(self, buffer: Tensor, source: int, tag: int) -> Callable[[], bool]:
        queue = self._early[source, tag]
        complete = False

        def take() -> bool:
            with self._board.lock:
                messages = self._board.messages[source, self.rank, tag]
                message = messages.popleft() if messages else None
            if message is not None:
                buffer.view(-1).copy_(message.view(-1))
            return message is not None

        def done() -> bool:
            # Messages arrive in the order the receives were posted, whichever is tested first.
            nonlocal complete
            while not complete and queue and queue[0]():
                queue.popleft()
            return complete

        def step() -> bool:
            nonlocal complete
            complete = complete or take()
            return complete

        queue.append(step)
        return done

    def _arrived(self, tag: int) -> int | None:
        with self._board.lock:
            for source in range(self.size):
                messages = self._board.messages.get((source, self.rank, tag))
                if messages and len(messages) > len(self._early[source, tag]):
                    return source
        return None

    def _collective(self, contribution: Tensor, combine: Callable[[list[Tensor]], None]) -> Callable[[], bool]:
        number = self._num_collectives
        self._num_collectives += 1
        board = self._board
        with board.lock:
            board.contributions[number][self.rank] = contribution
        complete = False

        def done() -> bool:
            nonlocal complete
            if complete:
                return True
            with board.lock:
                arrived = board.contributions[number]
                if len(arrived) < board.size:
                    return False
                contributions = [arrived[rank] for rank in range(board.size)]
                board.num_collected[number] += 1
                if board.num_collected[number] == board.size:
                    del board.contributions[number], board.num_collected[number]
            combine(contributions)
            complete = True
            return True

        return done

    def _start_split(self, color: int, ledger: Ledger) -> Callable[[], Communicator | None]:
        return self._once_all_arrived(lambda: self._split(color, ledger))

    def _split(self, color: int, ledger: Ledger) -> ThreadCommunicator:
        colors = torch.zeros(self.size, dtype=torch.int64)
        colors[self.rank] = color
        gathered = self._post_sum(colors)
        interruption: Exception | None = None
        while not gathered():  # every rank has arrived, and posts at once
            try:
                self.poll()
            except Exception as reason:
                interruption = reason
            os.sched_yield()
        ranks = [rank for rank in range(self.size) if int(colors[rank]) == color]
        with self._board.lock:
            part = self._board.parts.setdefault((self._num_collectives, color), _Board(len(ranks)))
        if interruption is not None:
            raise interruption
        nodes, members = [self.nodes[rank] for rank in ranks], [self.members[rank] for rank in ranks]
        return ThreadCommunicator(
            ranks.index(self.rank), nodes, members, part, ledger=ledger, poll=self.poll, services=self.services
        )

    def close(self) -> None:
        """Nothing to release: the board is freed with its last rank."""


def single_rank() -> Communicator:
    """A virtual rank on its own, in the calling thread."""
    return ThreadCommunicator(0, (0,), (0,), _Board(1), ledger=Ledger(), poll=lambda: None)


def run_virtual_ranks(
    function: Callable[[Communicator], Result], nodes: Sequence[int], *, timeout: float = 60.0
) -> list[Result]:
    """Call `function` once per virtual rank, each in its own thread, and return the results in rank order.

    Args:
        function: gets the rank's communicator.
        nodes: the node of each virtual rank; its length is the number of ranks.
        timeout: seconds after which to give up.

    Raises:
        Exception: that of the first failing rank; the others are interrupted with PeerAborted.
        TimeoutError: if a rank is still busy after `timeout`.
    """
    board = _Board(len(nodes))
    failed: list[int] = []
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def poll() -> None:
        if failed:
            raise PeerAborted(failed[0])

    def target(rank: int) -> None:
        try:
            everyone = range(len(nodes))
            results[rank] = function(ThreadCommunicator(rank, nodes, everyone, board, ledger=Ledger(), poll=poll))
        except BaseException as error:
            errors.append(error)
            failed.append(rank)

    threads = [threading.Thread(target=target, args=(rank,), daemon=True) for rank in range(len(nodes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        failed.append(-1)
        raise TimeoutError(f"virtual ranks were still busy after {timeout} s")
    return [results[rank] for rank in range(len(nodes))]
