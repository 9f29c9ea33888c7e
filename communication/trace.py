"""What a rank does at every step: it computes, starts communications, and waits for them.

Kept for projections. Steps in which the same is done are told apart once, as a pattern; of the times between a
pattern's events some samples are kept, and which pattern followed which in some segments of the training, the first one
included: so a trial of a million steps costs some kilobytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

# Which ranks a communicator spans: all of the worker; those of a node; one of each node; a part that does not grow with
# their number; or all, of which rank 0 answers the messages of the others.
Span = Literal["all", "node", "peers", "part", "center"]

# An event is one of
#     ["post", operation, span, ranks, bytes]             a collective starts
#     ["post", operation, span, ranks, bytes, peer, tag]  a message starts, to or from that rank of the worker
#     ["wait", age]                                       for what was posted `age` posts ago, 1 being the last
Event = tuple[Any, ...]

MAX_PATTERNS = 128
NUM_SAMPLES, FEWEST_SAMPLES, MAX_GAPS = 16, 2, 512  # of a pattern; fewer where steps have many events
PIECE = 128  # events after which a step is cut, where it waits next: its loops are then equal pieces
SEGMENT, MAX_SEGMENTS = 256, 16  # steps in a row of which the order is kept, and how many times
MAX_RUNS = 512  # of equal pieces, in a segment
UNKNOWN, UNKNOWN_PIECE = -1, -2  # in the order: a pattern beyond the limit, at the end of a step or before
DIGITS = 7  # of a second: clocks tell no more


@dataclass
class Pattern:
    """Steps, or pieces of them, in which the same was done.

    Attributes:
        events: what was done, in order.
        is_last: whether a step ends with it.
        samples: of some of these steps, the seconds of computing before each event, and after the last one.
        count: how many steps.
        seconds: of computing in all of them.
    """

    events: tuple[Event, ...]
    is_last: bool
    samples: list[list[float]] = field(default_factory=list)
    count: int = 0
    seconds: float = 0.0
    stride: int = 1

    def add(self, gaps: list[float]) -> None:
        """Count a step; its gaps are kept if it is among the first, or else now and then, ever more seldom."""
        most = min(NUM_SAMPLES, max(FEWEST_SAMPLES, MAX_GAPS // len(gaps)))
        if len(self.samples) < most:
            self.samples.append(gaps)
        elif self.count % self.stride == 0:
            self.samples[self.count // self.stride % most] = gaps
            if self.count // self.stride >= 2 * most:
                self.stride *= 2
        self.count += 1
        self.seconds += math.fsum(gaps)


@dataclass
class _Service:
    """What a rank does for others, between its own computing.

    Attributes:
        num, seconds: requests served, and what that took.
        polled, polled_squared: sums of the seconds between two looks, and of their squares.
        last: when it last looked, or began to compute.
    """

    num: int = 0
    seconds: float = 0.0
    polled: float = 0.0
    polled_squared: float = 0.0
    last: float = 0.0

    def poll(self, now: float) -> None:
        self.polled += now - self.last
        self.polled_squared += (now - self.last) ** 2

    def add(self, num_served: int, spent: float) -> None:
        if num_served:
            self.num += num_served
            self.seconds += spent

    def as_dict(self) -> dict[str, float] | None:
        """Seconds per request, and what one waits on average for the next look (half the mean square over the mean)."""
        if not self.num:
            return None
        delay = self.polled_squared / (2 * self.polled) if self.polled else 0.0
        return {"seconds": round(self.seconds / self.num, DIGITS), "delay": round(delay, DIGITS)}


def _without_sizes(events: tuple[Event, ...]) -> tuple[Event, ...]:
    return tuple((*event[:4], *event[5:]) if event[0] == "post" else event for event in events)


class Trace:
    """One rank's patterns, and which step followed which.

    Args:
        clock: seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._patterns: dict[tuple[bool, tuple[Event, ...]], int] = {}
        self._alike: dict[tuple[bool, tuple[Event, ...]], int] = {}  # the last pattern that differs in sizes only
        self._segment: int | None = None  # that is being written
        self._kept: list[Pattern] = []
        self._segments: dict[int, list[list[int]]] = {}  # by first step; runs: pattern, how often in a row
        self._stride = 1  # between two segments, in segments
        self._begins = True  # a step, with the next piece
        self._num_steps = 0
        self._events: list[Event] = []
        self._gaps: list[float] = []
        self._num_posts = 0
        self._is_counting = False
        self._last = 0.0
        self._num_holds = 0
        self._held_since = 0.0
        self._service = _Service()
        self._serving_since: float | None = None

    def begin(self) -> None:
        """Steps follow; what was before, such as an evaluation, belongs to none."""
        self._events, self._gaps = [], []
        self._last, self._is_counting = self._clock(), True
        self._service.last = self._last

    def post(
        self,
        operation: str,
        span: Span,
        num_ranks: int,
        payload_bytes: int,
        peer_and_tag: tuple[int, int] | None = None,
    ) -> int | None:
        """Note that something has been started; returns its number, None between steps and while serving."""
        if not self._is_counting or self._serving_since is not None:
            return None
        self._num_posts += 1
        if len(self._events) >= PIECE and self._events[-1][0] == "wait":
            self._end_piece(self._last, is_last=False)
        self._note(("post", operation, span, num_ranks, payload_bytes, *(peer_and_tag or ())), self._now())
        return self._num_posts

    def _now(self) -> float:
        return self._held_since if self._num_holds else self._clock()

    # Waiting.

    def hold(self) -> None:
        """The rank waits from now on. Holds may lie in one another."""
        self._num_holds += 1
        if self._num_holds == 1:
            self._held_since = self._clock()

    def arrived(self, number: int | None) -> None:
        """What has this number is complete; while the rank waits, that is what it has waited for."""
        if number is not None and self._is_counting and self._num_holds and self._serving_since is None:
            self._note(("wait", self._num_posts - number + 1), self._held_since)

    def release(self) -> None:
        """The rank goes on."""
        self._num_holds -= 1
        if self._num_holds == 0:
            # What was computed before a wait for nothing that was posted belongs to the next gap.
            self._last += self._clock() - self._held_since
            self._service.last = self._clock()

    def _note(self, event: Event, now: float) -> None:
        self._events.append(event)
        self._gaps.append(now - self._last)
        self._last = now

    # Serving.

    def begin_service(self) -> None:
        """The rank looks whether others ask for something; until `end_service` it does what they ask."""
        self._serving_since = self._clock()
        if self._is_counting and not self._num_holds:
            self._service.poll(self._serving_since)

    def end_service(self, num_served: int, *, is_own: bool = False) -> None:
        """The rank goes on. What it did for others belongs to no step, unless that was its own work all the same."""
        now = self._clock()
        assert self._serving_since is not None
        spent = now - self._serving_since
        self._serving_since = None
        self._service.last = now
        if self._is_counting:
            self._service.add(num_served, spent)
            if not self._num_holds and not is_own:
                self._last += spent

    def end_step(self) -> None:
        """A step is over, and the next one begins."""
        self._end_piece(self._clock(), is_last=True)
        self._num_steps += 1

    def _end_piece(self, now: float, *, is_last: bool) -> None:
        key = is_last, tuple(self._events)
        place = self._patterns.get(key)
        if place is None and len(self._kept) < MAX_PATTERNS:
            place = self._patterns[key] = len(self._kept)
            self._alike[is_last, _without_sizes(key[1])] = place
            self._kept.append(Pattern(key[1], is_last))
        if place is None:
            place = self._alike.get((is_last, _without_sizes(key[1])))
        if place is not None:
            self._kept[place].add([*self._gaps, now - self._last])
        else:
            place = UNKNOWN if is_last else UNKNOWN_PIECE
        self._follow(place)
        self._events, self._gaps, self._last = [], [], now

    def _follow(self, place: int) -> None:
        """Note which pattern came, if that is in a segment."""
        if self._begins and self._num_steps % SEGMENT == 0 and not self._goes_on(place):
            self._segment = self._new_segment()
        self._begins = place == UNKNOWN or (place >= 0 and self._kept[place].is_last)
        if self._segment is None:
            return
        runs = self._segments[self._segment]
        if len(runs) > MAX_RUNS:
            return
        if runs and runs[-1][0] == place:
            runs[-1][1] += 1
        elif len(runs) < MAX_RUNS:
            runs.append([place, 1])
        else:
            runs.append([UNKNOWN_PIECE, 0])  # full: what follows in this segment is not kept

    def _goes_on(self, place: int) -> bool:
        """Whether the segment so far goes on as it ended: then it may be longer than others."""
        runs = [] if self._segment is None else self._segments[self._segment]
        return 0 < len(runs) <= MAX_RUNS and runs[-1][0] == place

    def _new_segment(self) -> int | None:
        """The segment that begins with this step, if one does."""
        first = self._num_steps
        if first // SEGMENT % self._stride:
            return None
        if len(self._segments) == MAX_SEGMENTS:
            self._stride *= 2
            kept = self._stride * SEGMENT
            self._segments = {begin: runs for begin, runs in self._segments.items() if begin % kept == 0}
            if first % kept:
                return None
        self._segments[first] = []
        return first

    def pause(self) -> None:
        """What follows belongs to no step."""
        self._is_counting = False

    def as_dict(self) -> dict[str, Any]:
        """The patterns, which of them followed which where, how many steps there were, and what serving others took."""
        return {
            "patterns": [
                {
                    "events": [list(event) for event in pattern.events],
                    "is_last": pattern.is_last,
                    "samples": [[round(gap, DIGITS) for gap in sample] for sample in pattern.samples],
                    "count": pattern.count,
                    "seconds": round(pattern.seconds / pattern.count, DIGITS),
                }
                for pattern in self._kept
            ],
            "segments": [[first, runs] for first, runs in self._segments.items()],
            "num_steps": self._num_steps,
            "service": self._service.as_dict(),
        }
