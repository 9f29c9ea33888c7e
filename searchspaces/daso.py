"""The search space of DASO (Coquelin 2024, table 3.1 for B and S, section 3.2 for the rest)."""

from atoll.searchspaces.parameter import choice, integer
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        integer("B", 1, 32, 4, log=True, symbol="B", unit="batches", source="Coquelin 2024, table 3.1"),
        integer("S", 0, 32, 1, symbol="S", unit="batches", source="Coquelin 2024, table 3.1", at_most="B"),
        integer("warmup_epochs", 0, 4, 4, unit="epochs", source="Coquelin 2024, section 3.2"),
        integer("cooldown_epochs", 0, 4, 4, unit="epochs", source="Coquelin 2024, section 3.2"),
        choice("wire", ["float32", "float16", "bfloat16"], "bfloat16", source="Coquelin 2024, sections 3.2 and 3.3.2"),
        choice("adaptive", [True, False], True, source="Coquelin 2024, section 3.2"),
    )
)
