"""The search space of consensus ADMM."""

from atoll.searchspaces.easgd_family import SCHEDULE, learning_rate
from atoll.searchspaces.parameter import choice, real
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        choice("form", ["synchronous", "round_robin"], "synchronous", source="Zhang 2016, section 3.3"),
        real("rho", 1e-2, 10.0, 1.0, log=True, symbol="ρ", source="Zhang 2016, figure 3.2 (0 to 10)"),
        learning_rate(0.005, 0.1, 0.05),
        *SCHEDULE,
    ),
    exclude=("momentum",),
)
