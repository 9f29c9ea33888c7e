"""The search space of PowerSGD."""

from atoll.searchspaces.parameter import integer
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        integer(
            "rank",
            1,
            32,
            4,
            log=True,
            symbol="r",
            source="Vogels et al. 2019, tables 3 and 7 (1, 2, 4; 4 to 32 for language)",
        ),
        integer("warmup_steps", 0, 1000, 0, unit="steps", source="torch's hook (start_powerSGD_iter, 1000)"),
    )
)
