"""Search spaces as data: parameters with Optuna distributions, and their encoding as genes.

Genes are what a propagator sees. A number is one float gene in [0, 1], on a log scale where its distribution says so; a
category is one integer gene, so that mutation draws a new category instead of stepping to a neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from atoll.searchspaces import constraint as constraints_

Value = Any  # whatever JSON has
Gene = float | int
# Why hyperparameters must not be trained, or None where they may.
Refuses = Callable[[dict[str, Value]], str | None]


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
            return d.choices[int(gene)]
        low, high = float(d.low), float(d.high) if high is None else min(float(d.high), high)
        if d.log and isinstance(d, IntDistribution):
            # Every integer gets its share of [0, 1] on the logarithmic scale.
            value = math.floor(_interpolate(gene, low - 0.5, high + 0.5, log=True) + 0.5)
            return int(min(max(value, low), high))
        if d.step:
            count = _count(low, high, d.step)
            value = low + d.step * min(math.floor(gene * count), count - 1)
            return int(value) if isinstance(d, IntDistribution) else value
        return min(max(_interpolate(gene, low, high, d.log), low), high)

    def encode(self, value: Value, high: float | None = None) -> Gene:
        """The gene whose value is `value`, for a value inside the distribution; the middle of its share."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return _index(d.choices, value)
        low, high = float(d.low), float(d.high) if high is None else min(float(d.high), high)
        if d.log and isinstance(d, IntDistribution):
            return _locate(float(value), low - 0.5, high + 0.5, log=True)
        if d.step:
            return float((round((value - low) / d.step) + 0.5) / _count(low, high, d.step))
        return _locate(float(value), low, high, d.log)

    def contains(self, value: object) -> bool:
        """Whether `value` lies in the distribution."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return _index(d.choices, value) >= 0
        if isinstance(value, bool) or not isinstance(value, int | float) or not d.low <= value <= d.high:
            return False
        steps = (value - d.low) / d.step if d.step else 0.0
        return bool(abs(steps - round(steps)) < 1e-8)  # as Optuna's FloatDistribution tells

    def domain(self) -> str:
        """The distribution in words."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return "{" + ", ".join(map(str, d.choices)) + "}"
        upper = f"{d.high:g} and at most {self.at_most}" if self.at_most else f"{d.high:g}"
        kind = "integer " if isinstance(d, IntDistribution) else ""
        steps = f" in steps of {d.step:g}" if d.step and d.step != 1 else ""
        condition = f", if {self.only_if[0]} is {' or '.join(map(str, self.only_if[1]))}" if self.only_if else ""
        return f"{kind}{d.low:g} to {upper}{', log' if d.log else ''}{steps}{condition}"

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
            "only_if": None if self.only_if is None else [self.only_if[0], list(self.only_if[1])],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Parameter:
        """The parameter that `as_dict` described."""
        plain = {name: content[name] for name in ("name", "default", "symbol", "unit", "source", "at_most")}
        condition = content["only_if"]
        only_if = None if condition is None else (condition[0], tuple(condition[1]))
        return cls(distribution=json_to_distribution(content["distribution"]), only_if=only_if, **plain)


