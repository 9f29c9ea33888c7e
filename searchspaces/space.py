"""Search spaces as data: parameters with Optuna distributions, and their encoding as genes.

Genes are what a propagator sees. A number is one float gene in [0, 1], on a log scale where its distribution says so; a
category is one integer gene, so that mutation draws a new category instead of stepping to a neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

Value = float | int | str | bool
Gene = float | int


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One hyperparameter that may be searched.

    Attributes:
        name: as in the method's or the optimizer's dataclass.
        distribution: its range or choices.
        default: the value of the candidate that every search tries first.
        symbol, unit: as in the source.
        source: the table that the range is taken from.
        at_most: name of another parameter whose value is this one's upper limit.
        only_if: name of another parameter, and the values of it with which this one means something; with others the
            hyperparameter is left out.
    """

    name: str
    distribution: BaseDistribution
    default: Value
    symbol: str = ""
    unit: str = ""
    source: str = ""
    at_most: str | None = None
    only_if: tuple[str, tuple[Value, ...]] | None = None

    @classmethod
    def of_study(cls, name: str, distribution: BaseDistribution, default: Value | None) -> Parameter:
        """A hyperparameter that only the study searches; the range's middle is tried where its default lies outside.

        A default of None is that of a real number which the method derives unless it is given.
        """
        if default is None or isinstance(default, float):
            distribution = _real(distribution)
        made = cls(name=name, distribution=distribution, default=0, source="study file")
        middle = made.decode(0 if isinstance(distribution, CategoricalDistribution) else 0.5)
        return replace(made, default=default if default is not None and made.contains(default) else middle)

    def limits(self) -> tuple[float, float] | tuple[int, int]:
        """The gene's limits: floats for numbers, integers for categories."""
        if isinstance(self.distribution, CategoricalDistribution):
            return 0, len(self.distribution.choices) - 1
        return 0.0, 1.0

    def decode(self, gene: Gene, high: float | None = None) -> Value:
        """The value of `gene`; `high` replaces the distribution's upper limit."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return d.choices[int(gene)]  # type: ignore[no-any-return]
        low, high = float(d.low), float(d.high) if high is None else min(float(d.high), high)
        if isinstance(d, IntDistribution):
            # Every integer gets an equal share of [0, 1], on the distribution's scale.
            value = math.floor(_interpolate(gene, low - 0.5, high + 0.5, d.log) + 0.5)
            return int(min(max(value, low), high))
        return min(max(_interpolate(gene, low, high, d.log), low), high)

    def encode(self, value: Value, high: float | None = None) -> Gene:
        """The gene whose value is `value`, for a value inside the distribution."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return int(d.choices.index(value))
        low, high = float(d.low), float(d.high) if high is None else min(float(d.high), high)
        if isinstance(d, IntDistribution):
            return _locate(float(value), low - 0.5, high + 0.5, d.log)
        return _locate(float(value), low, high, d.log)

    def contains(self, value: object) -> bool:
        """Whether `value` lies in the distribution."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return value in d.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return d.low <= value <= d.high and (isinstance(d, FloatDistribution) or float(value).is_integer())

    def domain(self) -> str:
        """The distribution in words."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return "{" + ", ".join(map(str, d.choices)) + "}"
        upper = f"{d.high:g} and at most {self.at_most}" if self.at_most else f"{d.high:g}"
        kind = "integer " if isinstance(d, IntDistribution) else ""
        condition = f", if {self.only_if[0]} is {' or '.join(map(str, self.only_if[1]))}" if self.only_if else ""
        return f"{kind}{d.low:g} to {upper}{', log' if d.log else ''}{condition}"

    def as_dict(self) -> dict[str, Any]:
        """Everything about the parameter as plain data, with Optuna's JSON for the distribution."""
        return {
            "name": self.name,
            "distribution": distribution_to_json(self.distribution),
            "domain": self.domain(),
            "default": self.default,
            "symbol": self.symbol,
            "unit": self.unit,
            "source": self.source,
            "at_most": self.at_most,
            "only_if": self.only_if,
        }


