"""The search space of DOWNPOUR with a moving average of its center (Zhang 2016, table 4.1)."""

from atoll.searchspaces.easgd_family import MOVING_RATE, PUSH_TAU, SCHEDULE, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((PUSH_TAU, MOVING_RATE, learning_rate(5e-4, 0.005, 0.005), *SCHEDULE), exclude=("momentum",))
