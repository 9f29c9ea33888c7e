"""What a root has heard, and when it proposed and judged, in order: a text for the lines of its journal.

Asynchronous roots know of a result once its message has arrived, and slow samplers propose one trial ahead, so nothing
else tells what a decision knew. `replay.py` repeats decisions from it. The text is short, as each trial adds to it:

    a3a1em5.2p    two results arrived; the root's own trial ended; an individual immigrated, which had migrated twice;
                  the sampler began to propose the trial of this line

Each event is a letter; then, unless it is 0, the number of the line's trial minus that of the event's; then, after a
dot, the number of migrations, unless it is the usual one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """An event. Those of the root's own running trial have no number."""

    STARTED = "s"  # a trial of another worker of the island
    ARRIVED = "a"
    DROPPED = "d"
    LEFT = "l"  # an individual was sent to another island, by this worker or another one
    IMMIGRATED = "m"
    TAKEN = "t"
    FAILED = "f"  # a trial of any island; its configuration is not to be evaluated again
    REPORTED = "r"  # a report of another worker's trial, for pruning
    PROPOSED = "p"  # the sampler begins to propose
    GIVEN_UP = "g"  # the sampler's proposal is not used
    ENDED = "e"  # the root's own trial
    JUDGED = "j"  # the next report of the root's own trial
    REPEATED = "q"  # the same, of a report from before its checkpoint


_USUAL_STEPS = {Kind.LEFT: 0, Kind.IMMIGRATED: 1}
_EVENT = re.compile(rf"([{''.join(Kind)}])(-?[0-9]+)?(?:\.([0-9]+))?")


class Heard(NamedTuple):
    """An event.

    Attributes:
        kind: see `Kind`.
        number: the trial's.
        steps: the individual's number of migrations.
    """

    kind: Kind
    number: int
    steps: int = 0


class Notes:
    """Collects the events until the next line takes them."""

    def __init__(self) -> None:
        self._events: list[tuple[Kind, int | None, int | None]] = []
        self.has_judged = False

    def add(self, kind: Kind, number: int | None = None, steps: int | None = None) -> None:
        """Note an event; see `Heard`."""
        self._events.append((kind, number, steps))
        self.has_judged = self.has_judged or kind in (Kind.JUDGED, Kind.REPEATED)

    def take(self, base: int = 0) -> str:
        """The text of the events since the last one.

        Args:
            base: the number of the line's trial; 0 if it has none.
        """
        events, self._events, self.has_judged = self._events, [], False
        return "".join(_text(kind, number, steps, base) for kind, number, steps in events)


def _text(kind: Kind, number: int | None, steps: int | None, base: int) -> str:
    difference = "" if number is None or number == base else str(base - number)
    return f"{kind}{difference}" + ("" if steps is None or steps == _USUAL_STEPS[kind] else f".{steps}")


def read(text: str, base: int = 0) -> Iterator[Heard]:
    """The events of a line's text.

    Args:
        text: as `Notes.take` has made it.
        base: the number of the line's trial; 0 if it has none.

    Raises:
        ValueError: for any other text.
    """
    place = 0
    while place < len(text):
        match = _EVENT.match(text, place)
        if match is None:
            raise ValueError(
                f"what a worker heard must be events, each a letter of {''.join(Kind)} and perhaps numbers, such as "
                f"a3a1em5.2p; got {text[place : place + 20]!r} at {place}"
            )
        kind, place = Kind(match[1]), match.end()
        steps = _USUAL_STEPS.get(kind, 0) if match[3] is None else int(match[3])
        yield Heard(kind, base - int(match[2] or 0), steps)
