"""The search space of sequential SGD with Nesterov's momentum (Zhang 2016, tables 4.1 to 4.3)."""

from atoll.searchspaces.easgd_family import MOMENTUM, SCHEDULE, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((learning_rate(1e-4, 1e-3, 1e-3), MOMENTUM, *SCHEDULE))
