"""The ledger of a rank's traffic: counts, bytes and seconds by operation, scope, size and overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from atoll.communication.trace import Trace

Scope = Literal["node", "global"]


@dataclass(frozen=True, order=True)
class Exchange:
    """An entry's key: one kind of communication of one size.

    `payload_bytes` is the size of one call's tensor in its communication dtype; `overlapped` marks non-blocking calls.
    """

    operation: str
    scope: Scope
    payload_bytes: int
    overlapped: bool


@dataclass
class Tally:
    """The number of an exchange's calls, the bytes that this rank sent, and the seconds it waited."""

    count: int = 0
    wire_bytes: float = 0.0
    seconds_waited: float = 0.0


class Ledger:
    """One rank's traffic, by operation, scope, size and overlap.

    Attributes:
        trace: the recorded trace of its steps, or None.
        is_recorded: whether operations counted here become events of the trace; waits for them do in any case.
    """

    def __init__(self, trace: Trace | None = None, *, is_recorded: bool = True) -> None:
        self._tallies: dict[Exchange, Tally] = {}
        self.trace = trace
        self.is_recorded = is_recorded

    def untracked(self) -> Ledger:
        """A ledger for traffic that does not count as the method's."""
        return Ledger(self.trace, is_recorded=False)

    def tally(self, exchange: Exchange) -> Tally:
        """Return the tally of `exchange`; a new one is zero."""
        return self._tallies.setdefault(exchange, Tally())

    def wire_bytes(self, scope: Scope | None = None) -> float:
        """Bytes that this rank sent, in one scope or in all."""
        return sum(t.wire_bytes for e, t in self._tallies.items() if scope in (None, e.scope))

    def seconds_waited(self) -> float:
        """Seconds that this rank waited for communication."""
        return sum(t.seconds_waited for t in self._tallies.values())

    def rows(self) -> list[dict[str, Any]]:
        """All entries as plain dictionaries, for a journal line."""
        return [asdict(e) | asdict(t) for e, t in sorted(self._tallies.items(), key=lambda item: item[0])]

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add the entries of `rows`."""
        for row in rows:
            exchange = Exchange(row["operation"], row["scope"], row["payload_bytes"], row["overlapped"])
            tally = self.tally(exchange)
            tally.count += row["count"]
            tally.wire_bytes += row["wire_bytes"]
            tally.seconds_waited += row["seconds_waited"]

    @classmethod
    def total(cls, ranks: Iterable[Sequence[dict[str, Any]]]) -> Ledger:
        """Add up the rows of several ranks."""
        ledger = cls()
        for rows in ranks:
            ledger.add(rows)
        return ledger
