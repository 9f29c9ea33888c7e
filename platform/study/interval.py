"""Intervals of a training: `500 steps`, `2 epochs`, `10 minutes`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_MOST = 1e15
_UNITS: dict[str, tuple[Literal["steps", "epochs", "seconds"], float]] = {
    "step": ("steps", 1),
    "epoch": ("epochs", 1),
    "second": ("seconds", 1),
    "s": ("seconds", 1),
    "minute": ("seconds", 60),
    "min": ("seconds", 60),
    "hour": ("seconds", 3600),
    "h": ("seconds", 3600),
}


@dataclass(frozen=True)
class Every:
    """An interval.

    Attributes:
        number: how many, above 0; whole for steps and epochs.
        unit: steps, epochs or seconds.

    Example:
        >>> Every.parse("10 minutes")
        Every(number=600.0, unit='seconds')
        >>> str(Every.parse("1 epoch"))
        '1 epochs'
        >>> Every.parse(str(Every.parse("300.5 hours"))) == Every.parse("300.5 hours")
        True
        >>> Every.parse("2 days")
        Traceback (most recent call last):
        ValueError: an interval must be steps, epochs, seconds, minutes or hours, such as '500 steps'; got '2 days'
    """

    number: float
    unit: Literal["steps", "epochs", "seconds"]

    @classmethod
    def parse(cls, text: object) -> Every:
        """Read an interval; raises ValueError."""
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        unit = None if match is None else _UNITS.get(match[2]) or _UNITS.get(match[2].removesuffix("s"))
        if match is None or unit is None:
            raise ValueError(
                f"an interval must be steps, epochs, seconds, minutes or hours, such as '500 steps'; got {text!r}"
            )
        number = float(match[1]) * unit[1]
        if not 0 < number <= _MOST or (unit[0] != "seconds" and number != int(number)):
            raise ValueError(
                f"an interval must be above 0, at most {_MOST:g}, and whole in steps and epochs; got {text:.60}"
            )
        return cls(number, unit[0])

    def __str__(self) -> str:
        """Text that `parse` reads as the same interval: studies and ranks pass intervals on as text."""
        exact = f"{Decimal(repr(self.number)):f}"
        return f"{exact.removesuffix('.0')} {self.unit}"


def _read(value: Any) -> Every:
    return value if isinstance(value, Every) else Every.parse(value)


Interval = Annotated[
    Every, BeforeValidator(_read), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
