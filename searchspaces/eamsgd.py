"""The search space of EAMSGD (Zhang 2016, tables 4.1 to 4.3)."""

from atoll.searchspaces.easgd_family import BETA, MOMENTUM, SCHEDULE, TAU, learning_rate
from atoll.searchspaces.parameter import choice
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        TAU,
        BETA,
        choice("momentum_form", ["nesterov", "heavy_ball"], "nesterov", source="Zhang 2016, section 2.3"),
        learning_rate(0.001, 0.01, 0.005),
        MOMENTUM,
        *SCHEDULE,
    )
)
