"""The interface of a sampler on an island, in Propulate's terms a propagator: population in, individual out."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from atoll.platform.search.population import Individual
    from atoll.searchspaces.space import Gene


@dataclass(frozen=True)
class Proposal:
    """An individual to evaluate, and its origin.

    Attributes:
        genes: the genes by parameter.
        operator: the sampler's name, or the genetic operators that made it, joined with +.
        parents: the numbers of its parents' trials.
        sources: the origin of each bred gene: the parent's number, or the operator that changed it.
        attributes: the sampler's data.
        seconds: the time taken to propose it.
    """

    genes: dict[str, Gene]
    operator: str
    parents: tuple[int, ...] = ()
    sources: dict[str, int | str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Breeders(Protocol):
    """The part of an island's population that samplers see."""

    @property
    def size(self) -> int:
        """The size of the breeding population."""

    def __len__(self) -> int: ...

    def best(self) -> list[Individual]:
        """The breeding population, best first; another list whenever it changes."""


# Prefix of study-level attributes, which all samplers of an island share.
SHARED = "study:"


class Propagator(ABC):
    """Proposes individuals for one worker.

    A proposal depends on the events received, the study's seed, the trial's number and the number of proposals for that
    trial, but not on earlier proposals. So a resumed search continues as the interrupted one would have.

    Class attributes:
        is_slow: whether a proposal takes so long that it should be prepared while the previous trial trains.
        tells_pending: whether it needs to know what other workers are evaluating.
        shares_taken: whether it needs to know which configurations the workers of all islands have evaluated.
    """

    is_slow: ClassVar[bool] = False
    tells_pending: ClassVar[bool] = False
    shares_taken: ClassVar[bool] = False

    @abstractmethod
    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """An individual for trial `number`; `attempt` counts its earlier infeasible proposals."""

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:  # noqa: B027
        """A trial is being evaluated, here or by another worker."""

    def arrived(self, individual: Individual) -> None:  # noqa: B027
        """An individual has been evaluated."""

    def dropped(self, number: int) -> None:  # noqa: B027
        """A trial has failed, or its proposal is not used."""

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A proposal for a trial was infeasible; another one will be requested."""
        self.dropped(number)

    def taken(self, number: int, genes: Mapping[str, Gene]) -> None:  # noqa: B027
        """A worker, of any island or launcher, evaluates this configuration or has evaluated it."""

    def left(self, number: int) -> None:  # noqa: B027
        """An individual has emigrated."""


def seed_of(seed: int, number: int, attempt: int) -> int:
    """A seed for the proposals of one trial."""
    return random.Random(f"{seed}/{number}/{attempt}").getrandbits(32)
