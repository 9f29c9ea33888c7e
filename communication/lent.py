"""What a communicator that is lent to a user's function asks of the rank that lends it.

The function calls it from wherever it likes, so that every call first comes home: it waits until nobody else acts for
the rank, and raises the reason to end the trial, if there is one. Every wait polls, as all waits of a trial do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from atoll.communication.communicator import Patience, PeerAborted


class Unreachable(RuntimeError):
    """Ranks of the trial have returned from the function, and an operation of this one waits for them."""


def _ended() -> AbstractContextManager[None]:
    raise RuntimeError("this communicator was lent for a trial that has ended; use trial.comm of the present one")


@dataclass
class Lender:
    """The rank's side of a lent communicator.

    Attributes:
        at_home: entered by every call; raises the reason to end the trial.
        poll: called in every wait; raises the reason to end the trial.
        gives_up: tells the other ranks that this one gives up the trial, but waits for them in a collective.
        spin: whether waits may keep a core busy.
        arrivals: how many collectives this rank has entered, by the communicator's name.
        returned: the arrivals of those ranks whose function has returned.
    """

    at_home: Callable[[], AbstractContextManager[None]]
    poll: Callable[[], None]
    gives_up: Callable[[], None]
    spin: bool
    arrivals: dict[str, int] = field(default_factory=dict)
    returned: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def end(self) -> None:
        """The trial has ended: from now on every call raises RuntimeError."""
        self.at_home = _ended

    def wait(self, condition: Callable[[], bool], *, sources: Callable[[], bool] = lambda: True, what: str) -> None:
        """Return when the condition holds.

        Args:
            condition: lets the transport make progress.
            sources: whether somebody who can make the condition true has not returned yet.
            what: the operation, for the message.

        Raises:
            Unreachable: if nobody is left who can make it true.
        """
        patience = Patience(self.spin)
        while not condition():
            self.poll()
            if self.returned and not sources() and not condition():
                ranks = ", ".join(map(str, sorted(self.returned)))
                raise Unreachable(
                    f"{what} waits for ranks that have returned from the function (ranks {ranks}): a collective needs "
                    "every rank, and a message its sender"
                )
            patience.pause()

    def arrive(self, name: str, members: Sequence[int], all_here: Callable[[], bool], what: str) -> Exception | None:
        """Return when all members have arrived in a collective, in which nobody can be interrupted.

        A rank that has arrived stays until all have, or until one of them has given up before it arrived: else another
        one that sees all of them arrive would wait in the collective forever.

        Args:
            name: of the communicator; `arrivals` has counted this rank's.
            members: its ranks, by their number in the trial.
            all_here: whether all have arrived.
            what: the collective, for messages.

        Returns:
            The reason to end the trial after the collective, if one has come meanwhile.

        Raises:
            PeerAborted, Unreachable: if one of them never arrives.
        """
        number = self.arrivals[name]
        interruption: Exception | None = None

        def never_comes(arrived: Mapping[str, int]) -> bool:
            return arrived.get(name, 0) < number

        patience = Patience(self.spin)
        while not all_here():
            try:
                self.poll()
            except PeerAborted as aborted:
                if aborted.rank in members and never_comes(aborted.arrivals):
                    raise interruption or aborted from None
                interruption = interruption or aborted
            except Exception as reason:
                interruption = interruption or reason
                self.gives_up()
            absent = [rank for rank in members if rank in self.returned and never_comes(self.returned[rank])]
            if absent and not all_here():
                raise interruption or Unreachable(
                    f"trial.comm.{what} waits for rank {absent[0]}, which has returned from the function without it: "
                    "every rank must take part in a collective"
                )
            patience.pause()
        return interruption
