"""The search space of the dual-net ADMM (Dziwulski 2017, chapters 5 and 9).

The source names no ranges; these span its experiments.
"""

from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

SOURCE = "Dziwulski 2017"

SPACE = SearchSpace(
    (
        real(
            "learning_rate",
            1e-3,
            0.3,
            0.05,
            log=True,
            symbol="net2's rate",
            source=f"{SOURCE}, section 9.7.2 (rates a hundred times apart)",
        ),
        real(
            "net1_lr",
            1e-5,
            0.3,
            0.01,
            log=True,
            symbol="net1's rate",
            source=f"{SOURCE}, section 9.5.3 (drastically decreased)",
        ),
        choice(
            "grouping",
            ["first", "even", "last"],
            "even",
            source=f"{SOURCE}, figure 7.2 (the third of six layers is dual)",
        ),
        choice("duals", [False, True], False, source=f"{SOURCE}, chapter 5"),
        choice(
            "loss",
            ["euclidean", "normalised", "normalised_by_copy"],
            "euclidean",
            source=f"{SOURCE}, equations 9.2, 9.3, 9.4",
            only_if=("duals", (False,)),
        ),
        integer("hold", 0, 50, 0, unit="batches", source=f"{SOURCE}, section 9.5.3"),
        real(
            "rho", 1e-3, 10.0, 1.0, log=True, symbol="ρ", source=f"{SOURCE}, equation 5.5", only_if=("duals", (True,))
        ),
    ),
    fixed=(("optimizer", "sgd"), ("schedule", "constant")),
)
