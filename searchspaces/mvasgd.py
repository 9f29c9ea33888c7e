"""The search space of sequential SGD with a moving average (Zhang 2016, tables 4.1 to 4.3)."""

from atoll.searchspaces.easgd_family import MOVING_RATE, SCHEDULE, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((MOVING_RATE, learning_rate(0.005, 0.05, 0.05), *SCHEDULE), exclude=("momentum",))
