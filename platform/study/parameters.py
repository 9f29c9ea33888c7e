"""What is searched of a parameter, as scripts write it: `atoll.Float`, `atoll.Int`, `atoll.Categorical`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Float:
    """A range of real numbers.

    Args:
        low, high: the smallest and the largest value.
        log: search on a log scale.
        step: distance of the values. Default: any value in between.
        only_if: another parameter and its value, or a list of values, with which this one is searched; it is otherwise
            left out. Default: always.
        prior: where the best value is expected, such as {"mode": 0.01, "sigma": 0.1}: the most probable value, and the
            standard deviation as a share of the range. Default: anywhere.

    Example:
        >>> import atoll
        >>> space = {
        ...     "optimizer": atoll.Categorical(["sgd", "adam"]),
        ...     "rate": atoll.Float(1e-5, 1.0, log=True),
        ...     "momentum": atoll.Float(0.0, 0.99, only_if={"optimizer": "sgd"}),
        ... }
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    only_if: Mapping[str, Any] | None = None
    prior: Mapping[str, Any] | None = None

    def as_setting(self) -> dict[str, Any]:
        """As in a study file."""
        ends = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return _setting(type="float", **ends, only_if=self.only_if, prior=self.prior)


@dataclass(frozen=True)
class Int:
    """A range of integers.

    Args:
        low, high: the smallest and the largest value.
        log: search on a log scale.
        step: distance of the values.
        only_if, prior: see `Float`.

    Example:
        >>> import atoll
        >>> atoll.Int(1, 64, log=True).as_setting()
        {'type': 'int', 'low': 1, 'high': 64, 'log': True, 'step': 1}
    """

    low: int
    high: int
    log: bool = False
    step: int = 1
    only_if: Mapping[str, Any] | None = None
    prior: Mapping[str, Any] | None = None

    def as_setting(self) -> dict[str, Any]:
        """As in a study file."""
        ends = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return _setting(type="int", **ends, only_if=self.only_if, prior=self.prior)


@dataclass(frozen=True)
class Categorical:
    """Several values without an order.

    Args:
        choices: the values: numbers, strings, booleans, None, or lists of these.
        only_if, prior: see `Float`.

    Example:
        >>> import atoll
        >>> atoll.Categorical(["relu", "tanh"]).as_setting()
        {'type': 'choices', 'choices': ['relu', 'tanh']}
    """

    choices: Sequence[Any]
    only_if: Mapping[str, Any] | None = None
    prior: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.choices, str):
            raise ValueError(f"choices must be a list of values; got the string {self.choices!r}")

    def as_setting(self) -> dict[str, Any]:
        """As in a study file."""
        return _setting(type="choices", choices=list(self.choices), only_if=self.only_if, prior=self.prior)


def _setting(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def as_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space as in a study file; what is no range stays as it is, and is fixed."""
    kinds = Float | Int | Categorical
    return {name: one.as_setting() if isinstance(one, kinds) else one for name, one in space.items()}
