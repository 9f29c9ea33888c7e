"""The architecture and training space of Coquelin 2024, table 6.1.

Optimizer, activation and its order, loss, schedule and filters.

The table's ResNet-50 has its filters in fixed ratios to the first block's. The optimizers' and schedules' own
parameters are searched too, each where it is active.
"""

from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

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
# The losses of Adam, Adamax, Nadam and RMSprop often became NaN in the source's runs (section 6.2), which searched them
# apart. Here they stay in the space: a failure counts against its choices (`atoll failures`) and removes none of them.
UNSTABLE_IN_THE_SOURCE = ("adam", "adamax", "nadam", "rmsprop")
SOURCE = "Coquelin 2024, table 6.1"

SPACE = SearchSpace(
    (
        choice("optimizer", OPTIMIZERS, "sgd", source=SOURCE),
        real("learning_rate", 1e-4, 1.0, 0.1, log=True, symbol="η"),
        real("momentum", 0.0, 0.99, 0.9, only_if=("optimizer", ("sgd", "rmsprop"))),
        real("beta1", 0.5, 0.99, 0.9, only_if=("optimizer", ("adam", "amsgrad", "adamax", "nadam"))),
        real("beta2", 0.9, 0.9999, 0.999, only_if=("optimizer", ("adam", "amsgrad", "adamax", "nadam"))),
        real("smoothing", 0.5, 0.999, 0.9, only_if=("optimizer", ("adadelta", "rmsprop"))),
        real("l1", 1e-6, 1e-1, 1e-4, log=True, only_if=("optimizer", ("ftrl",))),
        choice("schedule", ["exponential", "inverse_time", "polynomial"], "exponential", source=SOURCE),
        real("decay_rate", 0.05, 0.99, 0.5, only_if=("schedule", ("exponential", "inverse_time"))),
        real(
            "decay_period",
            0.01,
            1.0,
            0.25,
            log=True,
            unit="share of the steps",
            only_if=("schedule", ("exponential", "inverse_time")),
        ),
        real("decay_power", 0.25, 4.0, 1.0, log=True, only_if=("schedule", ("polynomial",))),
        choice("activation", ACTIVATIONS, "relu", source=SOURCE),
        choice("order", ORDERS, "original", source="Coquelin 2024, figure 6.2, He et al. 2016"),
        choice("loss", LOSSES, "binary_crossentropy", source=SOURCE),
        integer(
            "filters", 2, 256, 64, log=True, unit="channels of the first stage", source="Coquelin 2024, section 6.2"
        ),
    )
)
