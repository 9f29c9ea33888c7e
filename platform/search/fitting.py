"""Whether a trial of before a study's change fits its space now, and with which values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from atoll.platform.study.cells import same
from atoll.searchspaces.parameter import Parameter
from atoll.searchspaces.space import SearchSpace

if TYPE_CHECKING:
    from atoll.platform.search.resume import PastTrial

TOLD = ("complete", "pruned")  # states of trials that samplers learn from


class Outside(ValueError):
    """A configuration is outside of a space; the message says where."""


def completed(hyperparameters: Mapping[str, Any], configured: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """The hyperparameters of an earlier trial with those that the space has got since.

    Args:
        hyperparameters: the trial's.
        configured: all that it trained with, also what was not searched; it has the value of what is searched now.
            What it does not have, either, has the default.
        space: the space.

    Example:
        >>> from optuna.distributions import FloatDistribution
        >>> from atoll import Parameter, SearchSpace
        >>> share = FloatDistribution(0, 1)
        >>> rate, decay = (Parameter(name=name, distribution=share, default=0.5) for name in ("rate", "decay"))
        >>> completed({"rate": 0.1}, {}, SearchSpace((rate, decay)))
        {'rate': 0.1, 'decay': 0.5}
    """
    values = dict(hyperparameters)
    for name, value in space.fixed:
        if name not in values:
            known = configured.get(name)
            values[name] = value if known is None else known
    for parameter in space.parameters:
        if parameter.name not in values and parameter.is_active(values):
            known = configured.get(parameter.name)
            values[parameter.name] = parameter.default if known is None else known
    return values


def check_inside(values: Mapping[str, Any], space: SearchSpace) -> None:
    """Raise Outside if values, which are complete, are not in the space."""
    for name, value in space.fixed:
        if not same(values[name], value):
            raise Outside(f"{name} other than {value}")
    for parameter in space.parameters:
        if parameter.is_active(values):
            _check_inside(parameter, values)
    if (violated := space.violated(dict(values))) is not None:
        raise Outside(f"against {violated}")


def _check_inside(parameter: Parameter, values: Mapping[str, Any]) -> None:
    name = parameter.name
    if not parameter.contains(values.get(name)):
        raise Outside(f"{name} outside {parameter.domain()}")
    ceiling = parameter.ceiling(values)
    if ceiling is not None and values[name] > ceiling:
        raise Outside(f"{name} above {parameter.at_most}")


def is_inside(trial: PastTrial, space: SearchSpace) -> bool:
    """Whether a space holds a trial's configuration, with the defaults of what the space has got since."""
    try:
        check_inside(completed(trial.hyperparameters, trial.configured, space), space)
    except Outside:
        return False
    return True


def outside(trials: Iterable[PastTrial], space: SearchSpace) -> Counter[str]:
    """The results that a space does not hold, by reason."""
    reasons: Counter[str] = Counter()
    for trial in trials:
        if trial.state not in TOLD:
            continue
        try:
            check_inside(completed(trial.hyperparameters, trial.configured, space), space)
        except Outside as reason:
            reasons[str(reason)] += 1
    return reasons
