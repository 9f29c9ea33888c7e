"""The optimizer space that all methods share, so that a comparison of methods searches the same settings.

`COSINE` shapes the cosine schedule: it is in the spaces of the methods whose source searches it, and a study may add
any of its parameters to another method's space.
"""

from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        real(
            "learning_rate", 1e-3, 1.0, 0.1, log=True, symbol="η", source="Coquelin 2024, tables 3.2 and A.6, widened"
        ),
        real("momentum", 0.0, 0.99, 0.9, symbol="δ"),
        real("weight_decay", 1e-6, 1e-2, 1e-4, log=True),
        integer("batch_size", 8, 128, 32, log=True, unit="samples per rank"),
        choice("schedule", ["constant", "cosine", "linear"], "cosine"),
    )
)

COSINE = (
    real(
        "lr_warmup",
        0.0,
        0.5,
        0.0,
        unit="share of the steps",
        source="Coquelin 2024, tables A.3 (1 to 20 epochs of 200) and A.5 (2 to 10 of 20)",
    ),
    real("warmup_lr", 5e-6, 2e-4, 1e-5, log=True, source="Coquelin 2024, tables A.3 and A.5"),
    real("min_lr", 5e-6, 1e-3, 1e-5, log=True, source="Coquelin 2024, tables A.3 and A.5"),
    real("lr_k_decay", 1e-3, 2.0, 1.0, symbol="k", source="Coquelin 2024, tables A.3 (0.1 to 2) and A.5"),
)
