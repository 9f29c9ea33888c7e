"""Conditions: a parameter is active if another parameter has one of some values, and otherwise left out."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.searchspaces.encoding import Value

Condition = tuple[str, tuple[Value, ...]]  # the name of another parameter, and its values


def is_met(condition: Condition | None, values: Mapping[str, Value]) -> bool:
    """Whether a parameter with this condition is active; it is not if the other one is inactive itself."""
    return condition is None or (condition[0] in values and values[condition[0]] in condition[1])


def describe(condition: Condition | None) -> str:
    """The condition in words, to be appended to a range."""
    return "" if condition is None else f", if {condition[0]} is {' or '.join(map(str, condition[1]))}"
