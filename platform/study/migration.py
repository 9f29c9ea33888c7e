"""Migration between islands: topologies, by name or as a matrix, and who leaves and who is replaced."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Matrix = list[list[int]]
Replace = Literal["none", "worst", "random"]
NUM_CONTESTANTS = 3


class Migration(BaseModel):
    """The exchange of individuals between islands."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: float = Field(
        default=0.9, ge=0, le=1, description="probability of sending individuals, per island and evaluation"
    )
    pollination: bool = Field(
        default=True, description="true: copies are sent (pollination); false: individuals move (migration)"
    )
    topology: Literal["full", "ring", "star", "random"] | Matrix = Field(
        default="full",
        description="full: to every island; ring: to the next; star: between the first and each other; random: to a "
        "random one; or a matrix whose rows send this many individuals to each column",
    )
    migrants: int = Field(default=1, ge=1, description="individuals sent to an island at a time; a matrix overrides it")
    emigrate: Literal["best", "random", "tournament"] = Field(
        default="best",
        description="which of a worker's individuals are sent: the best; any, at random; or the best of a few random "
        "ones (tournament)",
    )
    tournament: int = Field(
        default=NUM_CONTESTANTS, ge=2, description="individuals in a tournament, with emigrate: tournament"
    )
    replace: Replace = Field(
        default="none",
        description="which individuals no longer breed on an island as copies from other islands take their places: "
        "none, the worst, or earlier ones at random; needs pollination, and a sampler that breeds",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Migration:
        if self.tournament != NUM_CONTESTANTS and self.emigrate != "tournament":
            raise ValueError(
                f"tournament needs emigrate: tournament; got {self.tournament} with emigrate: {self.emigrate}"
            )
        if self.replace != "none" and not self.pollination:
            raise ValueError(
                "replace must be none with pollination: false, as individuals that move leave room for others; got "
                f"{self.replace}"
            )
        return self

    def check(self, num_islands: int) -> None:
        """Raise ValueError unless the topology fits the number of islands."""
        if isinstance(self.topology, str):
            return
        rows = [len(row) for row in self.topology]
        if rows != [num_islands] * num_islands:
            sizes = sorted(set(rows))
            shape = f"{len(rows)} rows of {' or '.join(map(str, sizes))}"
            raise ValueError(
                f"migration.topology must be a matrix of {num_islands} x {num_islands}, one row per island; got {shape}"
            )
        if any(number < 0 for row in self.topology for number in row):
            raise ValueError(f"migration.topology must hold integers of at least 0; got {self.topology}")
        if any(self.topology[island][island] for island in range(num_islands)):
            raise ValueError(
                f"migration.topology must have a zero diagonal, as no island sends to itself; got {self.topology}"
            )

    def neighbors(self, island: int, num_islands: int) -> set[int]:
        """The islands that `island` may send to."""
        if self.topology == "random":
            return set(range(num_islands)) - {island}
        return set(self.targets(island, num_islands, random.Random(0))) if num_islands > 1 else set()

    def targets(self, island: int, num_islands: int, rng: random.Random) -> dict[int, int]:
        """The number of individuals that `island` sends in one migration, by target island."""
        if not isinstance(self.topology, str):
            return {target: number for target, number in enumerate(self.topology[island]) if number}
        others = [other for other in range(num_islands) if other != island]
        if self.topology == "ring":
            others = [(island + 1) % num_islands]
        elif self.topology == "star" and island != 0:
            others = [0]
        elif self.topology == "random":
            others = [rng.choice(others)]
        return dict.fromkeys(others, self.migrants)
