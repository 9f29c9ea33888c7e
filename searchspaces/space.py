"""Search spaces as data: parameters with Optuna distributions, fixed values and constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution

from atoll.searchspaces import constraint as constraints_
from atoll.searchspaces import derivation, encoding
from atoll.searchspaces.condition import Condition
from atoll.searchspaces.encoding import Gene, Value
from atoll.searchspaces.parameter import Parameter

__all__ = ["Gene", "Infeasibility", "Parameter", "SearchSpace", "Value"]

# The reason for which hyperparameters are infeasible, or None if they are feasible.
Infeasibility = Callable[[dict[str, Value]], str | None]


@dataclass(frozen=True)
class SearchSpace:
    """The parameters that are searched, and the values that are fixed.

    A parameter with `at_most` or `only_if` comes after the parameter it names; `__init__` raises ValueError otherwise,
    and for a name that occurs twice.

    Attributes:
        parameters: those that are searched.
        fixed: names and values of those that are not.
        exclude: names of shared optimizer settings that have no effect on the method, and are not searched for it.
        constraints: conditions between hyperparameters, such as `S <= B`; candidates that violate one are infeasible.

    Example:
        >>> from optuna.distributions import IntDistribution
        >>> from atoll import Parameter, SearchSpace
        >>> period = Parameter(name="B", distribution=IntDistribution(1, 32, log=True), default=4)
        >>> delay = Parameter(name="S", distribution=IntDistribution(0, 32), default=1, at_most="B")
        >>> space = SearchSpace((period, delay), fixed=(("wire", "float16"),))
        >>> space.default()
        {'B': 4, 'S': 1, 'wire': 'float16'}
        >>> space.decode({"B": 0.5, "S": 1.0})  # the genes of a candidate, in [0, 1]
        {'B': 4, 'S': 4, 'wire': 'float16'}
        >>> space.override({"B": 8}).names()  # those searched, then those fixed
        ['S', 'wire', 'B']
        >>> space.constrained(["S * 2 <= B"]).violated({"B": 4, "S": 3})
        'S * 2 <= B'
    """

    parameters: tuple[Parameter, ...]
    fixed: tuple[tuple[str, Value], ...] = ()
    exclude: tuple[str, ...] = ()
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

    def names(self) -> list[str]:
        """Names of all parameters, searched and fixed."""
        return [p.name for p in self.parameters] + [name for name, _ in self.fixed]

    def limits(self) -> dict[str, tuple[float, float] | tuple[int, int]]:
        """The limits of every gene, in Propulate's format."""
        return dict(self._limits)

    @cached_property
    def _limits(self) -> dict[str, tuple[float, float] | tuple[int, int]]:
        return {p.name: p.limits() for p in self.parameters}

    def holds(self, genes: Mapping[str, object]) -> bool:
        """Whether `genes` has every gene, of the right type and within its limits, and no other."""
        limits = self._limits
        return genes.keys() == limits.keys() and all(_is_between(genes[name], *limits[name]) for name in limits)

    # Genes and hyperparameters.

    def decode(self, genes: Mapping[str, Gene]) -> dict[str, Value]:
        """Hyperparameters of `genes`, with the fixed values."""
        return self.draw(lambda parameter: genes[parameter.name])[1]

    def draw(self, choose: Callable[[Parameter], Gene]) -> tuple[dict[str, Gene], dict[str, Value]]:
        """Genes and hyperparameters, chosen one after the other; `choose` is called for active parameters only."""
        genes: dict[str, Gene] = {}
        values: dict[str, Value] = dict(self.fixed)
        for p in self.parameters:
            if p.is_active(values):
                genes[p.name] = choose(p)
                values[p.name] = p.decode(genes[p.name], p.ceiling(values))
        return genes, self._searched_first(values)

    def _searched_first(self, values: dict[str, Value]) -> dict[str, Value]:
        """The same values in the order in which readers see them."""
        for name, _ in self.fixed:
            values[name] = values.pop(name)
        return values

    def active(self, genes: Mapping[str, Gene]) -> dict[str, Gene]:
        """The genes of the parameters that are active with `genes`."""
        if all(p.only_if is None for p in self.parameters):
            return {p.name: genes[p.name] for p in self.parameters}
        return self.draw(lambda parameter: genes[parameter.name])[0]

    def encode(self, hyperparameters: Mapping[str, Value]) -> dict[str, Gene]:
        """Genes of `hyperparameters`; raises ValueError for one that is missing or outside its range.

        An inactive parameter gets its default's gene, as it may become active in offspring.
        """
        return {
            p.name: self.encode_one(p, hyperparameters) if p.is_active(hyperparameters) else _default_gene(p)
            for p in self.parameters
        }

    def encode_one(self, parameter: Parameter, hyperparameters: Mapping[str, Value]) -> Gene:
        """The gene of an active parameter; raises ValueError if it is missing or outside its range."""
        _check(parameter, hyperparameters)
        return parameter.encode(hyperparameters[parameter.name], parameter.ceiling(hyperparameters))

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        """Raise ValueError for an active parameter that is missing or outside its range."""
        for p in self.parameters:
            if p.is_active(hyperparameters):
                _check(p, hyperparameters)

    def inactive_genes(self) -> dict[str, Gene]:
        """The gene that each parameter has while it is inactive: its default's."""
        return {p.name: _default_gene(p) for p in self.parameters}

    def violated(self, hyperparameters: Mapping[str, Value]) -> str | None:
        """The first constraint that `hyperparameters` violate, or that cannot be computed with them; None if all hold.

        A constraint on an inactive parameter holds.
        """
        for c in self.constraints:
            try:
                if not constraints_.holds(c, hyperparameters):
                    return c
            except ValueError as error:
                return f"{c}: {error}"
        return None

    def default(self) -> dict[str, Value]:
        """The default candidate: each default, moved into its range."""
        values: dict[str, Value] = dict(self.fixed)
        for p in self.parameters:
            if p.is_active(values):
                values[p.name] = encoding.nearest(p.distribution, p.default, p.ceiling(values))
        return self._searched_first(values)

    def extremes(self) -> Iterator[dict[str, Value]]:
        """The default candidate, then the default with each parameter at both ends, or at each of its choices.

        For a parameter that is inactive by default, the parameter it depends on takes a value that makes it active.
        """
        yield self.default()
        genes = self.encode(self.default())
        for p in self.parameters:
            low, high = p.limits()
            ends = (low, high) if isinstance(low, float) else range(int(low), int(high) + 1)
            yield from (self.decode(genes | self._activating(p) | {p.name: gene}) for gene in ends)

    def size_bound(self) -> int | None:
        """An upper limit of the number of configurations; None if a parameter is a range of real numbers.

        Conditions and constraints make it smaller.
        """
        bound = 1
        for p in self.parameters:
            if (size := encoding.size(p.distribution)) is None:
                return None
            bound *= size
        return bound

    def every(self) -> Iterator[dict[str, Value]]:
        """Each configuration of a space that has a `size_bound` once, whether it meets the constraints or not.

        Example:
            >>> from optuna.distributions import IntDistribution
            >>> from atoll import Parameter, SearchSpace
            >>> period = Parameter(name="B", distribution=IntDistribution(1, 2), default=1)
            >>> delay = Parameter(name="S", distribution=IntDistribution(0, 2), default=0, at_most="B")
            >>> space = SearchSpace((period, delay))
            >>> space.size_bound(), [tuple(values.values()) for values in space.every()]
            (6, [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)])
        """
        yield from map(self._searched_first, self._extended(dict(self.fixed), self.parameters))

    def _extended(self, values: dict[str, Value], rest: tuple[Parameter, ...]) -> Iterator[dict[str, Value]]:
        """The configurations that begin with these values."""
        if not rest:
            yield dict(values)
            return
        first, *others = rest
        if not first.is_active(values):
            yield from self._extended(values, tuple(others))
            return
        for value in encoding.values(first.distribution, first.ceiling(values)):
            yield from self._extended(values | {first.name: value}, tuple(others))

    def _activating(self, parameter: Parameter) -> dict[str, Gene]:
        """The genes that make `parameter` active, of those that are searched."""
        if parameter.only_if is None:
            return {}
        name, values = parameter.only_if
        genes: dict[str, Gene] = {}
        for other in (p for p in self.parameters if p.name == name):
            genes |= self._activating(other)
            if other.contains(values[-1]):
                genes[name] = other.encode(values[-1])
        return genes

    # Derived spaces.

    def __add__(self, other: SearchSpace) -> SearchSpace:
        return replace(
            self,
            parameters=self.parameters + other.parameters,
            fixed=self.fixed + other.fixed,
            constraints=self.constraints + other.constraints,
        )

    def overlay(self, shared: SearchSpace) -> SearchSpace:
        """This space, and the parameters of `shared` that it neither has nor excludes."""
        known = {*self.names(), *self.exclude}
        return replace(
            self,
            parameters=self.parameters + tuple(p for p in shared.parameters if p.name not in known),
            fixed=self.fixed + tuple((name, value) for name, value in shared.fixed if name not in known),
            exclude=self.exclude + shared.exclude,
            constraints=self.constraints + shared.constraints,
        )

    def override(self, overrides: Mapping[str, Value | BaseDistribution]) -> SearchSpace:
        """The space with some parameters fixed to a value, or given another distribution.

        Raises:
            ValueError: for an unknown name, a range of another kind, or a value above its `at_most`.
        """
        parameters, fixed = derivation.override(self.parameters, self.fixed, overrides)
        return replace(self, parameters=parameters, fixed=fixed)

    def unfix(self, names: Iterable[str]) -> SearchSpace:
        """The space without the fixed values of `names`; names that are not fixed have no effect."""
        freed = set(names)
        return replace(self, fixed=tuple((name, value) for name, value in self.fixed if name not in freed))

    def conditional(self, conditions: Mapping[str, Condition]) -> SearchSpace:
        """The space in which some parameters have a condition; each comes after those that it depends on.

        A parameter that depends on a fixed value is searched always, or not at all.

        Args:
            conditions: for names of searched parameters, the name of another one and its values.

        Raises:
            ValueError: for an unknown name, values that the other one does not have, a second condition, or a circle.
        """
        if not conditions:
            return self
        if unknown := sorted(conditions.keys() - {p.name for p in self.parameters}):
            raise ValueError(f"only_if needs a searched hyperparameter; {', '.join(unknown)} is not searched")
        changed = (
            derivation.with_condition(p, conditions[p.name], self.parameters, self.fixed) if p.name in conditions else p
            for p in self.parameters
        )
        return replace(self, parameters=derivation.in_order([p for p in changed if p is not None]))

    def constrained(self, constraints: Iterable[str]) -> SearchSpace:
        """The space with further constraints; raises ValueError if one refers to a parameter that it does not have."""
        known, constraints = set(self.names()), tuple(constraints)
        for c in constraints:
            if unknown := sorted(constraints_.names(c) - known):
                raise ValueError(
                    f"the constraint {c!r} refers to {', '.join(unknown)}, which the space does not have; it has "
                    f"{', '.join(sorted(known))}"
                )
        return replace(self, constraints=self.constraints + constraints)

    # Plain data.

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


def _is_between(gene: object, low: float, high: float) -> bool:
    kinds = (int,) if isinstance(low, int) else (int, float)
    return isinstance(gene, kinds) and not isinstance(gene, bool) and low <= gene <= high


def _check(parameter: Parameter, hyperparameters: Mapping[str, Value]) -> None:
    name = parameter.name
    if name not in hyperparameters or not parameter.contains(hyperparameters[name]):
        raise ValueError(f"{name} must be {parameter.domain()}; got {hyperparameters.get(name)!r}")


def _default_gene(parameter: Parameter) -> Gene:
    return parameter.encode(encoding.nearest(parameter.distribution, parameter.default))
