"""The search space of DiLoCo."""

from atoll.searchspaces.parameter import integer, real
from atoll.searchspaces.space import SearchSpace

SOURCE = "Douillard et al. 2023"

SPACE = SearchSpace(
    (
        integer(
            "H",
            4,
            500,
            32,
            log=True,
            symbol="H",
            unit="steps",
            source=f"{SOURCE}, section 3 (500), down to short trainings",
        ),
        real("outer_learning_rate", 0.1, 1.0, 0.7, source=f"{SOURCE}, table 5 (0.7)"),
        real("outer_momentum", 0.0, 0.95, 0.9, source=f"{SOURCE}, table 5 (0.9)"),
    ),
    fixed=(("optimizer", "adamw"),),
    exclude=("momentum",),
)
