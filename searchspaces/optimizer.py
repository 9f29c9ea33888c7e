"""The optimizer space that all methods share, so that a comparison of methods searches the same settings.

It follows the optimizer: each has its range of learning rates, and what has no effect on it is not searched.

`COSINE` shapes the cosine schedule: it is in the spaces of the methods whose source searches it, and a study may add
any of its parameters to another method's space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from atoll.searchspaces.condition import Condition
from atoll.searchspaces.encoding import Value
from atoll.searchspaces.parameter import Parameter, choice, integer, real
from atoll.searchspaces.space import SearchSpace

DEFAULT = "sgd"
# The learning rates of each optimizer: lowest, highest, default. Optimizers that divide by a root of squared gradients
# take steps of the rate's size, whatever the gradient's; those of Adadelta and LARS scale steps that have their
# own size.
_SCALED = (1e-5, 1e-1, 1e-3)
_RATES = {
    "sgd": (1e-3, 1.0, 0.1),
    "adafactor": (1e-4, 1.0, 1e-2),
    "adagrad": (1e-4, 1.0, 1e-2),
    "asgd": (1e-4, 1.0, 1e-2),
    "adadelta": (1e-2, 10.0, 1.0),
    "ftrl": (1e-3, 1.0, 0.1),
    "lars": (0.1, 100.0, 1.0),
}
_ADAMS = ("adamw", "adam", "amsgrad", "adamax", "nadam", "radam", "lamb")
# Optimizers and schedules on which no setting below has an effect. On the user's own every setting may have one.
_WITHOUT = ("adagrad", "adafactor", "asgd", "constant")
# The optimizers or schedules of atoll on which a setting has an effect.
EFFECTS: dict[str, Condition] = {
    "momentum": ("optimizer", ("sgd", "lars", "rmsprop", "muon")),
    "trust": ("optimizer", ("lars",)),
    "nesterov": ("optimizer", ("sgd",)),
    "beta1": ("optimizer", (*_ADAMS, "muon")),
    "beta2": ("optimizer", (*_ADAMS, "muon")),
    "smoothing": ("optimizer", ("adadelta", "rmsprop")),
    "l1": ("optimizer", ("ftrl",)),
    "lr_decay": ("schedule", ("inverse_sqrt",)),
    "lr_k_decay": ("schedule", ("cosine",)),
    "min_lr": ("schedule", ("cosine", "linear", "polynomial", "one_cycle", "plateau")),
    "decay_rate": ("schedule", ("exponential", "inverse_time", "step", "type1", "plateau")),
    "decay_period": ("schedule", ("exponential", "inverse_time")),
    "decay_power": ("schedule", ("polynomial",)),
    "milestones": ("schedule", ("step",)),
    "lr_patience": ("schedule", ("plateau",)),
    "lr_threshold": ("schedule", ("plateau",)),
}
KNOWN = {*_WITHOUT, *(value for _, where in EFFECTS.values() for value in where)}


def acts(name: str, hyperparameters: Mapping[str, object]) -> bool:
    """Whether a setting has an effect on the configuration's optimizer and schedule; True if that is not known."""
    by, where = EFFECTS.get(name, ("", ()))
    value = hyperparameters.get(by)
    return value is None or value in where or value not in KNOWN


def acts_with_any(name: str, chosen: Mapping[str, Sequence[object]]) -> bool:
    """Whether a setting has an effect with one of the chosen optimizers or schedules; True if that is not known.

    Example:
        >>> [acts_with_any("momentum", {"optimizer": chosen}) for chosen in (["adamw", "sgd"], ["adamw"])]
        [True, False]
    """
    by, _ = EFFECTS.get(name, ("", ()))
    return any(acts(name, {by: value}) for value in chosen.get(by, (None,)))


def rates(optimizer: str) -> tuple[float, float, float]:
    """The learning rates of an optimizer: lowest, highest, default. One that is not known counts as Adam's relative."""
    return _RATES.get(optimizer, _SCALED)


def space(optimizers: Sequence[str] = (DEFAULT,)) -> SearchSpace:
    """The shared space for one optimizer, which is fixed, or for several, which are searched; the first is the default.

    Example:
        >>> space(["adamw"]).names()
        ['learning_rate', 'weight_decay', 'batch_size', 'schedule', 'optimizer']
        >>> [str(p.only_if) for p in space(["sgd", "adamw"]).parameters if p.name == "momentum"]
        ["('optimizer', ('sgd',))"]
    """
    lows, highs, defaults = zip(*map(rates, optimizers), strict=True)
    parameters = [
        real(
            "learning_rate",
            min(lows),
            max(highs),
            defaults[0],
            log=True,
            symbol="η",
            source="Coquelin 2024, tables 3.2 and A.6, widened",
        ),
        real("momentum", 0.0, 0.99, 0.9, symbol="δ"),
        real("weight_decay", 1e-6, 1e-2, 1e-4, log=True),
        integer("batch_size", 8, 128, 32, log=True, unit="samples per rank"),
        choice("schedule", ["constant", "cosine", "linear"], "cosine"),
    ]
    active = tuple(conditioned(parameters, {"optimizer": optimizers}))
    if len(optimizers) == 1:
        return SearchSpace(active, fixed=(("optimizer", optimizers[0]),))
    return SearchSpace((choice("optimizer", list(optimizers), optimizers[0]), *active))


def conditioned(parameters: Iterable[Parameter], values: dict[str, Sequence[Value]]) -> list[Parameter]:
    """The parameters that have an effect, each with a condition if that depends on the optimizer or the schedule.

    Args:
        parameters: settings of the optimizer, and others, which are kept as they are.
        values: the values that the optimizer and the schedule may have.
    """
    kept = []
    for p in parameters:
        name, where = EFFECTS.get(p.name, ("", ()))
        active = tuple(value for value in values.get(name, ()) if value in where or value not in KNOWN)
        if p.only_if is not None or name not in values or len(active) == len(values[name]):
            kept.append(p)
        elif active:
            kept.append(replace(p, only_if=(name, active)))
    return kept


SPACE = space()

COSINE = (
    real(
        "lr_warmup",
        0.0,
        0.5,
        0.0,
        unit="share of the steps",
        source="Coquelin 2024, tables A.3 (1 to 20 epochs of 200) and A.5 (2 to 10 of 20)",
    ),
    real("warmup_lr", 5e-6, 2e-4, 1e-5, log=True, source="Coquelin 2024, tables A.3 and A.5"),
    real("min_lr", 5e-6, 1e-3, 1e-5, log=True, source="Coquelin 2024, tables A.3 and A.5"),
    real("lr_k_decay", 1e-3, 2.0, 1.0, symbol="k", source="Coquelin 2024, tables A.3 (0.1 to 2) and A.5"),
)
