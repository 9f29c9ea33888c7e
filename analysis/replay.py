"""Replays the schedules that ranks have kept on a described cluster, event by event.

What a step costs follows from what its ranks do: they compute as long as they did, post what they posted, and wait for
what they waited for. A collective begins when the last rank has posted it and their links are free, a message when both
sides have; where the cluster does not overlap, when it is waited for. A center is served by rank 0 between its own
computing, one request after another. What a rank waits is the exposed part of communication.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atoll.analysis import cluster as costs
from atoll.analysis.cluster import Cluster, Layout, Span

MAX_RANKS = 64  # that are followed of those that do alike; costs are those of all
MAX_EVENTS, FEWEST_STEPS = 300_000, 64  # of all ranks, in one replay
NUM_WINDOWS = 4  # in a stretch of steps whose order was kept
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly, and in step with no period
MAX_CENTER = 1024  # ranks of an asynchronous method, all of which are followed
MAX_UNKNOWN = 0.05  # of the steps that are followed
MAX_STEPS = 4096  # of a part of a network, followed from its first step on
EAGER = 64 * 1024  # bytes; a smaller message leaves its sender at once
MAX_ASSUMED = 0.05  # of all waits may be for what was posted before the window

Key = tuple[Any, ...]
# Of a step: events, seconds before each and after the last, and whether the step ends with it.
_Piece = tuple[Sequence[Sequence[Any]], Sequence[float], bool]


class CannotReplay(ValueError):
    """What was recorded does not fit together."""


@dataclass(frozen=True)
class Replayed:
    """Means over the steps and ranks that were followed, in seconds.

    Attributes:
        step: from step to step.
        compute: computing in a step.
        exposed: waiting for communication in a step.
        num_steps: how many were followed.
    """

    step: float
    compute: float
    exposed: float
    num_steps: int


def replay(
    schedules: Sequence[Mapping[str, Any]],
    cluster: Cluster,
    num_nodes: int,
    *,
    until: int | None = None,
    per_epoch: int = 1,
    work: float = 1.0,
    seed: int = 0,
) -> Replayed:
    """The mean step up to step `until`, the last one unless given, as methods change what they do while they train.

    Args:
        schedules: of all ranks of the measured worker; or of its first node's and the last, if the others do as these.
        cluster, num_nodes: where.
        until: of the steps measured.
        per_epoch: steps of an epoch, which ranks with parts of one network may share out unevenly.
        work: how much a rank computes per step, over what was measured.
        seed: of the draws among the kept samples of a pattern's times.

    Raises:
        CannotReplay: there are no steps, or ranks wait for what nobody has posted.
    """
    total = min(schedule["num_steps"] for schedule in schedules)
    if total == 0:
        raise CannotReplay("no step of it was recorded")
    stretches = _stretches(schedules, min(total, until or total))
    if not stretches:
        raise CannotReplay("its ranks do more in a step than is recorded")
    num_ranks = len(_roles(schedules, cluster, num_nodes))
    if not schedules[0]["grows"]:  # messages must not lack their senders: from the first step on, by whole epochs
        most = min(stretches[0][1], MAX_STEPS)
        windows = [(0, most // per_epoch * per_epoch or most)]
    else:
        windows = _windows(stretches, max(FEWEST_STEPS, round(MAX_EVENTS / num_ranks / _events_per_step(schedules))))
    parts = [
        Replay(schedules, cluster, num_nodes, first, num_steps, work=work, seed=seed + k).run()
        for k, (first, num_steps) in enumerate(windows)
    ]
    num_steps = sum(part.num_steps for part in parts)
    return Replayed(
        step=math.fsum(part.step * part.num_steps for part in parts) / num_steps,
        compute=math.fsum(part.compute * part.num_steps for part in parts) / num_steps,
        exposed=math.fsum(part.exposed * part.num_steps for part in parts) / num_steps,
        num_steps=num_steps,
    )


def _stretches(schedules: Sequence[Mapping[str, Any]], total: int) -> list[tuple[int, int]]:
    """Of the first `total` steps those whose order all ranks have kept: first ones, and those after the last."""
    common: list[tuple[int, int]] = [(0, total)]
    for schedule in schedules:
        own: list[tuple[int, int]] = []
        for first, runs in schedule["segments"]:
            end = first + sum(count for place, count in runs if _ends_step(schedule, place))
            if own and own[-1][1] == first:
                own[-1] = own[-1][0], end
            else:
                own.append((first, end))
        both = ((max(a, c), min(b, d)) for a, b in common for c, d in own)
        common = [(first, end) for first, end in both if first < end]
    return common


def _windows(stretches: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """First steps and lengths of what is followed: all that is kept, or as much of each stretch as `most` steps allow.

    What is done every so many steps must not be met too often or too seldom: windows begin anywhere.
    """
    num_kept = sum(end - first for first, end in stretches)
    if num_kept <= most:
        return [(first, end - first) for first, end in stretches]
    pieces = [
        (first + (end - first) * k // NUM_WINDOWS, first + (end - first) * (k + 1) // NUM_WINDOWS)
        for first, end in stretches
        for k in range(NUM_WINDOWS)
    ]
    windows = []
    for number, (first, end) in enumerate(pieces):
        size, length = end - first, max(1, (end - first) * most // num_kept)
        offset = int(size * (number * GOLDEN % 1))
        over = max(0, offset + length - size)  # goes on at the piece's beginning, so that all its steps are met alike
        windows += [(first + offset, length - over)] + ([(first, over)] if over else [])
    return windows


def _events_per_step(schedules: Sequence[Mapping[str, Any]]) -> float:
    """What a rank does in a mean step, its end included."""
    patterns = [pattern for schedule in schedules for pattern in schedule["patterns"]]
    steps = sum(schedule["num_steps"] for schedule in schedules)
    return float(sum(pattern["count"] * (len(pattern["events"]) + 1) for pattern in patterns) / steps)


def _roles(schedules: Sequence[Mapping[str, Any]], cluster: Cluster, num_nodes: int) -> list[int]:
    """As which of the recorded ranks each one that is followed acts."""
    if not schedules[0]["grows"]:
        return list(range(len(schedules)))
    g, per_node = cluster.ranks_per_node, schedules[0]["ranks_per_node"]
    if _has_center(schedules):  # the load on a center grows with every rank: none can be left out
        if num_nodes * g > MAX_CENTER:
            raise CannotReplay(
                f"all ranks of an asynchronous method are followed, at most {MAX_CENTER}; {num_nodes} nodes have "
                f"{num_nodes * g}"
            )
        return [0] + [len(schedules) - 1] * (num_nodes * g - 1)
    num_ranks = max(1, min(num_nodes, MAX_RANKS // g)) * g
    roles = [number % min(per_node, len(schedules)) for number in range(num_ranks)]
    # The last rank, of another node perhaps, speaks for those like it in the second half.
    half, last = num_ranks // 2, per_node - 1
    return [len(schedules) - 1 if n >= half and role == last else role for n, role in enumerate(roles)]


def _has_center(schedules: Sequence[Mapping[str, Any]]) -> bool:
    return schedules[0].get("service") is not None


def _ends_step(schedule: Mapping[str, Any], place: int) -> bool:
    """Whether a piece is the last of its step; of those that were not kept, -1 says so, -2 does not."""
    return place == -1 if place < 0 else bool(schedule["patterns"][place]["is_last"])


@dataclass
class _Operation:
    """One collective, one message, or one way of an exchange with a center.

    Attributes:
        kind: the ledger's operation.
        missing: how many ranks must come.
        ready: when those came that have, by rank.
        has_begun: whether its links are busy with it, or were.
        members: whose links it takes; of a message, from whom to whom.
        finish: when it is complete, once that is known.
        blocked: the ranks that wait for it.
        partner: of an answer, what was asked.
    """

    kind: str
    size: float
    missing: int
    where: Layout | None = None
    ready: dict[int, float] = field(default_factory=dict)
    members: Sequence[int] = ()
    has_begun: bool = False
    finish: float | None = None
    blocked: list[int] = field(default_factory=list)
    partner: _Operation | None = None


class _Pipe:
    """Links of one bandwidth that messages share evenly, in virtual time: that of a message that has one to itself."""

    def __init__(self, bandwidth: float, num_links: int) -> None:
        self._bandwidth = bandwidth
        self._num_links = num_links
        self._clock = 0.0  # bytes that each message under way has passed since the beginning
        self._since = 0.0
        self._flows: list[tuple[float, int, Callable[[], None]]] = []
        self.version = 0  # changes with every message that comes or goes

    def _rate(self) -> float:
        return self._bandwidth * min(1.0, self._num_links / len(self._flows))

    def _move(self, now: float) -> None:
        if self._flows:
            self._clock += (now - self._since) * self._rate()
        self._since = now

    def join(self, now: float, size: float, order: int, arrived: Callable[[], None]) -> None:
        """A message comes."""
        self._move(now)
        heapq.heappush(self._flows, (self._clock + size, order, arrived))
        self.version += 1

    def next_departure(self) -> float | None:
        """When the next message is through, if no other one comes."""
        if not self._flows:
            return None
        return self._since + (self._flows[0][0] - self._clock) / self._rate()

    def leave(self, now: float) -> Callable[[], None]:
        """The next message is through; returns what follows."""
        self._move(now)
        self.version += 1
        return heapq.heappop(self._flows)[2]


@dataclass
class _Rank:
    number: int
    pieces: Iterator[_Piece]
    now: float = 0.0
    events: Sequence[Sequence[Any]] = ()
    gaps: Sequence[float] = ()
    is_last: bool = True
    next: int = 0
    posted: list[_Operation | None] = field(default_factory=list)
    counts: dict[Key, int] = field(default_factory=dict)
    blocked_on: _Operation | None = None
    debt: float = 0.0  # seconds of serving others, due at the next gap
    compute: float = 0.0
    exposed: float = 0.0
    num_steps: int = 0
    num_waits: int = 0
    num_peer_turns: int = 0


def _scale(pattern: Mapping[str, Any]) -> float:
    """By how much samples are to be stretched so that their mean is that of all steps of the pattern."""
    sampled = math.fsum(itertools.chain.from_iterable(pattern["samples"])) / len(pattern["samples"])
    return pattern["seconds"] / sampled if sampled else 1.0


class Replay:
    """One replay of some steps in a row.

    Args:
        schedules, cluster, num_nodes, work, seed: as `replay` takes them.
        first, num_steps: the steps.
    """

    def __init__(
        self,
        schedules: Sequence[Mapping[str, Any]],
        cluster: Cluster,
        num_nodes: int,
        first: int,
        num_steps: int,
        *,
        work: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._cluster, self._num_nodes = cluster, num_nodes
        self._scale = work / cluster.speed
        self._grows = schedules[0]["grows"]
        self._service = schedules[0].get("service")
        self._per_node = self._measured_per_node(schedules)
        self._rng = np.random.default_rng(seed)
        self._ranks = [
            _Rank(number, self._pieces(schedules[role], first, num_steps))
            for number, role in enumerate(_roles(schedules, cluster, num_nodes))
        ]
        # How much samples are stretched, by schedule and pattern: once for all ranks that act alike.
        self._scales = {id(schedule): [_scale(pattern) for pattern in schedule["patterns"]] for schedule in schedules}
        self._num_unknown = 0
        self._operations: dict[Key, _Operation] = {}
        self._free: dict[Key, float] = {}  # from when on a rank's links, or the center's owner, are free
        self._pipes: dict[Key, _Pipe] = {}
        self._now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._num_assumed = 0

    def _measured_per_node(self, schedules: Sequence[Mapping[str, Any]]) -> int:
        """Ranks of a measured node, where it matters: a node's ranks take turns (DASO)."""
        per_node, g = int(schedules[0]["ranks_per_node"]), self._cluster.ranks_per_node
        events = (event for schedule in schedules for pattern in schedule["patterns"] for event in pattern["events"])
        if g % per_node and any(event[0] == "post" and event[2] == "peers" for event in events):
            raise CannotReplay(
                f"the ranks of a node take turns: it was measured with {per_node} ranks per node, and the cluster must "
                f"have a multiple of that; {self._cluster.name} has {g}"
            )
        return per_node

    def _pieces(self, schedule: Mapping[str, Any], first: int, num_steps: int) -> Iterator[_Piece]:
        patterns = schedule["patterns"]
        scales = self._scales[id(schedule)]
        at, runs = next((at, runs) for at, runs in reversed(schedule["segments"]) if at <= first)
        following = itertools.chain(runs, *(more for begin, more in schedule["segments"] if begin > at))
        places = itertools.chain.from_iterable(itertools.repeat(place, count) for place, count in following)
        number = at
        for place in places:
            begins, is_last = number, _ends_step(schedule, place)
            number += is_last
            if begins < first:
                continue
            if begins == first + num_steps:
                return
            if place < 0:  # of a kind that was not kept
                self._num_unknown += 1
                yield (), (0.0,), is_last
                continue
            pattern = patterns[place]
            scale, samples = scales[place], pattern["samples"]
            gaps = samples[self._rng.integers(len(samples))]
            yield pattern["events"], [gap * scale for gap in gaps], is_last

    def run(self) -> Replayed:
        """Follow every rank to its last step."""
        for rank in self._ranks:
            self._begin_piece(rank)
        while self._queue or self._release_one():
            self._now, _, follow = heapq.heappop(self._queue)
            follow()
        num_waits = sum(rank.num_waits for rank in self._ranks)
        if self._num_assumed > MAX_ASSUMED * num_waits + len(self._ranks):
            raise CannotReplay(
                f"{self._num_assumed} of {num_waits} waits are for what no recorded rank has posted; the ranks' steps "
                "were too different to be kept whole"
            )
        steps = sum(rank.num_steps for rank in self._ranks)
        if self._num_unknown > MAX_UNKNOWN * steps:
            raise CannotReplay(f"{self._num_unknown} of {steps} steps are of kinds that were too many to be kept")
        most = max(rank.num_steps for rank in self._ranks)
        return Replayed(
            step=max(rank.now for rank in self._ranks) / most,
            compute=sum(rank.compute for rank in self._ranks) / steps,
            exposed=sum(rank.exposed for rank in self._ranks) / steps,
            num_steps=most,
        )

    def _at(self, time: float, follow: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._order), follow))

    # One rank.

    def _go_on(self, rank: _Rank) -> None:
        """The rank is at its next event, or at the end of its step."""
        if rank.next == len(rank.events):
            rank.num_steps += rank.is_last
            self._begin_piece(rank)
        elif self._act(rank, rank.events[rank.next]):
            self._compute(rank)

    def _begin_piece(self, rank: _Rank) -> None:
        following = next(rank.pieces, None)
        if following is not None:
            (rank.events, rank.gaps, rank.is_last), rank.next = following, 0
            self._compute(rank)

    def _compute(self, rank: _Rank) -> None:
        """Let the rank compute up to its next event, and be there then."""
        seconds = rank.gaps[rank.next] * self._scale
        rank.now += seconds + rank.debt
        rank.compute += seconds
        rank.debt = 0.0
        self._at(rank.now, lambda: self._go_on(rank))

    def _act(self, rank: _Rank, event: Sequence[Any]) -> bool:
        """Do what the event says; returns whether the rank goes on at once."""
        rank.next += 1
        if event[0] == "post":
            rank.posted.append(self._post(rank, event))
            return True
        age = event[1]
        operation = rank.posted[-age] if age <= len(rank.posted) else None  # None: posted before the window
        if operation is None:
            return True
        rank.num_waits += 1
        if operation.kind in ("ask", "answer"):
            self._exchange(operation, rank)
        elif not self._cluster.overlaps:
            self._arrive(operation, rank)
        if operation.finish is None:
            operation.blocked.append(rank.number)
            rank.blocked_on = operation
            return False
        self._pass(rank, operation.finish)
        return True

    def _pass(self, rank: _Rank, finish: float) -> None:
        rank.exposed += max(0.0, finish - rank.now)
        rank.now = max(rank.now, finish)
        rank.blocked_on = None

    def _release_one(self) -> bool:
        """Nobody moves: let go the rank that waits longest, for what was posted before the window."""
        blocked = [rank for rank in self._ranks if rank.blocked_on is not None]
        if not blocked:
            return False
        self._num_assumed += 1
        rank = min(blocked, key=lambda rank: rank.now)
        assert rank.blocked_on is not None
        rank.blocked_on.blocked.remove(rank.number)
        self._pass(rank, rank.now)
        self._compute(rank)
        return True

    # What is posted.

    def _post(self, rank: _Rank, event: Sequence[Any]) -> _Operation | None:
        _, kind, span, size, payload, *message = event
        if span == "center":
            return self._ask(rank, kind, payload)
        if message:
            return self._message(rank, kind, payload, *message)
        return self._collective(rank, kind, span, size, payload)

    def _collective(self, rank: _Rank, kind: str, span: Span, size: int, payload: float) -> _Operation | None:
        g = self._cluster.ranks_per_node
        group, members = self._group(rank.number, span, size)
        if span == "peers":
            # One rank of a node at a time, in turns; of a larger node's ranks that act as the same measured one, too.
            turn, rank.num_peer_turns = rank.num_peer_turns, rank.num_peer_turns + 1
            if turn % (g // self._per_node) != rank.number % g // self._per_node:
                return None
        operation = self._nth(rank, group)
        if not operation.members:
            operation.kind, operation.size, operation.members = kind, payload, members
            operation.missing = len(members)
            operation.where = costs.layout(self._cluster, span if self._grows else "part", self._num_nodes, size)
        if self._cluster.overlaps:
            self._arrive(operation, rank)
        return operation

    def _nth(self, rank: _Rank, group: Key) -> _Operation:
        """What this rank posts in a group for the nth time, which is what the others post there for the nth time."""
        count = rank.counts[group] = rank.counts.get(group, 0) + 1
        return self._operations.setdefault((*group, count), _Operation("", 0.0, 0))

    def _group(self, number: int, span: str, size: int) -> tuple[Key, list[int]]:
        g = self._cluster.ranks_per_node
        if span == "all":
            return ("all",), list(range(len(self._ranks)))
        if span == "node":
            return ("node", number // g), list(range(number // g * g, number // g * g + g))
        if span == "peers":
            return ("peers", number % g), list(range(number % g, len(self._ranks), g))
        first = number // size * size
        return ("part", first), list(range(first, min(first + size, len(self._ranks))))

    def _arrive(self, operation: _Operation, rank: _Rank) -> None:
        operation.ready.setdefault(rank.number, rank.now)
        if operation.has_begun or len(operation.ready) < operation.missing:
            return
        operation.has_begun = True
        if operation.where is None:
            source, target = operation.members
            self._transfer(source, target, operation.size, lambda: self._complete(operation, self._now))
            return
        # Inside a node and between nodes are links of their own; one rank alone takes none.
        kind = "network" if operation.where.num_nodes > 1 else "node"
        links = [(kind, member) for member in operation.members] if operation.where.size > 1 else []
        begin = max([self._now, *(self._free.get(link, 0.0) for link in links)])
        finish = begin + self._seconds(operation.kind, operation.size, operation.where)
        self._free.update(dict.fromkeys(links, finish))
        self._complete(operation, finish)

    def _complete(self, operation: _Operation, finish: float) -> None:
        operation.finish = finish
        for number in operation.blocked:
            self._pass(self._ranks[number], finish)
            self._compute(self._ranks[number])
        operation.blocked.clear()

    def _seconds(self, kind: str, size: float, where: Layout) -> float:
        if kind == "all_reduce":
            return costs.all_reduce(self._cluster, size, where)
        assert kind == "broadcast", kind
        return costs.broadcast(self._cluster, size, where)

    # Messages.

    def _message(self, rank: _Rank, kind: str, payload: float, peer: int, tag: int) -> _Operation | None:
        if self._grows:
            return None  # nobody waits for them (EASGD tree), and to whom they would go at other sizes is not recorded
        ends = (rank.number, peer) if kind == "send" else (peer, rank.number)
        both = self._nth(rank, ("message", *ends, tag, payload))
        if not both.members:
            both.kind, both.size, both.missing, both.members = "receive", payload, 2, ends
        if kind == "send" or self._cluster.overlaps:
            self._arrive(both, rank)
        if kind == "send" and payload <= EAGER:
            return None
        return both

    def _transfer(self, source: int, target: int, size: float, arrived: Callable[[], None]) -> None:
        """Send a message now; those on one link share it. Rank 0's is the one that counts where it serves a center."""
        g = self._cluster.ranks_per_node
        is_near = source // g == target // g
        link = self._cluster.node if is_near else self._cluster.network
        key: Key = ("pair", source, target) if is_near else ("out", source // g)
        if not is_near and self._service is not None and target == 0:
            key = ("in", 0)
        pipe = self._pipes.setdefault(key, _Pipe(link.bandwidth, 1 if is_near else self._cluster.ports))
        pipe.join(self._now, size, next(self._order), lambda: self._at(self._now + link.latency, arrived))
        self._watch(pipe)

    def _watch(self, pipe: _Pipe) -> None:
        """Be there when the pipe's next message is through."""
        version, time = pipe.version, pipe.next_departure()

        def look() -> None:
            if pipe.version == version:
                pipe.leave(self._now)()
                self._watch(pipe)

        if time is not None:
            self._at(max(time, self._now), look)

    # Centers.

    def _ask(self, rank: _Rank, kind: str, payload: float) -> _Operation:
        if kind == "send":
            return _Operation("ask", payload, 1, members=(rank.number,))
        (asked,) = (op for op in rank.posted[-1:] if op is not None and op.kind == "ask")
        answer = _Operation("answer", payload, 1, members=(rank.number,), partner=asked)
        asked.partner = answer
        if self._cluster.overlaps:
            self._exchange(answer, rank)
        return answer

    def _exchange(self, operation: _Operation, rank: _Rank) -> None:
        """A rank's question goes to rank 0, is served when that one looks and has served those before, and answered."""
        ask, answer = (operation, operation.partner) if operation.kind == "ask" else (operation.partner, operation)
        if ask is None or answer is None or ask.ready:
            return
        ask.ready[rank.number] = self._now

        def asked() -> None:
            self._complete(ask, self._now)
            assert self._service is not None
            seconds = self._service["seconds"] / self._cluster.speed
            begin = max(self._now + self._service["delay"] * self._scale, self._free.get(("owner",), 0.0))
            self._free["owner",] = begin + seconds
            self._ranks[0].debt += seconds
            self._at(begin + seconds, served)

        def served() -> None:
            self._transfer(0, rank.number, answer.size, lambda: self._complete(answer, self._now))

        self._transfer(rank.number, 0, ask.size, asked)
