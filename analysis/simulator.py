"""A discrete-event simulator of ranks that follow recorded steps on a described cluster.

Ranks compute for as long as they did, start the operations that they started and wait for the operations that they
waited for. A collective begins when its last rank has started it and its links are free; a message begins when both
ends have. On a cluster without overlap, starting means waiting. Rank 0 serves a center between its own computing, one
request after another. The time that a rank waits is the exposed part of communication.
"""

from __future__ import annotations

import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll.analysis import cluster as costs
from atoll.analysis.cluster import Cluster, Layout, Span

EAGER = 64 * 1024  # bytes; a smaller message leaves its sender at once

Key = tuple[Any, ...]
Callback = Callable[[], None]


class Piece(NamedTuple):
    """A recorded step, or a part of one.

    Attributes:
        events: as `communication/trace.py` records them.
        gaps: seconds of computing before each event and after the last one.
        is_last: whether the step ends with this piece.
    """

    events: Sequence[Sequence[Any]]
    gaps: Sequence[float]
    is_last: bool


class Engine:
    """The clock and the event queue. Events at the same time happen in the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()

    def at(self, time: float, callback: Callback) -> None:
        """Schedule an event."""
        heapq.heappush(self._queue, (time, next(self._order), callback))

    def advance(self) -> bool:
        """Process the next event; returns False if there is none."""
        if not self._queue:
            return False
        self.now, _, callback = heapq.heappop(self._queue)
        callback()
        return True


class SharedLink:
    """Links of one bandwidth that the messages on them share evenly.

    It keeps virtual time: the bytes that a message would have moved that has been on the link since the beginning.

    Args:
        engine: the simulation's.
        bandwidth: of each link, bytes per second.
        num_links: one message uses at most one of them.
    """

    def __init__(self, engine: Engine, bandwidth: float, num_links: int) -> None:
        self._engine = engine
        self._bandwidth = bandwidth
        self._num_links = num_links
        self._virtual_time = 0.0
        self._last_update = 0.0
        self._messages: list[tuple[float, int, Callback]] = []  # by the virtual time of their end
        self._order = itertools.count()
        self._version = 0  # changes whenever a message arrives or leaves

    def add(self, size: float, sent: Callback) -> None:
        """Start sending a message of `size` bytes; `sent` is called when its last byte is."""
        self._update()
        heapq.heappush(self._messages, (self._virtual_time + size, next(self._order), sent))
        self._version += 1
        self._schedule_next_end()

    def _rate(self) -> float:
        return self._bandwidth * min(1.0, self._num_links / len(self._messages))

    def _update(self) -> None:
        if self._messages:
            self._virtual_time += (self._engine.now - self._last_update) * self._rate()
        self._last_update = self._engine.now

    def _schedule_next_end(self) -> None:
        """Schedule the end of the next message; if another one arrives before, that schedules it anew."""
        if not self._messages:
            return
        version = self._version

        def end() -> None:
            if self._version == version:
                self._update()
                self._version += 1
                _, _, sent = heapq.heappop(self._messages)
                sent()
                self._schedule_next_end()

        time = self._last_update + (self._messages[0][0] - self._virtual_time) / self._rate()
        self._engine.at(max(time, self._engine.now), end)


class Links:
    """The cluster's links: messages share bandwidth, collectives take turns.

    Args:
        engine, cluster: the simulation's.
        has_center: whether rank 0 serves a center, so that its incoming link is the bottleneck.
    """

    def __init__(self, engine: Engine, cluster: Cluster, has_center: bool) -> None:
        self._engine = engine
        self._cluster = cluster
        self._has_center = has_center
        self._shared: dict[Key, SharedLink] = {}
        self._free: dict[Key, float] = {}  # when a rank's links become free for the next collective

    def send(self, source: int, target: int, size: float, arrived: Callback) -> None:
        """Send a message from rank to rank, from now on."""
        g = self._cluster.ranks_per_node
        is_inside_node = source // g == target // g
        link = self._cluster.node if is_inside_node else self._cluster.network
        key: Key = ("pair", source, target) if is_inside_node else ("out", source // g)
        if not is_inside_node and self._has_center and target == 0:
            key = ("in", 0)
        if key not in self._shared:
            num_links = 1 if is_inside_node else self._cluster.ports
            self._shared[key] = SharedLink(self._engine, link.bandwidth, num_links)
        self._shared[key].add(size, lambda: self._engine.at(self._engine.now + link.latency, arrived))

    def reserve(self, members: Sequence[int], where: Layout, seconds: float) -> float:
        """Take the members' links for a collective of that duration; returns when it finishes."""
        # Links inside a node are independent of links between nodes; a single rank uses neither.
        kind = "network" if where.num_nodes > 1 else "node"
        links = [(kind, member) for member in members] if where.size > 1 else []
        begin = max([self._engine.now, *(self._free.get(link, 0.0) for link in links)])
        finish = begin + seconds
        self._free.update(dict.fromkeys(links, finish))
        return finish


