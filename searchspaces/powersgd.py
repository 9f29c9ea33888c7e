"""The search space of PowerSGD."""

from atoll.searchspaces.parameter import integer, real
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
        real(
            "warmup",
            0.0,
            0.5,
            0.0,
            unit="share of the steps",
            source="torch's hook (start_powerSGD_iter: to start with, a tenth of the steps)",
        ),
    )
)
