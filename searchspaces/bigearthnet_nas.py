"""The architecture and training space of 001, table 6.1: optimizer, activation and order, loss, schedule, filters.

The table's ResNet-50 has its filters in fixed ratios to the first block's. The optimizers' and schedules' own
parameters are searched too, each where it means something.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

OPTIMIZERS = ["adadelta", "adagrad", "adam", "amsgrad", "adamax", "ftrl", "nadam", "rmsprop", "sgd"]
ACTIVATIONS = [
    "elu",
    "exponential",
    "hard_sigmoid",
    "linear",
    "relu",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "swish",
    "tanh",
]
ORDERS = [
    "original",
    "bn_after_addition",
    "activation_before_addition",
    "activation_only_preactivation",
    "full_preactivation",
]
LOSSES = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "categorical_hinge",
    "hinge",
    "kl_divergence",
    "squared_hinge",
]
# Adam, Adamax, Nadam and RMSprop often reached no number in the source's runs (section 6.2), which searched them apart.
# Here they stay in the space: a failure is counted against its choices (`atoll failures`), and removes none of them.
UNSTABLE_IN_THE_SOURCE = ("adam", "adamax", "nadam", "rmsprop")
SOURCE = "001 table 6.1"

SPACE = SearchSpace(
    (
        Parameter(name="optimizer", distribution=CategoricalDistribution(OPTIMIZERS), default="sgd", source=SOURCE),
        Parameter(name="learning_rate", distribution=FloatDistribution(1e-4, 1.0, log=True), default=0.1, symbol="η"),
        Parameter(
            name="momentum",
            distribution=FloatDistribution(0.0, 0.99),
            default=0.9,
            only_if=("optimizer", ("sgd", "rmsprop")),
        ),
        Parameter(
            name="beta1",
            distribution=FloatDistribution(0.5, 0.99),
            default=0.9,
            only_if=("optimizer", ("adam", "amsgrad", "adamax", "nadam")),
        ),
        Parameter(
            name="beta2",
            distribution=FloatDistribution(0.9, 0.9999),
            default=0.999,
            only_if=("optimizer", ("adam", "amsgrad", "adamax", "nadam")),
        ),
        Parameter(
            name="smoothing",
            distribution=FloatDistribution(0.5, 0.999),
            default=0.9,
            only_if=("optimizer", ("adadelta", "rmsprop")),
        ),
        Parameter(
            name="l1",
            distribution=FloatDistribution(1e-6, 1e-1, log=True),
            default=1e-4,
            only_if=("optimizer", ("ftrl",)),
        ),
        Parameter(
            name="schedule",
            distribution=CategoricalDistribution(["exponential", "inverse_time", "polynomial"]),
            default="exponential",
            source=SOURCE,
        ),
        Parameter(
            name="decay_rate",
            distribution=FloatDistribution(0.05, 0.99),
            default=0.5,
            only_if=("schedule", ("exponential", "inverse_time")),
        ),
        Parameter(
            name="decay_period",
            distribution=FloatDistribution(0.01, 1.0, log=True),
            default=0.25,
            unit="share of the steps",
            only_if=("schedule", ("exponential", "inverse_time")),
        ),
        Parameter(
            name="decay_power",
            distribution=FloatDistribution(0.25, 4.0, log=True),
            default=1.0,
            only_if=("schedule", ("polynomial",)),
        ),
        Parameter(name="activation", distribution=CategoricalDistribution(ACTIVATIONS), default="relu", source=SOURCE),
        Parameter(
            name="order",
            distribution=CategoricalDistribution(ORDERS),
            default="original",
            source="001 figure 6.2, He et al. 2016",
        ),
        Parameter(
            name="loss", distribution=CategoricalDistribution(LOSSES), default="binary_crossentropy", source=SOURCE
        ),
        Parameter(
            name="filters",
            distribution=IntDistribution(2, 256, log=True),
            default=64,
            unit="channels of the first stage",
            source="001 section 6.2",
        ),
    )
)
