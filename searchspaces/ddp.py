"""The search space of data-parallel SGD: its wire format."""

from atoll.searchspaces.parameter import choice
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        choice(
            "wire",
            ["float32", "float16", "bfloat16"],
            "float32",
            source="Coquelin 2024, section 3.3.2 (Horovod's setup)",
        ),
    )
)
