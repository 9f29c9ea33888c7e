"""The search space of MAC (000 table 4.3), for the two groups of its experiments or more; learning_rate is the last's.

The table's groupings (1,5), (3,3) and (5,1) are named first, even and last, so that they fit any chain. mu means
nothing where no residual stands beside another term: in one_term with Adam (3.12).
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="variant",
            distribution=CategoricalDistribution(["two_term", "one_term"]),
            default="two_term",
            source="000 table 4.4",
        ),
        Parameter(
            name="grouping",
            distribution=CategoricalDistribution(["first", "even", "last"]),
            default="first",
            source="000 table 4.1",
        ),
        Parameter(
            name="w_lr",
            distribution=FloatDistribution(1e-4, 10.0, log=True),
            default=3.4e-4,
            symbol="W1 learning rate",
            source="000 table 4.3",
        ),
        Parameter(
            name="w_iterations",
            distribution=CategoricalDistribution([34, 67, 100]),
            default=67,
            symbol="W1",
            unit="passes over the data",
            source="000 table 4.3",
        ),
        Parameter(
            name="learning_rate",
            distribution=FloatDistribution(1e-4, 10.0, log=True),
            default=6.7e-3,
            symbol="W2 learning rate",
            source="000 table 4.3",
        ),
        Parameter(
            name="w_iterations_last",
            distribution=CategoricalDistribution([1, 34, 67]),
            default=67,
            symbol="W2",
            unit="passes over the data",
            source="000 table 4.3",
        ),
        Parameter(
            name="z_lr",
            distribution=FloatDistribution(1e-5, 1.0, log=True),
            default=3e-5,
            symbol="Z learning rate",
            source="000 table 4.3",
        ),
        Parameter(
            name="z_iterations",
            distribution=CategoricalDistribution([1, 15, 30, 45]),
            default=1,
            symbol="Z",
            unit="passes over the data",
            source="000 table 4.3",
        ),
        Parameter(
            name="mu",
            distribution=FloatDistribution(0.1, 100.0, log=True),
            default=1.0,
            symbol="μ",
            source="000 section 4.1 (starts at 1)",
            only_if=("variant", ("two_term", "coupled")),
        ),
    ),
    fixed=(("optimizer", "adamw"), ("schedule", "constant"), ("weight_decay", 0.0)),
    without=("momentum",),
)
