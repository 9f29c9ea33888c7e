"""The tickets of a study that several launchers search at once, without a server: a log in the study's folder.

Each launcher has ranks of its own, with a launch of its own, which joins the log before its ranks start. Whoever wants
tickets takes a turn, reads what the others have written, and writes which ones it takes. A launch that ends, or whose
launcher has died, is closed: what it had taken and not finished is queued again, and what it writes afterwards does
not count, here or in its journals. Lines:

    opened   the first line: the tickets that are queued, the numbers that were started before, and the budget
    budget   another budget
    joined   a launch begins, with its ranks and workers
    claimed  a launch takes tickets
    closed   launches have ended; what of theirs is queued again
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atoll.platform.search.tickets import Ticket
from atoll.storage.events import TrialKey
from atoll.storage.shared_log import Line, SharedLog


class LaunchClosed(RuntimeError):
    """Another launcher took this one for dead, and has queued its trials again: its ranks must end."""


@dataclass(frozen=True)
class Member:
    """A launch that takes part.

    Attributes:
        launch, launcher: the launch, and the first one of the same launcher, which names the launcher's files.
        first_rank, num_ranks: its ranks in the numbers of the study.
        first_worker, island_sizes: its workers, and the number of them on each island.
    """

    launch: int
    launcher: int
    first_rank: int
    num_ranks: int
    first_worker: int
    island_sizes: tuple[int, ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Member:
        """A member as its launcher has written it."""
        return cls(**{**content, "island_sizes": tuple(content["island_sizes"])})

    @property
    def num_workers(self) -> int:
        """Number of its workers."""
        return sum(self.island_sizes)


def _lowest(taken: Iterable[tuple[int, int]], count: int) -> int:
    """The lowest number from which `count` numbers are free of the taken ranges (first number, length)."""
    first = 0
    for start, length in sorted(taken):
        if first + count <= start:
            break
        first = max(first, start + length)
    return first


@dataclass
class TicketBook:
    """What the lines of the log say: who takes part, and which tickets are to be had.

    Attributes:
        num_trials: the budget; None for none.
        queued: tickets of interrupted trials, and of finished ones that become longer.
        members: the launches that take part, by number.
        held: the tickets that each of them has taken since it joined.
    """

    num_trials: int | None = None
    queued: deque[Ticket] = field(default_factory=deque)
    members: dict[int, Member] = field(default_factory=dict)
    held: dict[int, dict[TrialKey, Ticket]] = field(default_factory=dict)
    _next: int = 0
    _started: set[int] = field(default_factory=set)  # numbers from `_next` on that are taken

    def apply(self, line: Line) -> None:
        """Take in the next line."""
        match line["kind"]:
            case "opened":
                self.num_trials = line["num_trials"]
                self.queued = deque(Ticket(**ticket) for ticket in line["queued"])
                self._started = {n for first, last in line["started"] for n in range(first, last + 1)}
            case "budget":
                self.num_trials = line["num_trials"]
            case "joined":
                member = Member.from_json(line["member"])
                self.members[member.launch], self.held[member.launch] = member, {}
            case "claimed" if line["launch"] in self.members:
                held = self.held[line["launch"]]
                for key in (tuple(key) for key in line["tickets"]):
                    held[key] = self._remove(key)
            case "closed":
                for launch in line["launches"]:
                    self.members.pop(launch, None)
                    self.held.pop(launch, None)
                self.queued.extendleft(Ticket(**ticket) for ticket in reversed(line["queued"]))

    def _remove(self, key: TrialKey) -> Ticket:
        for ticket in self.queued:
            if (ticket.number, ticket.attempt) == key:
                self.queued.remove(ticket)
                return ticket
        self._started.add(key[0])
        while self._next in self._started:
            self._started.remove(self._next)
            self._next += 1
        return Ticket(*key)

    def available(self, count: int) -> list[Ticket]:
        """The next tickets, at most so many: queued ones, then new ones up to the budget."""
        numbers = itertools.count(self._next) if self.num_trials is None else range(self._next, self.num_trials)
        fresh = (Ticket(number) for number in numbers if number not in self._started)
        return list(itertools.islice(itertools.chain(self.queued, fresh), count))

    def place(self, launch: int, launcher: int, island_sizes: Sequence[int], num_ranks: int) -> Member:
        """A new member, with the lowest free numbers of ranks and workers; see `Member`."""
        ranks = ((member.first_rank, member.num_ranks) for member in self.members.values())
        workers = ((member.first_worker, member.num_workers) for member in self.members.values())
        first_rank, first_worker = _lowest(ranks, num_ranks), _lowest(workers, sum(island_sizes))
        return Member(launch, launcher, first_rank, num_ranks, first_worker, tuple(island_sizes))

    def island_sizes(self) -> tuple[int, ...]:
        """The number of workers of all members on each island."""
        return tuple(map(sum, itertools.zip_longest(*(m.island_sizes for m in self.members.values()), fillvalue=0)))


def opened(num_trials: int | None, queued: Iterable[Ticket], started: Iterable[int]) -> Line:
    """The first line of a log.

    Args:
        num_trials: the budget; None for none.
        queued: the tickets of what has begun.
        started: the numbers of all trials that were started before.
    """
    lines = [asdict(ticket) for ticket in queued]
    return {"kind": "opened", "num_trials": num_trials, "queued": lines, "started": _ranges(started)}


def budget(num_trials: int | None) -> Line:
    """Another budget; None for none."""
    return {"kind": "budget", "num_trials": num_trials}


def joined(member: Member) -> Line:
    """A launch begins."""
    return {"kind": "joined", "member": asdict(member)}


def closed(launches: Iterable[int], queued: Iterable[Ticket]) -> Line:
    """Launches have ended."""
    return {"kind": "closed", "launches": list(launches), "queued": [asdict(ticket) for ticket in queued]}


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted numbers as ranges (first, last)."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


class TicketLog:
    """The log, and what its lines say so far.

    Args:
        path: the file.

    Attributes:
        book: what the lines say that were read.
    """

    def __init__(self, path: Path) -> None:
        self._lines = SharedLog(path)
        self.book = TicketBook()

    @property
    def path(self) -> Path:
        """The file."""
        return self._lines.path

    def create(self) -> None:
        """Make an empty log."""
        self._lines.create()

    def turn(self) -> AbstractContextManager[None]:
        """Nobody else writes meanwhile."""
        return self._lines.turn()

    def read(self) -> TicketBook:
        """Take in what others have written."""
        for line in self._lines.read():
            self.book.apply(line)
        return self.book

    def append(self, line: Line) -> bool:
        """Write a line, in a turn; false if others have written since it was read, which is then taken in."""
        if self._lines.append(line):
            self.book.apply(line)
            return True
        self.read()
        return False

    def close(self, launches: Sequence[int], unfinished: Callable[[], Iterable[Ticket]] = tuple) -> None:
        """End launches, in a turn, unless somebody has.

        Args:
            launches: the launches.
            unfinished: what of theirs is queued again; asked once more if they have claimed meanwhile.
        """
        while left := [launch for launch in launches if launch in self.book.members]:
            if self.append(closed(left, unfinished())):
                return


class SharedTickets:
    """One launch's access to the tickets of the study.

    If turns take long in comparison with the trials, as with many launchers and trials of milliseconds, a launch takes
    more tickets at a turn than it is asked for, but never more than it starts within a moment.

    Args:
        log: the log.
        launch: the launch, which has joined.
        fill: completes a new ticket: with its given configuration, or the one that was prepared for it.
        may_claim: whether tickets are to be taken now; asked in a turn.
    """

    LARGEST_SHARE = 0.05  # of the time, for turns
    MOMENT = 0.2  # seconds
    MOST = 64
    PATIENCE = 0.5  # seconds, after a turn in which there was none

    def __init__(
        self,
        log: TicketLog,
        launch: int,
        fill: Callable[[Ticket], Ticket] = lambda ticket: ticket,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        self._log = log
        self._launch = launch
        self._fill = fill
        self._may_claim = may_claim
        self._reserve: deque[Ticket] = deque()
        self._num_claimed = self._before = 1  # tickets at the next turn, and at the last one
        self._claimed = -math.inf  # when
        self._asks_again = -math.inf  # when

    def take(self, count: int) -> list[Ticket]:
        """At most so many tickets; none if there are none now.

        Raises: see `_claim`.
        """
        if not self._reserve and time.monotonic() >= self._asks_again:
            began, since = time.monotonic(), self._claimed
            wanted = max(count, self._num_claimed)
            self._reserve.extend(self._claim(wanted))
            self._claimed = time.monotonic()
            self._adapt(wanted, self._claimed - began, began - since)
            self._before = wanted
            if not self._reserve:
                self._asks_again = self._claimed + self.PATIENCE
        return [self._reserve.popleft() for _ in range(min(count, len(self._reserve)))]

    def _adapt(self, wanted: int, turn: float, interval: float) -> None:
        """Set the number of tickets for the next turn.

        Args:
            wanted: the number of the last turn.
            turn: its seconds.
            interval: the seconds since the turn before, in which as many tickets were started.
        """
        if turn > self.LARGEST_SHARE * interval:
            in_a_moment = self.MOMENT * self._before / interval
            self._num_claimed = int(max(1, min(2 * wanted, in_a_moment, self.MOST)))
        else:
            self._num_claimed = max(1, self._num_claimed // 2)

    def _claim(self, count: int) -> list[Ticket]:
        """Take a turn for so many tickets.

        Raises:
            LaunchClosed: if this launch was closed.
            SharedLogError: if the log cannot be used.
        """
        with self._log.turn():
            book = self._log.read()
            while tickets := self._available(book, count):
                keys = [(ticket.number, ticket.attempt) for ticket in tickets]
                if self._log.append({"kind": "claimed", "launch": self._launch, "tickets": keys}):
                    break
        return [self._fill(ticket) for ticket in tickets]

    def _available(self, book: TicketBook, count: int) -> list[Ticket]:
        if self._launch not in book.members:
            raise LaunchClosed(
                f"launch {self._launch} was taken for dead by another launcher of the study, which has queued its "
                "trials again, as it showed no sign of life for a while"
            )
        return book.available(count) if self._may_claim() else []
