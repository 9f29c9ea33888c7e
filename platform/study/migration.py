"""Where individuals may go from an island: Propulate's migration topologies, by name or as a matrix."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Matrix = list[list[int]]


class Migration(BaseModel):
    """How islands exchange individuals."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: float = Field(default=0.9, ge=0, le=1, description="to send some, per island and evaluation")
    pollination: bool = Field(
        default=True, description="whether copies travel (pollination) or individuals (migration)"
    )
    topology: Literal["full", "ring", "star", "random"] | Matrix = Field(
        default="full",
        description="to every island, to the next one, between the first and each other one, to one drawn at random, "
        "or a matrix with the number of individuals that each row's island sends to each column's",
    )
    migrants: int = Field(default=1, ge=1, description="individuals sent to an island at a time, but for a matrix")

    def check(self, num_islands: int) -> None:
        """Raise ValueError unless the topology fits so many islands."""
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
            raise ValueError("migration.topology must hold numbers of individuals, 0 or more")
        if any(self.topology[island][island] for island in range(num_islands)):
            raise ValueError("migration.topology must have zeros on its diagonal: no island sends to itself")

    def neighbours(self, island: int, num_islands: int) -> set[int]:
        """The islands that `island` may send to."""
        if self.topology == "random":
            return set(range(num_islands)) - {island}
        return set(self.targets(island, num_islands, random.Random(0))) if num_islands > 1 else set()

    def targets(self, island: int, num_islands: int, rng: random.Random) -> dict[int, int]:
        """How many individuals `island` sends to which islands at one migration."""
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