class Operation(ABC):
    """A collective, a message, or one way of an exchange with the center.

    Attributes:
        finish: when it completes, once that is known.
        waiting: the ranks that are blocked on it.
    """

    def __init__(self) -> None:
        self.finish: float | None = None
        self.waiting: list[Rank] = []

    @abstractmethod
    def join(self, rank: int) -> None:
        """A rank is ready for it; does nothing the second time."""

    def complete(self, finish: float) -> None:
        """Resume the ranks that wait for it."""
        self.finish = finish
        for rank in self.waiting:
            rank.resume(finish)
        self.waiting.clear()


class JointOperation(Operation):
    """A collective or a message, which begins when all its ranks have joined.

    Args:
        num_ranks: that must join.
        begin: starts it, and completes it in the end.
    """

    def __init__(self, num_ranks: int, begin: Callable[[JointOperation], None]) -> None:
        super().__init__()
        self._num_ranks = num_ranks
        self._begin = begin
        self._joined: set[int] = set()

    def join(self, rank: int) -> None:
        """Begin if all others have joined."""
        if rank not in self._joined:
            self._joined.add(rank)
            if len(self._joined) == self._num_ranks:
                self._begin(self)


class Request(Operation):
    """A rank's message to the center. It is sent when the rank has also posted the receive of the answer."""

    def __init__(self, size: float, serve: Callable[[Request, Answer, int], None]) -> None:
        super().__init__()
        self.size = size
        self.answer: Answer | None = None
        self._serve = serve
        self._is_sent = False

    def join(self, rank: int) -> None:
        """Send it."""
        if self.answer is not None and not self._is_sent:
            self._is_sent = True
            self._serve(self, self.answer, rank)


class Answer(Operation):
    """The center's message to a rank."""

    def __init__(self, size: float, request: Request) -> None:
        super().__init__()
        self.size = size
        self._request = request
        request.answer = self

    def join(self, rank: int) -> None:
        """Send the request."""
        self._request.join(rank)


class CenterServer:
    """Rank 0 as the owner of a center: it serves one request after another, whenever it looks for them.

    Args:
        engine, links: the simulation's.
        seconds: per request.
        delay: mean time until the owner looks.
        interrupt: takes seconds of the owner's own computing.
    """

    def __init__(
        self, engine: Engine, links: Links, seconds: float, delay: float, interrupt: Callable[[float], None]
    ) -> None:
        self._engine = engine
        self._links = links
        self._seconds = seconds
        self._delay = delay
        self._interrupt = interrupt
        self._free = 0.0

    def serve(self, request: Request, answer: Answer, rank: int) -> None:
        """Send a rank's request to rank 0, serve it after those before it, and send the answer."""

        def received() -> None:
            now = self._engine.now
            request.complete(now)
            self._free = max(now + self._delay, self._free) + self._seconds
            self._interrupt(self._seconds)
            self._engine.at(self._free, served)

        def served() -> None:
            self._links.send(0, rank, answer.size, lambda: answer.complete(self._engine.now))

        self._links.send(rank, 0, request.size, received)


