"""The search space of averaged sequential SGD (Zhang 2016, tables 4.1 to 4.3)."""

from atoll.searchspaces.easgd_family import SCHEDULE, learning_rate
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace((learning_rate(0.005, 0.05, 0.05), *SCHEDULE), exclude=("momentum",))
