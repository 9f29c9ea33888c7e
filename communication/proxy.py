"""The communicator of a process that must not use MPI itself: its rank carries out the operations (`proxy_host.py`).

A tensor travels through shared memory: it is copied into a block, the rank's transport works on the block, and the
result is copied back. Ledger, trace, communication dtype and staging are those of every communicator, in this process.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atoll.communication.channel import Channel, Message, wait_for
from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.communication.shared_buffers import Block, SharedBuffers


class ProxyLink:
    """What the communicators of one process share: the channel to the rank, and what the rank has told.

    Attributes:
        channel: to the rank.
        buffers: the memory shared with it.
        others: messages that are not about communication, in the order of their arrival.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.buffers = SharedBuffers(channel)
        self.others: deque[Message] = deque()
        self._num_posted = 0
        self._num_communicators = 1
        self._done: set[int] = set()
        self._probed: set[tuple[int, int]] = set()
        self._arrived: dict[tuple[int, int], tuple[int, int]] = {}  # source, and the receives posted before
        self._parts: dict[int, Message] = {}

    def pump(self) -> None:
        """Take what has arrived; never waits."""
        for message in self.channel.receive():
            kind, *content = message
            if kind == "done":
                self._done.update(content[0])
            elif kind == "arrived":
                communicator, tag, source, num_receives = content
                self._probed.discard((communicator, tag))
                self._arrived[communicator, tag] = source, num_receives
            elif kind == "part":
                self._parts[content[0]] = content[1:]
            else:
                self.others.append(message)

    def post(self, kind: str, *details: int | str) -> int:
        """Tell the rank to start an operation; returns its number."""
        self._num_posted += 1
        self.channel.send([kind, self._num_posted, *details])
        return self._num_posted

    def is_done(self, number: int) -> bool:
        """Whether the rank has completed an operation; true once."""
        self.pump()
        if number not in self._done:
            return False
        self._done.remove(number)
        return True

    def arrived(self, communicator: int, tag: int, num_receives: int) -> int | None:
        """The sender of a message that the rank has found; the rank looks for one from the first call on."""
        self.pump()
        key = communicator, tag
        source, num_before = self._arrived.get(key, (None, num_receives))
        if num_before != num_receives:  # a receive that was posted meanwhile may have taken that message
            del self._arrived[key]
            source = None
        if source is None and key not in self._probed:
            self._probed.add(key)
            self.channel.send(["probe", communicator, tag])
        return source

    def start_split(self, communicator: int, color: int) -> Callable[[], Message | None]:
        """Start a split; returns a function for the part: its number, this rank's number there, nodes and members."""
        number = self._num_communicators
        self._num_communicators += 1
        self.channel.send(["split", communicator, color, number])

        def made() -> Message | None:
            self.pump()
            return None if number not in self._parts else [number, *self._parts.pop(number)]

        return made


class ProxyCommunicator(Communicator):
    """A communicator whose operations another process carries out.

    Args:
        link: to that process.
        number: of the communicator there; 0 is the worker's.
        rank, nodes, members, ledger, poll, services: see Communicator.
    """

    # A wait looks again after this time, as services and a GPU may have something to do; the rank wakes it earlier.
    SHORTEST, LONGEST = 50e-6, 1e-3

    def __init__(
        self,
        link: ProxyLink,
        number: int,
        rank: int,
        nodes: Sequence[int],
        members: Sequence[int],
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        services: list[Callable[[], None]] | None = None,
    ) -> None:
        super().__init__(rank, nodes, members, ledger=ledger, poll=poll, spin=False, services=services)
        self._link = link
        self._number = number
        self._num_receives: Counter[int] = Counter()  # by tag

    def _post_sum(self, buffer: Tensor) -> Callable[[], bool]:
        return self._post("sum", buffer, str(buffer.dtype).removeprefix("torch."))

    def _post_broadcast(self, buffer: Tensor, root: int) -> Callable[[], bool]:
        return self._post("broadcast", buffer, root)

    def _post_all_gather(self, buffer: Tensor) -> Callable[[], bool]:
        return self._post("all_gather", buffer)

    def _post_send(self, buffer: Tensor, destination: int, tag: int) -> Callable[[], bool]:
        return self._post("send", buffer, destination, tag, copies_out=False)

    def _post_receive(self, buffer: Tensor, source: int, tag: int) -> Callable[[], bool]:
        self._num_receives[tag] += 1
        return self._post("receive", buffer, source, tag, copies_in=False)

    def _post_barrier(self) -> Callable[[], bool]:
        return self._until_done(self._link.post("barrier", self._number), lambda: None)

    def _arrived(self, tag: int) -> int | None:
        return self._link.arrived(self._number, tag, self._num_receives[tag])

    def _start_split(self, color: int, ledger: Ledger) -> Callable[[], Communicator | None]:
        made = self._link.start_split(self._number, color)

        def part() -> Communicator | None:
            if (found := made()) is None:
                return None
            number, rank, nodes, members = found
            return ProxyCommunicator(
                self._link, number, rank, nodes, members, ledger=ledger, poll=self.poll, services=self.services
            )

        return part

    def close(self) -> None:
        """Nothing to release: the rank frees its communicators when the trial has ended."""

    def _poll_until(self, condition: Callable[[], bool]) -> None:
        nap = self.SHORTEST
        while not condition():
            self.progress()
            wait_for([self._link.channel], nap)
            nap = min(2 * nap, self.LONGEST)

    def _post(
        self, kind: str, buffer: Tensor, *details: int | str, copies_in: bool = True, copies_out: bool = True
    ) -> Callable[[], bool]:
        content = buffer.detach().reshape(-1).view(torch.uint8)
        block = self._link.buffers.take(len(content))
        if copies_in:
            block.content[: len(content)].copy_(content)
        place = block.segment, block.offset, len(content)
        return self._until_done(
            self._link.post(kind, self._number, *place, *details),
            lambda: self._take_back(block, content if copies_out else None),
        )

    def _take_back(self, block: Block, content: Tensor | None) -> None:
        if content is not None:
            content.copy_(block.content[: len(content)])
        self._link.buffers.give_back(block)

    def _until_done(self, number: int, finish: Callable[[], None]) -> Callable[[], bool]:
        is_complete = False

        def done() -> bool:
            nonlocal is_complete
            if not is_complete and self._link.is_done(number):
                is_complete = True
                finish()
            return is_complete

        return done
