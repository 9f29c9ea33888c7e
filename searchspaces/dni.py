"""The search space of DNI (004 sections 4, 7.3 and 8.3; depth and conditioning as in Jaderberg et al., 2016)."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="learning_rate",
            distribution=FloatDistribution(1e-4, 1e-1, log=True),
            default=1e-3,
            symbol="η",
            source="004 section 7.3 (0.01, and 0.1 for backprop)",
        ),
        Parameter(
            name="mode",
            distribution=CategoricalDistribution(["update_decoupled", "fully_decoupled"]),
            default="update_decoupled",
            source="004 sections 5.2 and 5.3",
        ),
        Parameter(
            name="num_groups",
            distribution=IntDistribution(2, 3),
            default=2,
            unit="interfaces + 1",
            source="004 sections 5.1 to 5.3",
        ),
        Parameter(name="depth", distribution=IntDistribution(0, 2), default=1, source="004 section 4"),
        Parameter(name="width", distribution=IntDistribution(16, 256, log=True), default=64, unit="units or channels"),
        Parameter(
            name="synthesizer_lr", distribution=FloatDistribution(1e-5, 1e-1, log=True), default=1e-3, symbol="η_M"
        ),
        Parameter(name="conditioned", distribution=CategoricalDistribution([False, True]), default=False),
        Parameter(
            name="start",
            distribution=CategoricalDistribution(["zero", "random"]),
            default="zero",
            source="004 section 7.3",
        ),
        Parameter(
            name="inputs_from",
            distribution=CategoricalDistribution(["x", "previous"]),
            default="x",
            source="004 sections 4 and 8.3.2",
            only_if=("mode", ("fully_decoupled",)),
        ),
    ),
    fixed=(("optimizer", "adamw"),),
    without=("momentum",),
)
