"""The search space of DNI (Tong et al. 2016, sections 4, 7.3 and 8.3).

Depth, conditioning and bootstrapped targets are those of Jaderberg et al. 2016; targets differ with
three groups or more only.
"""

from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

SOURCE = "Tong et al. 2016"

SPACE = SearchSpace(
    (
        real(
            "learning_rate",
            1e-4,
            1e-1,
            1e-3,
            log=True,
            symbol="η",
            source=f"{SOURCE}, section 7.3 (0.01, and 0.1 for backprop)",
        ),
        choice(
            "mode",
            ["update_decoupled", "fully_decoupled"],
            "update_decoupled",
            source=f"{SOURCE}, sections 5.2 and 5.3",
        ),
        integer("num_groups", 2, 3, 2, unit="interfaces + 1", source=f"{SOURCE}, sections 5.1 to 5.3"),
        choice(
            "targets",
            ["true", "bootstrapped"],
            "true",
            source=f"{SOURCE}, sections 4 and 5.2 (true); Jaderberg et al. 2016 (bootstrapped)",
            only_if=("mode", ("update_decoupled", "fully_decoupled")),
        ),
        integer("depth", 0, 2, 1, source=f"{SOURCE}, section 4"),
        integer("width", 16, 256, 64, log=True, unit="units or channels"),
        real("synthesizer_lr", 1e-5, 1e-1, 1e-3, log=True, symbol="η_M"),
        choice("conditioned", [False, True], False),
        choice("start", ["zero", "random"], "zero", source=f"{SOURCE}, section 7.3"),
        choice(
            "inputs_from",
            ["x", "previous"],
            "x",
            source=f"{SOURCE}, sections 4 and 8.3.2",
            only_if=("mode", ("fully_decoupled",)),
        ),
    ),
    fixed=(("optimizer", "adamw"),),
    exclude=("momentum",),
)
