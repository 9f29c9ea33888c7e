"""The recorded trace of a rank: at every step it computes, starts communications, and waits for them.

Recorded for projections, in three parts. `Trace` records the events of the current step and the computing time before
each. `PatternTable` stores steps with equal events once, as a pattern, with a sample of their times. `SegmentSampler`
keeps the order of the patterns in some segments of the training, the first included. So a trial of a million steps
costs some kilobytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

# The ranks of a communicator: all of the worker; those of a node; one of each node; a part that does not grow with the
# worker; or all, of which rank 0 answers the messages of the others.
Span = Literal["all", "node", "peers", "part", "center"]

# An event is one of
#     ["post", operation, span, ranks, bytes]             a collective starts
#     ["post", operation, span, ranks, bytes, peer, tag]  a message starts, to or from that rank of the worker
#     ["wait", age]                                       for the operation posted `age` posts ago, 1 being the last
Event = tuple[Any, ...]

MAX_PATTERNS = 128
NUM_SAMPLES, FEWEST_SAMPLES, MAX_GAPS = 16, 2, 512  # of a pattern; fewer for steps with many events
PIECE = 128  # events; longer steps are cut at the next wait, so that repeated loops become repeated pieces
SEGMENT, MAX_SEGMENTS = 256, 16  # consecutive steps whose order is kept, and the number of such segments
MAX_RUNS = 512  # of equal pieces, in a segment
UNKNOWN, UNKNOWN_PIECE = -1, -2  # numbers of patterns beyond the limit: the last piece of a step, and earlier ones
DIGITS = 7  # of a second; clocks are no finer


@dataclass
class Pattern:
    """Steps, or pieces of steps, with equal events.

    Attributes:
        events: in order.
        is_last: whether a step ends with it.
        samples: for some of these steps, the seconds of computing before each event, and after the last one.
        count: the number of steps.
        seconds: of computing in all of them.
        stride: once the samples are full, every `stride`-th step replaces one, the oldest first; doubled as the steps
            go on, so that the samples span the whole training.
    """

    events: tuple[Event, ...]
    is_last: bool
    samples: list[list[float]] = field(default_factory=list)
    count: int = 0
    seconds: float = 0.0
    stride: int = 1

    def add(self, gaps: list[float]) -> None:
        """Count a step, and keep its gaps if it is sampled."""
        most = min(NUM_SAMPLES, max(FEWEST_SAMPLES, MAX_GAPS // len(gaps)))
        if len(self.samples) < most:
            self.samples.append(gaps)
        elif self.count % self.stride == 0:
            self.samples[self.count // self.stride % most] = gaps
            if self.count // self.stride >= 2 * most:
                self.stride *= 2
        self.count += 1
        self.seconds += math.fsum(gaps)

    def as_dict(self) -> dict[str, Any]:
        """The pattern as plain data, with the mean seconds of a step."""
        return {
            "events": [list(event) for event in self.events],
            "is_last": self.is_last,
            "samples": [[round(gap, DIGITS) for gap in sample] for sample in self.samples],
            "count": self.count,
            "seconds": round(self.seconds / self.count, DIGITS),
        }


class PatternTable:
    """The patterns so far, numbered in the order of their first occurrence.

    At most MAX_PATTERNS are kept. A later one counts as the latest kept pattern that differs in sizes only, or as
    unknown.
    """

    def __init__(self) -> None:
        self._patterns: list[Pattern] = []
        self._numbers: dict[tuple[bool, tuple[Event, ...]], int] = {}
        self._similar: dict[tuple[bool, tuple[Event, ...]], int] = {}  # by events without sizes

    def add(self, events: list[Event], gaps: list[float], is_last: bool) -> int:
        """Count a piece of a step; returns the number of its pattern, or UNKNOWN or UNKNOWN_PIECE."""
        key = is_last, tuple(events)
        number = self._numbers.get(key)
        if number is None and len(self._patterns) < MAX_PATTERNS:
            number = self._numbers[key] = len(self._patterns)
            self._similar[is_last, _without_sizes(key[1])] = number
            self._patterns.append(Pattern(key[1], is_last))
        if number is None:
            number = self._similar.get((is_last, _without_sizes(key[1])))
        if number is None:
            return UNKNOWN if is_last else UNKNOWN_PIECE
        self._patterns[number].add(gaps)
        return number

    def as_list(self) -> list[dict[str, Any]]:
        """The patterns as plain data."""
        return [pattern.as_dict() for pattern in self._patterns]


class SegmentSampler:
    """The order of patterns in some segments of SEGMENT steps, at most MAX_SEGMENTS of them.

    Each time they are full, every other one is dropped and the distance to the next doubles, so that they are spread
    over the whole training. A segment lasts longer while the next one would begin as it ended.

    Attributes:
        num_steps: steps so far.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self._segments: dict[int, list[list[int]]] = {}  # by first step, the runs: a pattern, and how often in a row
        self._runs: list[list[int]] | None = None  # of the current segment
        self._stride = 1  # in segments, between the beginnings of two
        self._begins_step = True  # with the next piece

    def add(self, pattern: int, is_last: bool) -> None:
        """Take the number of the next piece's pattern."""
        if self._begins_step and self.num_steps % SEGMENT == 0 and not self._continues(pattern):
            self._runs = self._new_segment()
        self._begins_step = is_last
        self.num_steps += is_last
        runs = self._runs
        if runs is None or len(runs) > MAX_RUNS:
            return
        if runs and runs[-1][0] == pattern:
            runs[-1][1] += 1
        elif len(runs) < MAX_RUNS:
            runs.append([pattern, 1])
        else:
            runs.append([UNKNOWN_PIECE, 0])  # full: the rest of this segment is not kept

    def _continues(self, pattern: int) -> bool:
        """Whether `pattern` repeats the last one of the current segment."""
        return self._runs is not None and 0 < len(self._runs) <= MAX_RUNS and self._runs[-1][0] == pattern

    def _new_segment(self) -> list[list[int]] | None:
        """Start a segment at the current step, if one is due there."""
        first = self.num_steps
        if first // SEGMENT % self._stride:
            return None
        if len(self._segments) == MAX_SEGMENTS:
            self._stride *= 2
            distance = self._stride * SEGMENT
            self._segments = {begin: runs for begin, runs in self._segments.items() if begin % distance == 0}
            if first % distance:
                return None
        self._segments[first] = []
        return self._segments[first]

    def as_list(self) -> list[list[Any]]:
        """First step and runs of each segment."""
        return [[first, runs] for first, runs in self._segments.items()]


