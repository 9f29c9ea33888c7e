"""Changes to the parameters of a search space, checked: what a study fixes, or gives another range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces import encoding
from atoll.searchspaces.condition import Condition
from atoll.searchspaces.encoding import Value
from atoll.searchspaces.parameter import Parameter

Fixed = tuple[tuple[str, Value], ...]


def override(
    parameters: Sequence[Parameter], fixed: Fixed, overrides: Mapping[str, Value | BaseDistribution]
) -> tuple[tuple[Parameter, ...], Fixed]:
    """Searched and fixed parameters, with some of those searched fixed to a value or given another distribution."""
    known = {p.name for p in parameters}
    for name in overrides:
        if name not in known:
            raise ValueError(f"the space has no parameter {name!r}; valid are {', '.join(sorted(known))}")
    searched: list[Parameter] = []
    values = list(fixed)
    for p in parameters:
        new = overrides.get(p.name)
        if p.name not in overrides:
            searched.append(p)
        elif isinstance(new, BaseDistribution):
            searched.append(replace(p, distribution=_of_same_kind(p, new), source="study file"))
        else:
            values.append((p.name, new))
    _check_ceilings(parameters, searched, dict(values))
    names = {p.name for p in searched} | {name for name, _ in values}
    return tuple(replace(p, at_most=p.at_most if p.at_most in names else None) for p in searched), tuple(values)


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
        return encoding.as_real(override) if float in kinds else override
    if isinstance(original, FloatDistribution):
        return encoding.as_real(override)
    if isinstance(original, IntDistribution) and isinstance(override, FloatDistribution):
        raise ValueError(
            f"{parameter.name} is an integer: low and high must be integers; got {override.low}, {override.high}"
        )
    return override


def _check_ceilings(original: Sequence[Parameter], searched: Iterable[Parameter], fixed: Mapping[str, Value]) -> None:
    """Raise ValueError unless a limited parameter has a value for every value of its ceiling."""
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


def with_condition(
    parameter: Parameter, condition: Condition, parameters: Iterable[Parameter], fixed: Fixed
) -> Parameter | None:
    """A parameter that is active with some values of another one; None if that one is fixed to another value.

    Raises:
        ValueError: for an unknown name, values that the other one does not have, or a second condition.
    """
    name, (other, values) = parameter.name, condition
    by_name = {p.name: p for p in parameters}
    held = dict(fixed)
    if other == name or (other not in by_name and other not in held):
        known = ", ".join(sorted({*by_name, *held} - {name}))
        raise ValueError(f"only_if of {name} must name another hyperparameter of the space, {known}; got {other}")
    if limited := sorted(p.name for p in by_name.values() if p.at_most == name):
        raise ValueError(f"{name} limits {', '.join(limited)}, so it needs a value, and cannot have only_if")
    if parameter.only_if is not None:
        _check_narrower(name, condition, parameter.only_if)
    if other in held:
        return replace(parameter, only_if=condition) if held[other] in values else None
    for value in values:
        if not by_name[other].contains(value):
            raise ValueError(f"only_if of {name}: {other} must be {by_name[other].domain()}; got {value!r}")
    return replace(parameter, only_if=condition)


def _check_narrower(name: str, condition: Condition, before: Condition) -> None:
    """Raise ValueError unless a condition allows no values beyond those of the parameter's own."""
    if before[0] != condition[0]:
        raise ValueError(f"{name} already depends on {before[0]}, and can depend on one hyperparameter only")
    if beyond := [value for value in condition[1] if value not in before[1]]:
        raise ValueError(
            f"{name} acts if {before[0]} is {' or '.join(map(str, before[1]))}; got {', '.join(map(str, beyond))}"
        )


def in_order(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """The parameters in their order, but each after those that it depends on; raises ValueError for a cycle."""
    graph = {p.name: [name for name in (p.at_most, (p.only_if or (None,))[0]) if name is not None] for p in parameters}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise ValueError(f"only_if must not form a cycle; got {' -> '.join(error.args[1])}") from None
    waiting, ordered = list(parameters), list[Parameter]()
    while waiting:
        names = {p.name for p in waiting}
        free = next(p for p in waiting if names.isdisjoint(graph[p.name]))
        waiting.remove(free)
        ordered.append(free)
    return tuple(ordered)
