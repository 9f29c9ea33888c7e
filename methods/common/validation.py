"""Checks of hyperparameters; an error states the rule and the value."""

from __future__ import annotations


def require(rule: bool, message: str) -> None:
    """Raise ValueError with `message` unless `rule` holds; for `__post_init__` of hyperparameters.

    Example:
        >>> from dataclasses import dataclass
        >>> from atoll import require
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Hyperparameters:
        ...     tau: int = 10
        ...
        ...     def __post_init__(self) -> None:
        ...         require(self.tau >= 1, f"tau must be at least 1; got {self.tau}")
        >>> Hyperparameters(tau=0)
        Traceback (most recent call last):
        ValueError: tau must be at least 1; got 0
    """
    if not rule:
        raise ValueError(message)


def require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    require(value in choices, f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
