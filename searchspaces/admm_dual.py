"""The search space of the dual-net ADMM (002 chapters 5 and 9, which names no ranges: these span its experiments')."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="learning_rate",
            distribution=FloatDistribution(1e-3, 0.3, log=True),
            default=0.05,
            symbol="net2's rate",
            source="002 section 9.7.2 (rates a hundred times apart)",
        ),
        Parameter(
            name="net1_lr",
            distribution=FloatDistribution(1e-5, 0.3, log=True),
            default=0.01,
            symbol="net1's rate",
            source="002 section 9.5.3 (drastically decreased)",
        ),
        Parameter(
            name="grouping",
            distribution=CategoricalDistribution(["first", "even", "last"]),
            default="even",
            source="002 figure 7.2 (the third of six layers is dual)",
        ),
        Parameter(
            name="duals", distribution=CategoricalDistribution([False, True]), default=False, source="002 chapter 5"
        ),
        Parameter(
            name="loss",
            distribution=CategoricalDistribution(["euclidean", "normalised", "normalised_by_copy"]),
            default="euclidean",
            source="002 equations 9.2, 9.3, 9.4",
            only_if=("duals", (False,)),
        ),
        Parameter(
            name="hold", distribution=IntDistribution(0, 50), default=0, unit="batches", source="002 section 9.5.3"
        ),
        Parameter(
            name="rho",
            distribution=FloatDistribution(1e-3, 10.0, log=True),
            default=1.0,
            symbol="ρ",
            source="002 equation 5.5",
            only_if=("duals", (True,)),
        ),
    ),
    fixed=(("optimizer", "sgd"), ("schedule", "constant")),
)
