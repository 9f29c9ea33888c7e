"""Messages between ranks that never block the sender: Python objects, by tag."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any


class Mailbox(ABC):
    """A group of ranks that exchange Python objects; `send` returns at once.

    Messages between two ranks with one tag arrive in the order they were sent.

    Attributes:
        rank, size: this rank's number, and how many there are.
    """

    rank: int
    size: int

    def send(self, obj: Any, dest: int, tag: int) -> None:
        """Start to send a Python object."""
        self.send_to((dest,), obj, tag)

    @abstractmethod
    def send_to(self, ranks: Iterable[int], obj: Any, tag: int) -> None:
        """Start to send a Python object to several ranks."""

    def others(self) -> list[int]:
        """All ranks but this one."""
        return [rank for rank in range(self.size) if rank != self.rank]

    @abstractmethod
    def take(self, tag: int, source: int | None = None) -> tuple[int, Any] | None:
        """Sender and content of the next message with `tag`, from `source` or from anyone; None if there is none."""

    @abstractmethod
    def all_sent(self) -> bool:
        """Whether every message has left this rank."""

    @abstractmethod
    def start_barrier(self) -> Callable[[], bool]:
        """Announce that this rank is here; returns a function that tells whether all are."""

    @abstractmethod
    def close(self) -> None:
        """Give the transport's resources back. Nothing may be pending."""