@dataclass
class _Service:
    """The requests of others that a rank serves between its own computing.

    Attributes:
        num, seconds: requests served, and the time that took.
        polled, polled_squared: sums of the seconds between two polls for requests, and of their squares.
        last: the time of the last poll, or of the beginning of computing.
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
        """Seconds per request, and its average delay until the next poll (half the mean square over the mean)."""
        if not self.num:
            return None
        delay = self.polled_squared / (2 * self.polled) if self.polled else 0.0
        return {"seconds": round(self.seconds / self.num, DIGITS), "delay": round(delay, DIGITS)}


def _without_sizes(events: tuple[Event, ...]) -> tuple[Event, ...]:
    return tuple((*event[:4], *event[5:]) if event[0] == "post" else event for event in events)


def clock_of(takes_turns: bool) -> Callable[[], float]:
    """The clock of a rank's computing: its thread's own time if ranks take turns on a core, else the wall's."""
    return time.thread_time if takes_turns else time.perf_counter


class Trace:
    """Records one rank's steps. Not for several threads.

    Args:
        clock: of computing, in seconds; see `clock_of`.

    Example:
        A step of 1.75 s of computing, and an all-reduce that travels meanwhile. The clock is read when the step
        begins, at the post, at the beginning of the wait, twice at its end, and when the step ends:

        >>> trace = Trace(clock=iter([0.0, 1.0, 1.5, 4.0, 4.0, 4.25]).__next__)
        >>> trace.begin()
        >>> number = trace.post("all_reduce", "all", 2, 8)
        >>> trace.hold()
        >>> trace.arrived(number)
        >>> trace.release()
        >>> trace.end_step()
        >>> (pattern,) = trace.as_dict()["patterns"]
        >>> pattern["events"]  # the wait is for the last post
        [['post', 'all_reduce', 'all', 2, 8], ['wait', 1]]
        >>> pattern["samples"]  # computing before the post, before the wait, and after it
        [[1.0, 0.5, 0.25]]
        >>> trace.as_dict()["segments"]  # from step 0 on: pattern 0, once
        [[0, [[0, 1]]]]
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._patterns = PatternTable()
        self._segments = SegmentSampler()
        # The current piece: its events, the seconds before each, and when the next gap began.
        self._events: list[Event] = []
        self._gaps: list[float] = []
        self._last = 0.0
        self._num_posts = 0
        self._is_counting = False
        self._num_holds = 0
        self._held_since = 0.0
        self._service = _Service()
        self._serving_since: float | None = None

    def begin(self) -> None:
        """Steps follow; what came before, such as an evaluation, belongs to none."""
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
        """Record the start of an operation; returns its number, or None between steps and while serving."""
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
        """The rank waits from now on. Holds may be nested."""
        self._num_holds += 1
        if self._num_holds == 1:
            self._held_since = self._clock()

    def arrived(self, number: int | None) -> None:
        """The operation with this number is complete; if the rank waits, it has waited for this one."""
        if number is not None and self._is_counting and self._num_holds and self._serving_since is None:
            self._note(("wait", self._num_posts - number + 1), self._held_since)

    def release(self) -> None:
        """The rank no longer waits."""
        self._num_holds -= 1
        if self._num_holds == 0:
            # If the wait completed nothing that was recorded, the time computed so far counts towards the next gap.
            self._last += self._clock() - self._held_since
            self._service.last = self._clock()

    def _note(self, event: Event, now: float) -> None:
        self._events.append(event)
        self._gaps.append(now - self._last)
        self._last = now

    # Serving.

    def begin_service(self) -> None:
        """The rank polls for requests of others, and serves them until `end_service`."""
        self._serving_since = self._clock()
        if self._is_counting and not self._num_holds:
            self._service.poll(self._serving_since)

    def end_service(self, num_served: int, *, is_own: bool = False) -> None:
        """The rank continues. Time spent on requests belongs to no step, unless the work `is_own`."""
        now = self._clock()
        assert self._serving_since is not None
        spent = now - self._serving_since
        self._serving_since = None
        self._service.last = now
        if self._is_counting:
            self._service.add(num_served, spent)
            if not self._num_holds and not is_own:
                self._last += spent

    # The ends of steps.

    def end_step(self) -> None:
        """A step is over, and the next one begins."""
        self._end_piece(self._clock(), is_last=True)

    def _end_piece(self, now: float, *, is_last: bool) -> None:
        number = self._patterns.add(self._events, [*self._gaps, now - self._last], is_last)
        self._segments.add(number, is_last)
        self._events, self._gaps, self._last = [], [], now

    def pause(self) -> None:
        """What follows belongs to no step."""
        self._is_counting = False

    def as_dict(self) -> dict[str, Any]:
        """The patterns, their order in the sampled segments, the number of steps, and the cost of serving others."""
        return {
            "clock": "thread" if self._clock is time.thread_time else "wall",
            "patterns": self._patterns.as_list(),
            "segments": self._segments.as_list(),
            "num_steps": self._segments.num_steps,
            "service": self._service.as_dict(),
        }
