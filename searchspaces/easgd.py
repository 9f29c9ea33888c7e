"""The search space of EASGD (Zhang 2016, tables 4.1 to 4.3)."""

from atoll.searchspaces.easgd_family import BETA, SCHEDULE, TAU, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((TAU, BETA, learning_rate(0.005, 0.1, 0.05), *SCHEDULE), exclude=("momentum",))
