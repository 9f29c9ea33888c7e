"""The interface of a sampler on an island: what Propulate calls a propagator, population in, individual out."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from atoll.platform.search.population import Individual
    from atoll.searchspaces.space import Gene


@dataclass(frozen=True)
class Proposal:
    """An individual to be evaluated, and where it comes from.

    Attributes:
        genes: by parameter.
        operator: what made it: the sampler's name, or the genetic operators that acted, joined with +.
        parents: the numbers of the trials that it was bred from.
        sources: of each gene that was bred, the parent's number, or the operator that changed it.
        attributes: what the sampler keeps with it.
        seconds: what it took to propose it.
    """

    genes: dict[str, Gene]
    operator: str
    parents: tuple[int, ...] = ()
    sources: dict[str, int | str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


# How names of attributes begin that all samplers of an island must agree on, whatever becomes of the trial.
SHARED = "study:"


class Propagator(ABC):
    """Proposes individuals for one worker.

    What it proposes depends on what it was told, the study's seed, the trial's number and how often that trial has been
    proposed; not on what was proposed before: so a resumed search goes on as the interrupted one would have.

    Class attributes:
        is_slow: whether a proposal takes so long that it is prepared while the trial before it trains.
        tells_pending: whether it wants to know what other workers are evaluating.
    """

    is_slow: ClassVar[bool] = False
    tells_pending: ClassVar[bool] = False

    @abstractmethod
    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """An individual for trial `number`; `attempt` counts up where earlier proposals were refused."""

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:  # noqa: B027
        """Hear that a trial is being evaluated, here or by another worker."""

    def arrived(self, individual: Individual) -> None:  # noqa: B027
        """Hear of an evaluated individual."""

    def dropped(self, number: int) -> None:  # noqa: B027
        """Hear that a trial has failed, or that its proposal is not used."""

    def refused(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Hear that a proposal for a trial must not be trained, and that another one will be asked for."""
        self.dropped(number)

    def left(self, number: int) -> None:  # noqa: B027
        """Hear that an individual has emigrated."""


def seed_of(seed: int, number: int, attempt: int) -> int:
    """A seed for the proposals of one trial."""
    return random.Random(f"{seed}/{number}/{attempt}").getrandbits(32)
