"""The search space of data-parallel SGD: its wire format."""

from optuna.distributions import CategoricalDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="wire",
            distribution=CategoricalDistribution(["float32", "float16", "bfloat16"]),
            default="float32",
            source="001 section 3.3.2 (Horovod's setup)",
        ),
    )
)
