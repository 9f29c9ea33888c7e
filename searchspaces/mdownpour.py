"""The search space of DOWNPOUR with momentum at the center (Zhang 2016, tables 4.1 and 4.2)."""

from atoll.searchspaces.easgd_family import MOMENTUM, SCHEDULE, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((learning_rate(5e-6, 5e-5, 5e-5), MOMENTUM, *SCHEDULE))
