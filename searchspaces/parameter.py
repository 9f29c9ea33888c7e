"""One hyperparameter of a search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from atoll.searchspaces import condition, encoding
from atoll.searchspaces.condition import Condition
from atoll.searchspaces.encoding import Gene, Value
from atoll.searchspaces.prior import Prior


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A hyperparameter that may be searched.

    Attributes:
        name: as in the method's or the optimizer's dataclass.
        distribution: an Optuna distribution, its range or choices.
        default: its value in the first candidate of every search.
        symbol, unit: as in the source.
        source: of the range, such as a table.
        at_most: name of an earlier parameter whose value is this one's upper limit.
        only_if: name of an earlier parameter, and its values with which this one is active; it is otherwise left out.
        prior: where its best value is expected.

    Example:
        >>> from optuna.distributions import FloatDistribution
        >>> from atoll import Parameter
        >>> rate = Parameter(name="rate", distribution=FloatDistribution(1e-4, 1e-2, log=True), default=1e-3)
        >>> rate.domain()
        '0.0001 to 0.01, log'
        >>> round(rate.decode(0.5), 6), rate.contains(1.0)
        (0.001, False)
    """

    name: str
    distribution: BaseDistribution
    default: Value
    symbol: str = ""
    unit: str = ""
    source: str = ""
    at_most: str | None = None
    only_if: Condition | None = None
    prior: Prior | None = None

    @classmethod
    def of_study(cls, name: str, distribution: BaseDistribution, default: Value | None) -> Parameter:
        """A hyperparameter that only the study searches; its default is the range's middle if the given one is outside.

        A default of None stands for a real number that the method derives unless it is set.
        """
        if default is None or isinstance(default, float):
            distribution = encoding.as_real(distribution)
        parameter = cls.of_function(name, distribution)
        return replace(parameter, default=default) if default is not None and parameter.contains(default) else parameter

    @classmethod
    def of_function(cls, name: str, distribution: BaseDistribution) -> Parameter:
        """A parameter of a user's function; its default is the range's middle, or the first choice."""
        parameter = cls(name=name, distribution=distribution, default=0, source="study file")
        middle = parameter.decode(0 if isinstance(distribution, CategoricalDistribution) else 0.5)
        return replace(parameter, default=middle)

    def limits(self) -> tuple[float, float] | tuple[int, int]:
        """The gene's limits: floats for numbers, integers for categories."""
        return encoding.limits(self.distribution)

    def decode(self, gene: Gene, high: float | None = None) -> Value:
        """The value of `gene`; `high` lowers the distribution's upper limit."""
        return encoding.decode(self.distribution, gene, high)

    def encode(self, value: Value, high: float | None = None) -> Gene:
        """The gene of a `value` inside the distribution."""
        return encoding.encode(self.distribution, value, high)

    def place(self, value: Value, high: float | None = None) -> float:
        """The gene of a value, also of a number outside of the range; see `encoding.place`."""
        return encoding.place(self.distribution, value, high)

    def contains(self, value: object) -> bool:
        """Whether `value` lies in the distribution."""
        return encoding.contains(self.distribution, value)

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter has an effect on a candidate with these values of the other parameters."""
        return condition.is_met(self.only_if, values)

    def ceiling(self, values: Mapping[str, Value]) -> float | None:
        """The upper limit that another parameter's value sets, or None."""
        return None if self.at_most is None else float(values[self.at_most])

    def domain(self) -> str:
        """The distribution in words."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return "{" + ", ".join(map(str, d.choices)) + "}"
        upper = f"{d.high:g} and at most {self.at_most}" if self.at_most else f"{d.high:g}"
        kind = "integer " if isinstance(d, IntDistribution) else ""
        steps = f" in steps of {d.step:g}" if d.step and d.step != 1 else ""
        return f"{kind}{d.low:g} to {upper}{', log' if d.log else ''}{steps}{condition.describe(self.only_if)}"

    def as_dict(self) -> dict[str, Any]:
        """The parameter as plain data, with Optuna's JSON for the distribution."""
        return {
            "name": self.name,
            "distribution": distribution_to_json(self.distribution),
            "domain": self.domain(),
            "default": self.default,
            "symbol": self.symbol,
            "unit": self.unit,
            "source": self.source,
            "at_most": self.at_most,
            "only_if": None if self.only_if is None else [self.only_if[0], list(self.only_if[1])],
            "prior": None if self.prior is None else self.prior.as_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Parameter:
        """The parameter that `as_dict` described."""
        plain = {name: content[name] for name in ("name", "default", "symbol", "unit", "source", "at_most")}
        listed = content["only_if"]
        only_if = None if listed is None else (listed[0], tuple(listed[1]))
        prior = None if content.get("prior") is None else Prior.from_dict(content["prior"])
        return cls(distribution=json_to_distribution(content["distribution"]), only_if=only_if, prior=prior, **plain)


class _Details(TypedDict, total=False):
    """The optional attributes of a parameter."""

    symbol: str
    unit: str
    source: str
    at_most: str
    only_if: Condition


def real(
    name: str, low: float, high: float, default: float, *, log: bool = False, **details: Unpack[_Details]
) -> Parameter:
    """A parameter with real values from `low` to `high`, on a log scale if `log`."""
    return Parameter(name=name, distribution=FloatDistribution(low, high, log=log), default=default, **details)


def integer(
    name: str, low: int, high: int, default: int, *, log: bool = False, **details: Unpack[_Details]
) -> Parameter:
    """A parameter with integer values from `low` to `high`, on a log scale if `log`."""
    return Parameter(name=name, distribution=IntDistribution(low, high, log=log), default=default, **details)


def choice(
    name: str, choices: Sequence[str | float | bool], default: str | float | bool, **details: Unpack[_Details]
) -> Parameter:
    """A parameter with one of `choices`."""
    return Parameter(name=name, distribution=CategoricalDistribution(choices), default=default, **details)
