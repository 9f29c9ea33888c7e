"""The rank's side of a proxied communicator: it carries out another process's operations on its own communicators.

It never waits: `handle` starts what a message asks for, `step` tests what is under way and tells of what is complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from atoll.communication.channel import Channel, Message
from atoll.communication.communicator import SUMMABLE, Communicator
from atoll.communication.shared_buffers import MappedBuffers

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SUMMABLE}


class ProxyHost:
    """Carries out the operations of the process at the other end of a channel.

    After that process has ended, what it has posted stays with the communicators, as after any abort.

    Args:
        channel: to the process.
        communicator: the worker's ranks, number 0 of the process's communicators.
    """

    def __init__(self, channel: Channel, communicator: Communicator) -> None:
        self._channel = channel
        self._communicators = {0: communicator}
        self._buffers = MappedBuffers()
        self._pending: dict[int, Callable[[], bool]] = {}
        self._splits: dict[int, tuple[Communicator, Callable[[], Communicator | None]]] = {}
        self._probes: set[tuple[int, int]] = set()
        self._num_receives: Counter[tuple[int, int]] = Counter()  # by communicator and tag

    @property
    def is_busy(self) -> bool:
        """Whether something is under way, so that `step` must be called often."""
        return bool(self._pending or self._splits or self._probes)

    def splitting(self) -> list[Communicator]:
        """The communicators of which a split is under way: this rank has arrived there, and must not leave."""
        return [communicator for communicator, _ in self._splits.values()]

    def handle(self, message: Message) -> bool:
        """Start what a message asks for; false if it is not about communication.

        Raises:
            ValueError, TypeError, KeyError: if the message makes no sense.
        """
        kind, *content = message
        if kind not in self._OPERATIONS:
            return False
        self._OPERATIONS[kind](self, *content)
        return True

    def step(self) -> bool:
        """Let the transport make progress, and tell the process of what is complete; true if anything was."""
        done = [number for number, is_done in self._pending.items() if is_done()]
        for number in done:
            del self._pending[number]
        if done:
            self._channel.send(["done", done])
        num_made = self._finish_splits()
        return bool(done) + num_made + self._look_for_messages() > 0

    def close(self) -> None:
        """Forget the process; its memory is freed as soon as the transport is done with it."""
        self._pending.clear()
        self._splits.clear()
        self._communicators.clear()
        self._buffers = MappedBuffers()

    def _finish_splits(self) -> int:
        made = {number: part for number, (_, make) in self._splits.items() if (part := make()) is not None}
        for number, part in made.items():
            del self._splits[number]
            self._communicators[number] = part
            self._channel.send(["part", number, part.rank, list(part.nodes), list(part.members)])
        return len(made)

    def _look_for_messages(self) -> int:
        found = [
            (number, tag, source)
            for number, tag in self._probes
            if (source := self._communicators[number].arrived(tag)) is not None
        ]
        for number, tag, source in found:
            self._probes.remove((number, tag))
            self._channel.send(["arrived", number, tag, source, self._num_receives[number, tag]])
        return len(found)

    # What a message asks for.

    def _add_segment(self, length: int) -> None:
        self._buffers.add(self._channel.take_file(), length)

    def _start_sum(self, operation: int, number: int, segment: int, offset: int, size: int, dtype: str) -> None:
        summands = self._buffers.view(segment, offset, size, _DTYPES[dtype])
        self._pending[operation] = self._communicators[number]._post_sum(summands)

    def _start_broadcast(self, operation: int, number: int, segment: int, offset: int, size: int, root: int) -> None:
        communicator = self._communicators[number]
        communicator._check_rank("root", root)
        self._pending[operation] = communicator._post_broadcast(self._buffers.view(segment, offset, size), root)

    def _start_all_gather(self, operation: int, number: int, segment: int, offset: int, size: int) -> None:
        communicator = self._communicators[number]
        rows = self._buffers.view(segment, offset, size).view(communicator.size, -1)
        self._pending[operation] = communicator._post_all_gather(rows)

    def _start_send(
        self, operation: int, number: int, segment: int, offset: int, size: int, destination: int, tag: int
    ) -> None:
        communicator = self._communicators[number]
        communicator._check_rank("destination", destination)
        content = self._buffers.view(segment, offset, size)
        self._pending[operation] = communicator._post_send(content, destination, tag)

    def _start_receive(
        self, operation: int, number: int, segment: int, offset: int, size: int, source: int, tag: int
    ) -> None:
        communicator = self._communicators[number]
        communicator._check_rank("source", source)
        self._num_receives[number, tag] += 1
        content = self._buffers.view(segment, offset, size)
        self._pending[operation] = communicator._post_receive(content, source, tag)

    def _start_barrier(self, operation: int, number: int) -> None:
        self._pending[operation] = self._communicators[number]._post_barrier()

    def _start_probe(self, number: int, tag: int) -> None:
        if number not in self._communicators:
            raise ValueError(f"there is no communicator {number}")
        self._probes.add((number, tag))

    def _start_split(self, number: int, color: int, part: int) -> None:
        communicator = self._communicators[number]
        self._splits[part] = communicator, communicator._start_split(color, communicator.ledger)

    _OPERATIONS: ClassVar[Mapping[Any, Callable[..., None]]] = {
        "segment": _add_segment,
        "sum": _start_sum,
        "broadcast": _start_broadcast,
        "all_gather": _start_all_gather,
        "send": _start_send,
        "receive": _start_receive,
        "barrier": _start_barrier,
        "probe": _start_probe,
        "split": _start_split,
    }
