"""Mailboxes inside one process, for tests and simulated searches."""

from __future__ import annotations

import pickle
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any


class LocalMailbox:
    """One of several mailboxes that reach each other without MPI; messages are copied."""

    def __init__(self, rank: int, boxes: list[dict[int, deque[tuple[int, bytes]]]]) -> None:
        self.rank = rank
        self.size = len(boxes)
        self._boxes = boxes

    @classmethod
    def connected(cls, size: int) -> list[LocalMailbox]:
        """Make `size` mailboxes that reach each other."""
        boxes: list[dict[int, deque[tuple[int, bytes]]]] = [defaultdict(deque) for _ in range(size)]
        return [cls(rank, boxes) for rank in range(size)]

    def send(self, obj: Any, dest: int, tag: int) -> None:
        """Send a Python object; it arrives at once."""
        self.send_to((dest,), obj, tag)

    def send_to(self, ranks: Iterable[int], obj: Any, tag: int) -> None:
        """Send a Python object to several ranks."""
        data = pickle.dumps(obj)
        for rank in ranks:
            self._boxes[rank][tag].append((self.rank, data))

    def others(self) -> list[int]:
        """All ranks but this one."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def take(self, tag: int) -> tuple[int, Any] | None:
        """Sender and content of the next message with `tag`, or None if none has arrived."""
        waiting = self._boxes[self.rank][tag]
        if not waiting:
            return None
        sender, data = waiting.popleft()
        return sender, pickle.loads(data)

    def all_sent(self) -> bool:
        """Whether every message has left this rank."""
        return True
