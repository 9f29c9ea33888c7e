"""The search space of MAC (Martin 2024, table 4.3), for two groups, as in its experiments, or three.

learning_rate is that of the last group. The source's groupings (1,5), (3,3) and (5,1) are named first, even and last,
so that they fit any chain. mu is inactive where the residual is the only term: in one_term with Adam (eq. 3.12).
"""

from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

TABLE = "Martin 2024, table 4.3"

SPACE = SearchSpace(
    (
        choice("variant", ["two_term", "one_term"], "two_term", source="Martin 2024, table 4.4"),
        choice("grouping", ["first", "even", "last"], "first", source="Martin 2024, table 4.1"),
        integer(
            "num_groups",
            2,
            3,
            2,
            source="Martin 2024, sections 3.4.3 and 4.5 (more groups are its outlook)",
            only_if=("grouping", ("first", "even", "last", "balanced")),
        ),
        real("w_lr", 1e-4, 10.0, 3.4e-4, log=True, symbol="W1 learning rate", source=TABLE),
        choice("w_iterations", [34, 67, 100], 67, symbol="W1", unit="passes over the data", source=TABLE),
        real("learning_rate", 1e-4, 10.0, 6.7e-3, log=True, symbol="W2 learning rate", source=TABLE),
        choice("w_iterations_last", [1, 34, 67], 67, symbol="W2", unit="passes over the data", source=TABLE),
        real("z_lr", 1e-5, 1.0, 3e-5, log=True, symbol="Z learning rate", source=TABLE),
        choice("z_iterations", [1, 15, 30, 45], 1, symbol="Z", unit="passes over the data", source=TABLE),
        real(
            "mu",
            0.1,
            100.0,
            1.0,
            log=True,
            symbol="μ",
            source="Martin 2024, section 4.1 (starts at 1)",
            only_if=("variant", ("two_term", "coupled")),
        ),
    ),
    fixed=(("optimizer", "adamw"), ("schedule", "constant"), ("weight_decay", 0.0)),
    exclude=("momentum",),
)
