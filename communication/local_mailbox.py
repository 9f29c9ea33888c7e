"""The mailbox inside one process: between threads, or between objects of one thread in simulated searches."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from atoll.communication.mailbox import Mailbox


class _Boxes:
    """What the mailboxes of one group share: messages by receiver, and arrivals at barriers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()
        self.messages: list[dict[int, deque[tuple[int, bytes]]]] = [{} for _ in range(size)]
        self.num_arrived: list[int] = []


class LocalMailbox(Mailbox):
    """One of several mailboxes that reach each other without MPI; what is sent is copied."""

    def __init__(self, rank: int, boxes: _Boxes) -> None:
        self.rank = rank
        self.size = boxes.size
        self._boxes = boxes
        self._num_barriers = 0

    @classmethod
    def connected(cls, size: int) -> list[LocalMailbox]:
        """As many as `size`, which reach each other."""
        boxes = _Boxes(size)
        return [cls(rank, boxes) for rank in range(size)]

    def send_to(self, ranks: Iterable[int], obj: Any, tag: int) -> None:
        """Send a Python object to several ranks; it has arrived at once."""
        data = pickle.dumps(obj)  # as mpi4py does, so that a message that cannot travel is found on threads, too
        with self._boxes.lock:
            for rank in ranks:
                self._boxes.messages[rank].setdefault(tag, deque()).append((self.rank, data))

    def take(self, tag: int, source: int | None = None) -> tuple[int, Any] | None:
        """Sender and content of the next message with `tag`, from `source` or from anyone; None if there is none."""
        waiting = self._boxes.messages[self.rank].get(tag)
        if not waiting:
            return None
        with self._boxes.lock:
            place = next((i for i, (sender, _) in enumerate(waiting) if source in (None, sender)), None)
            if place is None:
                return None
            sender, data = waiting[place]
            del waiting[place]
        return sender, pickle.loads(data)

    def all_sent(self) -> bool:
        """Whether every message has left this rank."""
        return True

    def start_barrier(self) -> Callable[[], bool]:
        """Announce that this rank is here; returns a function that tells whether all are."""
        number = self._num_barriers
        self._num_barriers += 1
        with self._boxes.lock:
            if number == len(self._boxes.num_arrived):
                self._boxes.num_arrived.append(0)
            self._boxes.num_arrived[number] += 1
        return lambda: self._boxes.num_arrived[number] == self.size

    def close(self) -> None:
        """Nothing to give back."""