class Rank:
    """A rank that follows its pieces.

    Args:
        number: its rank.
        pieces: to follow.
        engine: the simulation's.
        scale: factor on the recorded seconds of computing.
        post: starts the operation of a "post" event; None if nobody can wait for it.

    Attributes:
        now: the rank's own time.
        blocked_on: the operation that it waits for.
        debt: seconds of serving others, due at the next gap.
        compute, exposed: seconds of computing, and of waiting for communication.
        num_steps, num_waits: how many it has completed.
        counts: how many operations of each group it has started.
        num_peer_turns: how many collectives with its peers in other nodes it has met.
        posted: the operations that it has started, for waits.
    """

    def __init__(
        self,
        number: int,
        pieces: Iterator[Piece],
        engine: Engine,
        scale: float,
        post: Callable[[Rank, Sequence[Any]], Operation | None],
    ) -> None:
        self.number = number
        self.now = 0.0
        self.blocked_on: Operation | None = None
        self.debt = 0.0
        self.compute = self.exposed = 0.0
        self.num_steps = self.num_waits = self.num_peer_turns = 0
        self.counts: dict[Key, int] = {}
        self.posted: list[Operation | None] = []
        self._pieces = pieces
        self._engine = engine
        self._scale = scale
        self._post = post
        self._piece = Piece((), (), True)
        self._next = 0  # event of the piece

    def begin_piece(self) -> None:
        """Begin the next piece; after the last one nothing follows."""
        following = next(self._pieces, None)
        if following is not None:
            self._piece, self._next = following, 0
            self._compute()

    def resume(self, finish: float) -> None:
        """The operation that the rank waits for finishes."""
        self._wait_until(finish)
        self._compute()

    def _compute(self) -> None:
        """Compute until the next event, and schedule that."""
        seconds = self._piece.gaps[self._next] * self._scale
        self.now += seconds + self.debt
        self.compute += seconds
        self.debt = 0.0
        self._engine.at(self.now, self._follow_event)

    def _follow_event(self) -> None:
        if self._next == len(self._piece.events):
            self.num_steps += self._piece.is_last
            self.begin_piece()
            return
        event = self._piece.events[self._next]
        self._next += 1
        if event[0] == "post":
            self.posted.append(self._post(self, event))
            self._compute()
        elif self._wait(event[1]):
            self._compute()

    def _wait(self, age: int) -> bool:
        """Wait for the operation that was posted `age` posts ago; returns whether it needs no waiting for."""
        operation = self.posted[-age] if age <= len(self.posted) else None
        if operation is None:  # posted before the window
            return True
        self.num_waits += 1
        operation.join(self.number)
        if operation.finish is None:
            operation.waiting.append(self)
            self.blocked_on = operation
            return False
        self._wait_until(operation.finish)
        return True

    def _wait_until(self, finish: float) -> None:
        self.exposed += max(0.0, finish - self.now)
        self.now = max(self.now, finish)
        self.blocked_on = None


@dataclass(frozen=True)
class Totals:
    """What the ranks of a simulation did.

    Attributes:
        seconds: until the last rank was done.
        compute, exposed: seconds, summed over ranks.
        num_steps: of all ranks.
        most_steps: of one rank.
        num_waits: for operations that the simulation knows.
        num_assumed: waits of these that only ended by the assumption that the operation was posted before the window.
    """

    seconds: float
    compute: float
    exposed: float
    num_steps: int
    most_steps: int
    num_waits: int
    num_assumed: int