@dataclass(frozen=True)
class SearchSpace:
    """Parameters that are searched, and values that are fixed.

    A parameter with `at_most` or `only_if` comes after the parameter it names.

    Attributes:
        parameters: what is searched.
        fixed: names and values of what is not.
        without: names of shared optimizer settings that mean nothing to the method, and are not searched for it.
        constraints: what must hold between hyperparameters, such as `S <= B`; candidates that violate one are refused.
    """

    parameters: tuple[Parameter, ...]
    fixed: tuple[tuple[str, Value], ...] = ()
    without: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

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
        return replace(
            self,
            parameters=self.parameters + other.parameters,
            fixed=self.fixed + other.fixed,
            constraints=self.constraints + other.constraints,
        )

    def overlay(self, shared: SearchSpace) -> SearchSpace:
        """This space, and what of `shared` it neither has itself nor does without."""
        known = {*self.names(), *self.without}
        both = self + replace(
            shared,
            parameters=tuple(p for p in shared.parameters if p.name not in known),
            fixed=tuple((name, value) for name, value in shared.fixed if name not in known),
        )
        return replace(both, without=self.without + shared.without)

    def names(self) -> list[str]:
        """Names of all parameters, searched and fixed."""
        return [p.name for p in self.parameters] + [name for name, _ in self.fixed]

    def limits(self) -> dict[str, tuple[float, float] | tuple[int, int]]:
        """The limits of every gene, as Propulate wants them."""
        return {p.name: p.limits() for p in self.parameters}

    def decode(self, genes: Mapping[str, Gene]) -> dict[str, Value]:
        """Hyperparameters of `genes`, with the fixed values."""
        return self.draw(lambda parameter: genes[parameter.name])[1]

    def draw(self, choose: Callable[[Parameter], Gene]) -> tuple[dict[str, Gene], dict[str, Value]]:
        """Genes and hyperparameters, chosen one parameter after the other; what means nothing is not asked for."""
        genes: dict[str, Gene] = {}
        values: dict[str, Value] = dict(self.fixed)
        for p in self.parameters:
            if _means_something(p, values):
                genes[p.name] = choose(p)
                values[p.name] = p.decode(genes[p.name], _ceiling(p, values))
        return genes, values

    def encode(self, hyperparameters: Mapping[str, Value]) -> dict[str, Gene]:
        """Genes of `hyperparameters`; raises ValueError for one that is missing or outside its range."""
        genes = {}
        for p in self.parameters:
            # The gene of what means nothing is that of the default; it may come to mean something in offspring.
            wanted = _means_something(p, hyperparameters)
            genes[p.name] = self.encode_one(p, hyperparameters) if wanted else p.encode(_nearest(p, None))
        return genes

    def encode_one(self, parameter: Parameter, hyperparameters: Mapping[str, Value]) -> Gene:
        """The gene of one parameter that means something; raises ValueError where it is missing or outside."""
        p = parameter
        if p.name not in hyperparameters or not p.contains(hyperparameters[p.name]):
            raise ValueError(f"{p.name} must be {p.domain()}; got {hyperparameters.get(p.name)!r}")
        return p.encode(hyperparameters[p.name], _ceiling(p, hyperparameters))

    def idle_genes(self) -> dict[str, Gene]:
        """The genes of parameters that mean nothing: those of their defaults."""
        return {p.name: p.encode(_nearest(p, None)) for p in self.parameters}

    def violated(self, hyperparameters: Mapping[str, Value]) -> str | None:
        """The first constraint that `hyperparameters` violate, or with which it cannot be computed; or None."""
        for c in self.constraints:
            try:
                if not constraints_.holds(c, hyperparameters):
                    return c
            except ValueError as error:
                return f"{c}: {error}"
        return None

    def constrained(self, constraints: Iterable[str]) -> SearchSpace:
        """The space with further constraints; raises ValueError for one that speaks of what the space does not have."""
        known, constraints = set(self.names()), tuple(constraints)
        for c in constraints:
            if unknown := sorted(constraints_.names(c) - known):
                raise ValueError(
                    f"the constraint {c!r} speaks of {', '.join(unknown)}, which the space does not have; it has "
                    f"{', '.join(sorted(known))}"
                )
        return replace(self, constraints=self.constraints + constraints)

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

    def override(self, overrides: Mapping[str, Value | BaseDistribution]) -> SearchSpace:
        """The space with some parameters fixed to a value, or given another distribution."""
        parameters, fixed = [], list(self.fixed)
        known = {p.name for p in self.parameters}
        for name in overrides:
            if name not in known:
                raise ValueError(f"the space has no parameter {name!r}; valid are {', '.join(sorted(known))}")
        for p in self.parameters:
            override = overrides.get(p.name)
            if p.name not in overrides:
                parameters.append(p)
            elif isinstance(override, BaseDistribution):
                parameters.append(replace(p, distribution=_of_same_kind(p, override), source="study file"))
            else:
                fixed.append((p.name, override))
        _check_ceilings(self.parameters, parameters, dict(fixed))
        return replace(self, parameters=_keep_ceilings(parameters, fixed), fixed=tuple(fixed))

    def unfix(self, names: Iterable[str]) -> SearchSpace:
        """The space without the fixed values of those `names` that it has."""
        given = set(names)
        return replace(self, fixed=tuple((name, value) for name, value in self.fixed if name not in given))

    def as_dict(self) -> dict[str, Any]:
        """The space as plain data."""
        return {
            "parameters": [p.as_dict() for p in self.parameters],
            "fixed": dict(self.fixed),
            "constraints": list(self.constraints),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchSpace:
        """The space that `as_dict` described."""
        parameters = tuple(Parameter.from_dict(parameter) for parameter in content["parameters"])
        return cls(parameters, tuple(content["fixed"].items()), constraints=tuple(content["constraints"]))


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
    original = list(original)
    lowest: dict[str, Any] = dict(fixed)
    limited = {p.name for p in original if p.at_most} | {p.at_most for p in original}
    for p in (p for p in searched if p.name in limited):
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
    if d.step:
        value = d.low + d.step * math.floor((value - d.low) / d.step + 1e-9)
    return int(value) if isinstance(d, IntDistribution) else value


def _index(choices: Sequence[Value], value: object) -> int:
    """Where `value` is among `choices`, or -1; true is not 1."""
    kind = isinstance(value, bool)
    return next((i for i, c in enumerate(choices) if c == value and isinstance(c, bool) == kind), -1)


def _count(low: float, high: float, step: float) -> int:
    """How many values a range has, in steps."""
    return math.floor((high - low) / step + 1e-9) + 1


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
