"""The search space of AB training (Coquelin 2024): the ratios of section 5.3.3 and those of tables A.7 to A.9."""

from atoll.searchspaces.optimizer import COSINE
from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

SECTION = "Coquelin 2024, section 5.3.3"

SPACE = SearchSpace(
    (
        real(
            "learning_rate",
            1e-4,
            1e-2,
            1e-3,
            log=True,
            symbol="η",
            source="Coquelin 2024, table A.9 and A.2 (0.003, 0.0035), widened",
        ),
        *COSINE,
        real(
            "warmup",
            0.1,
            0.6,
            0.2,
            unit="share of the steps",
            source=f"{SECTION} (0.2), tables A.7 to A.9 (0.21 to 0.59)",
        ),
        real(
            "group_steps",
            0.02,
            0.12,
            1 / 30,
            log=True,
            unit="share of the steps",
            source=f"{SECTION} (1/30), tables A.7 to A.9 (0.047 to 0.1)",
        ),
        real(
            "rebound",
            0.05,
            0.5,
            0.25,
            unit="share of group_steps",
            source=f"{SECTION} (0.25), tables A.7 to A.9 (0.08 to 0.14)",
        ),
        real(
            "lr_rebound",
            0.1,
            0.7,
            0.5,
            unit="share of group_steps",
            source=f"{SECTION} (0.5), tables A.7 to A.9 (0.22 to 0.35)",
        ),
        real("cutoff", 0.02, 0.5, 0.15, source="Coquelin 2024, table A.6 (0.15), widened"),
        integer("group_size", 1, 8, 4, log=True, unit="ranks", source="Coquelin 2024, table A.6 (4)"),
        choice(
            "merge",
            ["with_stale", "only_learned", "only_b", "full"],
            "with_stale",
            source="Coquelin 2024, equation 5.8 and its comparators, section 5.3",
        ),
    ),
    fixed=(("optimizer", "adamw"), ("schedule", "cosine")),
    exclude=("momentum",),
)
