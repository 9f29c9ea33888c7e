"""The search space of signSGD with error feedback."""

from atoll.searchspaces.parameter import choice
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        choice(
            "error_feedback", [True, False], True, source="Karimireddy, Rebjock, Stich and Jaggi 2019: with and without"
        ),
    )
)
