"""The search space of DOWNPOUR (Zhang 2016, tables 4.1 to 4.3)."""

from atoll.searchspaces.easgd_family import PUSH_TAU, SCHEDULE, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((PUSH_TAU, learning_rate(5e-4, 0.02, 0.005), *SCHEDULE), exclude=("momentum",))