@dataclass(frozen=True)
class SearchSpace:
    """Parameters that are searched, and values that are fixed.

    A parameter with `at_most` or `only_if` comes after the parameter it names.

    Attributes:
        parameters: what is searched.
        fixed: names and values of what is not.
        without: names of shared optimizer settings that mean nothing to the method, and are not searched for it.
    """

    parameters: tuple[Parameter, ...]
    fixed: tuple[tuple[str, Value], ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = {name for name, _ in self.fixed}
        for parameter in self.parameters:
            if parameter.name in seen:
                raise ValueError(f"the search space names {parameter.name} twice")
            if parameter.at_most is not None and parameter.at_most not in seen:
                raise ValueError(f"{parameter.name} is limited by {parameter.at_most}, which must come before it")
            if parameter.only_if is not None and parameter.only_if[0] not in seen:
                raise ValueError(f"{parameter.name} depends on {parameter.only_if[0]}, which must come before it")
            seen.add(parameter.name)

    def __add__(self, other: SearchSpace) -> SearchSpace:
        return SearchSpace(self.parameters + other.parameters, self.fixed + other.fixed)

    def on_top_of(self, shared: SearchSpace) -> SearchSpace:
        """This space, and those parameters of `shared` that it neither has itself nor does without."""
        known = {*self.names(), *self.without}
        return self + SearchSpace(tuple(p for p in shared.parameters if p.name not in known))

    def names(self) -> list[str]:
        """Names of all parameters, searched and fixed."""
        return [p.name for p in self.parameters] + [name for name, _ in self.fixed]

    def limits(self) -> dict[str, tuple[float, float] | tuple[int, int]]:
        """The limits of every gene, as Propulate wants them."""
        return {p.name: p.limits() for p in self.parameters}

    def decode(self, genes: Mapping[str, Gene]) -> dict[str, Value]:
        """Hyperparameters of `genes`, with the fixed values."""
        values: dict[str, Value] = dict(self.fixed)
        for p in self.parameters:
            if _means_something(p, values):
                values[p.name] = p.decode(genes[p.name], _ceiling(p, values))
        return values

    def encode(self, hyperparameters: Mapping[str, Value]) -> dict[str, Gene]:
        """Genes of `hyperparameters`; raises ValueError for one that is missing or outside its range."""
        genes = {}
        for p in self.parameters:
            # The gene of what means nothing is that of the default; it may come to mean something in offspring.
            wanted = _means_something(p, hyperparameters)
            value = hyperparameters.get(p.name) if wanted else _nearest(p, None)
            if value is None or not p.contains(value):
                raise ValueError(f"{p.name} must be {p.domain()}; got {value!r}")
            genes[p.name] = p.encode(value, _ceiling(p, hyperparameters) if wanted else None)
        return genes

    def default(self) -> dict[str, Value]:
        """The default candidate: each default, moved into a range that was narrowed."""
        values: dict[str, Value] = dict(self.fixed)
        for p in self.parameters:
            if _means_something(p, values):
                values[p.name] = _nearest(p, _ceiling(p, values))
        return values

    def extremes(self) -> Iterator[dict[str, Value]]:
        """The default candidate, then the default with each parameter at its ends, or at each of its choices.

        Where the default leaves a parameter out, what it depends on takes a value with which it means something.
        """
        yield self.default()
        genes = self.encode(self.default())
        for p in self.parameters:
            low, high = p.limits()
            ends = (low, high) if isinstance(low, float) else range(int(low), int(high) + 1)
            yield from (self.decode(genes | self._enabling(p) | {p.name: gene}) for gene in ends)

    def _enabling(self, parameter: Parameter) -> dict[str, Gene]:
        """The gene with which the condition of `parameter` holds, where it is searched."""
        if parameter.only_if is None:
            return {}
        name, values = parameter.only_if
        others = (p for p in self.parameters if p.name == name)
        return {p.name: p.encode(value) for p in others for value in values[-1:] if p.contains(value)}

    def narrowed(self, overrides: Mapping[str, Value | BaseDistribution]) -> SearchSpace:
        """The space with some parameters fixed to a value, or given another distribution."""
        parameters, fixed = [], list(self.fixed)
        known = {p.name for p in self.parameters}
        for name in overrides:
            if name not in known:
                raise ValueError(f"the space has no parameter {name!r}; valid are {', '.join(sorted(known))}")
        for p in self.parameters:
            override = overrides.get(p.name)
            if override is None:
                parameters.append(p)
            elif isinstance(override, BaseDistribution):
                parameters.append(replace(p, distribution=_of_same_kind(p, override), source="study file"))
            else:
                fixed.append((p.name, override))
        _check_ceilings(self.parameters, parameters, dict(fixed))
        return SearchSpace(_keep_ceilings(parameters, fixed), tuple(fixed))

    def as_dict(self) -> dict[str, Any]:
        """The space as plain data."""
        return {"parameters": [p.as_dict() for p in self.parameters], "fixed": dict(self.fixed)}


def _of_same_kind(parameter: Parameter, override: BaseDistribution) -> BaseDistribution:
    """The override for `parameter`: choices, or a range of the same kind of numbers."""
    original = parameter.distribution
    if isinstance(override, CategoricalDistribution):
        if parameter.at_most is not None:
            raise ValueError(
                f"{parameter.name} is limited by {parameter.at_most}, so it takes a range or one value, no choices"
            )
        return override
    if isinstance(original, CategoricalDistribution):
        kinds = {type(choice) for choice in original.choices}
        if not kinds <= {int, float}:
            raise ValueError(f"{parameter.name} takes choices, such as {parameter.domain()}, or one value; got a range")
        return _real(override) if float in kinds else override
    if isinstance(original, FloatDistribution):
        return _real(override)
    if isinstance(original, IntDistribution) and isinstance(override, FloatDistribution):
        raise ValueError(
            f"{parameter.name} is an integer: low and high must be integers; got {override.low}, {override.high}"
        )
    return override


def _real(distribution: BaseDistribution) -> BaseDistribution:
    """A range of integers, as a study file may write it for a real number, as one of real numbers."""
    if isinstance(distribution, IntDistribution):
        return FloatDistribution(distribution.low, distribution.high, log=distribution.log)
    return distribution


def _check_ceilings(original: Iterable[Parameter], searched: Iterable[Parameter], fixed: Mapping[str, Value]) -> None:
    """Whatever its ceiling's value, a parameter must have one of its own."""
    lowest: dict[str, Any] = dict(fixed)
    for p in searched:
        d = p.distribution
        lowest[p.name] = min(d.choices) if isinstance(d, CategoricalDistribution) else d.low
    for p in original:
        if p.at_most in lowest and p.name in lowest and lowest[p.name] > lowest[p.at_most]:
            raise ValueError(
                f"{p.name} must be at most {p.at_most}: with {p.name} at {lowest[p.name]} or more, {p.at_most} must "
                f"start at {lowest[p.name]} or more; it starts at {lowest[p.at_most]}"
            )


def _keep_ceilings(parameters: Sequence[Parameter], fixed: Iterable[tuple[str, Value]]) -> tuple[Parameter, ...]:
    names = {p.name for p in parameters} | {name for name, _ in fixed}
    return tuple(replace(p, at_most=p.at_most if p.at_most in names else None) for p in parameters)


def _means_something(parameter: Parameter, values: Mapping[str, Value]) -> bool:
    """Whether the condition of `parameter` holds; a parameter that it names and that is left out is at its default."""
    if parameter.only_if is None or parameter.only_if[0] not in values:
        return True
    return values[parameter.only_if[0]] in parameter.only_if[1]


def _ceiling(parameter: Parameter, values: Mapping[str, Value]) -> float | None:
    return None if parameter.at_most is None else float(values[parameter.at_most])


def _nearest(parameter: Parameter, ceiling: float | None) -> Value:
    d = parameter.distribution
    if isinstance(d, CategoricalDistribution):
        return parameter.default if parameter.contains(parameter.default) else d.choices[0]
    high = d.high if ceiling is None else min(d.high, ceiling)
    value = min(max(float(parameter.default), d.low), high)
    return int(value) if isinstance(d, IntDistribution) else value


def _interpolate(gene: Gene, low: float, high: float, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + gene * (math.log(high) - math.log(low)))
    return low + gene * (high - low)


def _locate(value: float, low: float, high: float, log: bool) -> float:
    if high <= low:
        return 0.0
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)