class Simulator:
    """Ranks that follow recorded pieces on a cluster.

    Args:
        cluster, num_nodes: where.
        pieces: of every rank.
        grows: whether the method takes as many ranks as there are; otherwise all its communicators keep their size.
        measured_per_node: ranks per node when it was measured; of as many, one at a time sums with its peers.
        service: of a method with a center, the seconds per request and the mean delay until its owner looks.
        work: what a rank computes, relative to what was measured.
    """

    def __init__(
        self,
        cluster: Cluster,
        num_nodes: int,
        pieces: Sequence[Iterator[Piece]],
        *,
        grows: bool,
        measured_per_node: int,
        service: Mapping[str, float] | None = None,
        work: float = 1.0,
    ) -> None:
        self._cluster, self._num_nodes = cluster, num_nodes
        self._grows, self._measured_per_node = grows, measured_per_node
        self._engine = Engine()
        self._links = Links(self._engine, cluster, has_center=service is not None)
        scale = work / cluster.speed
        self._ranks = [Rank(n, own, self._engine, scale, self._post) for n, own in enumerate(pieces)]
        self._operations: dict[Key, Operation] = {}
        self._center: CenterServer | None = None
        if service is not None:
            seconds, delay = service["seconds"] / cluster.speed, service["delay"] * scale
            self._center = CenterServer(self._engine, self._links, seconds, delay, self._interrupt_owner)

    def run(self) -> Totals:
        """Follow every rank to its last step."""
        num_assumed = 0
        for rank in self._ranks:
            rank.begin_piece()
        while True:
            while self._engine.advance():
                pass
            if not self._release_one():
                break
            num_assumed += 1
        return Totals(
            seconds=max(rank.now for rank in self._ranks),
            compute=sum(rank.compute for rank in self._ranks),
            exposed=sum(rank.exposed for rank in self._ranks),
            num_steps=sum(rank.num_steps for rank in self._ranks),
            most_steps=max(rank.num_steps for rank in self._ranks),
            num_waits=sum(rank.num_waits for rank in self._ranks),
            num_assumed=num_assumed,
        )

    def _release_one(self) -> bool:
        """Resume the rank that has waited longest: its operation must have been posted before the window."""
        blocked = [rank for rank in self._ranks if rank.blocked_on is not None]
        if not blocked:
            return False
        rank = min(blocked, key=lambda rank: rank.now)
        assert rank.blocked_on is not None
        rank.blocked_on.waiting.remove(rank)
        rank.resume(rank.now)
        return True

    def _interrupt_owner(self, seconds: float) -> None:
        self._ranks[0].debt += seconds

    def _post(self, rank: Rank, event: Sequence[Any]) -> Operation | None:
        """Start the operation of a "post" event."""
        _, kind, span, size, payload, *message = event
        if span == "center":
            return self._exchange(rank, kind, payload)
        if message:
            return self._message(rank, kind, payload, *message)
        return self._collective(rank, kind, span, size, payload)

    def _nth(self, rank: Rank, group: Key, make: Callable[[], Operation]) -> Operation:
        """The operation that a rank starts as its nth of a group, which is the others' nth of that group too."""
        count = rank.counts[group] = rank.counts.get(group, 0) + 1
        key = (*group, count)
        if key not in self._operations:
            self._operations[key] = make()
        return self._operations[key]

    def _collective(self, rank: Rank, kind: str, span: Span, size: int, payload: float) -> Operation | None:
        g = self._cluster.ranks_per_node
        group, members = self._group(rank.number, span, size)
        if span == "peers":
            # The ranks of a node take turns. On a larger node several ranks act as one measured rank; they share its.
            turn, rank.num_peer_turns = rank.num_peer_turns, rank.num_peer_turns + 1
            if turn % (g // self._measured_per_node) != rank.number % g // self._measured_per_node:
                return None

        def make() -> Operation:
            where = costs.layout(self._cluster, span if self._grows else "part", self._num_nodes, size)
            seconds = self._seconds(kind, payload, where)
            return JointOperation(len(members), lambda it: it.complete(self._links.reserve(members, where, seconds)))

        operation = self._nth(rank, group, make)
        if self._cluster.overlaps:
            operation.join(rank.number)
        return operation

    def _seconds(self, kind: str, size: float, where: Layout) -> float:
        if kind == "all_reduce":
            return costs.all_reduce(self._cluster, size, where)
        if kind == "all_gather":
            return costs.all_gather(self._cluster, size, where)
        assert kind == "broadcast", kind
        return costs.broadcast(self._cluster, size, where)

    def _group(self, number: int, span: Span, size: int) -> tuple[Key, list[int]]:
        """A key of a rank's communicator, and its ranks."""
        g = self._cluster.ranks_per_node
        if span == "all":
            return ("all",), list(range(len(self._ranks)))
        if span == "node":
            return ("node", number // g), list(range(number // g * g, number // g * g + g))
        if span == "peers":
            return ("peers", number % g), list(range(number % g, len(self._ranks), g))
        first = number // size * size
        return ("part", first), list(range(first, min(first + size, len(self._ranks))))

    def _message(self, rank: Rank, kind: str, payload: float, peer: int, tag: int) -> Operation | None:
        if self._grows:
            return None  # nobody waits for them (EASGD tree), and their targets at other sizes are not recorded
        source, target = (rank.number, peer) if kind == "send" else (peer, rank.number)

        def begin(message: Operation) -> None:
            self._links.send(source, target, payload, lambda: message.complete(self._engine.now))

        message = self._nth(rank, ("message", source, target, tag, payload), lambda: JointOperation(2, begin))
        if kind == "send" or self._cluster.overlaps:
            message.join(rank.number)
        if kind == "send" and payload <= EAGER:
            return None
        return message

    def _exchange(self, rank: Rank, kind: str, payload: float) -> Operation:
        """One way of an exchange with the center: a rank posts its request, then the receive of the answer."""
        if kind == "send":
            assert self._center is not None
            return Request(payload, self._center.serve)
        request = rank.posted[-1]
        assert isinstance(request, Request)
        answer = Answer(payload, request)
        if self._cluster.overlaps:
            answer.join(rank.number)
        return answer
