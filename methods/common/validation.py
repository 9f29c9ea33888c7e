"""Checks of hyperparameters: the error says the rule, and the value got."""

from __future__ import annotations


def require(rule: bool, message: str) -> None:
    """Raise ValueError with `message` unless `rule` holds."""
    if not rule:
        raise ValueError(message)


def require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    require(value in choices, f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
