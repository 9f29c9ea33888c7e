"""Several samplers that take turns and learn from one another's trials, so that no single one has to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.propagator import Propagator, Proposal
from atoll.searchspaces.space import Gene


class MixedPropagator(Propagator):
    """Asks its members in turn, by trial number, and forwards all events to all of them.

    Args:
        members: the samplers, all on the same space.
    """

    def __init__(self, members: Sequence[Propagator]) -> None:
        self._members = members

    @property
    def is_slow(self) -> bool:  # type: ignore[override]
        """Whether a member is slow."""
        return any(member.is_slow for member in self._members)

    @property
    def tells_pending(self) -> bool:  # type: ignore[override]
        """Whether a member needs to know about pending trials."""
        return any(member.tells_pending for member in self._members)

    @property
    def shares_taken(self) -> bool:  # type: ignore[override]
        """Whether a member needs to know about the configurations of all islands."""
        return any(member.shares_taken for member in self._members)

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """The proposal of the member whose turn it is, or of the next one after an infeasible proposal."""
        return self._members[(number + attempt) % len(self._members)].propose(number, attempt)

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Tell all members."""
        for member in self._members:
            member.started(number, genes, attributes)

    def arrived(self, individual: Individual) -> None:
        """Tell all members."""
        for member in self._members:
            member.arrived(individual)

    def dropped(self, number: int) -> None:
        """Tell all members."""
        for member in self._members:
            member.dropped(number)

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Tell all members."""
        for member in self._members:
            member.infeasible(number, genes, attributes)

    def taken(self, number: int, genes: Mapping[str, Gene]) -> None:
        """Tell all members."""
        for member in self._members:
            member.taken(number, genes)

    def left(self, number: int) -> None:
        """Tell all members."""
        for member in self._members:
            member.left(number)
