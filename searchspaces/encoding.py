"""Genes: the values of one distribution, encoded for a propagator.

A number is one float gene in [0, 1], on a log scale if its distribution is; a category is one integer gene, so that
mutation draws a new category instead of stepping to a neighbor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value = Any  # any JSON value
Gene = float | int


def limits(distribution: BaseDistribution) -> tuple[float, float] | tuple[int, int]:
    """The gene's limits: floats for numbers, integers for categories."""
    if isinstance(distribution, CategoricalDistribution):
        return 0, len(distribution.choices) - 1
    return 0.0, 1.0


def decode(distribution: BaseDistribution, gene: Gene, ceiling: float | None = None) -> Value:
    """The value of `gene`; `ceiling` lowers the distribution's upper limit."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        return d.choices[int(gene)]
    low, high = _range(d, ceiling)
    if d.log and isinstance(d, IntDistribution):
        # Every integer gets its share of [0, 1] on the logarithmic scale.
        value = math.floor(_interpolate(gene, low - 0.5, high + 0.5, log=True) + 0.5)
        return int(min(max(value, low), high))
    if d.step:
        count = _count(low, high, d.step)
        value = low + d.step * min(math.floor(gene * count), count - 1)
        return int(value) if isinstance(d, IntDistribution) else _rounded(value, low, high)
    return _rounded(_interpolate(gene, low, high, d.log), low, high, d.log)


def _rounded(value: float, low: float, high: float, log: bool = False) -> float:
    """A value in the range without the last digits, which are rounding errors: 0.0001, not 0.00010000000000000009."""
    largest = max(abs(low), abs(high))
    if not log and largest > 0:  # on a linear scale, errors are as large as the range's ends make them
        value = round(value, 13 - math.ceil(math.log10(largest)))
    return min(max(float(f"{value:.13g}"), low), high)


def encode(distribution: BaseDistribution, value: Value, ceiling: float | None = None) -> Gene:
    """The gene of a `value` inside the distribution; for stepped numbers the middle of its share."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        return _index(d.choices, value)
    low, high = _range(d, ceiling)
    if d.log and isinstance(d, IntDistribution):
        return _locate(float(value), low - 0.5, high + 0.5, log=True)
    if d.step:
        return float((round((value - low) / d.step) + 0.5) / _count(low, high, d.step))
    return _locate(float(value), low, high, d.log)


def place(distribution: BaseDistribution, value: Value, ceiling: float | None = None) -> float:
    """The gene of a value, also of a number that is outside of the range or between its steps: below 0 or above 1.

    Raises:
        ValueError: for a value that is no choice, and for a number that is not positive on a log scale.
    """
    d = distribution
    if isinstance(d, CategoricalDistribution):
        if (index := _index(d.choices, value)) < 0:
            raise ValueError(f"must be a choice of {', '.join(map(str, d.choices))}; got {value!r}")
        return float(index)
    if d.log and value <= 0:
        raise ValueError(f"must be positive on a log scale; got {value!r}")
    low, high = _range(d, ceiling)
    if d.log and isinstance(d, IntDistribution):
        low, high = low - 0.5, high + 0.5
    elif d.step:
        return float(((value - low) / d.step + 0.5) / _count(low, high, d.step))
    return _locate(float(value), low, high, d.log)


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether `value` lies in the distribution."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        return _index(d.choices, value) >= 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not d.low <= value <= d.high:
        return False
    steps = (value - d.low) / d.step if d.step else 0.0
    return bool(abs(steps - round(steps)) < 1e-8)  # the tolerance of Optuna's FloatDistribution


def nearest(distribution: BaseDistribution, value: Value, ceiling: float | None = None) -> Value:
    """The value of the distribution that is nearest to `value`; the first choice if it is not among the choices."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        return value if contains(d, value) else d.choices[0]
    high = d.high if ceiling is None else min(d.high, ceiling)
    number = min(max(float(value), d.low), high)
    if d.step:
        number = d.low + d.step * math.floor((number - d.low) / d.step + 1e-9)
    return int(number) if isinstance(d, IntDistribution) else number


def size(distribution: BaseDistribution) -> int | None:
    """The number of values of a distribution; None for a range of real numbers."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        return len(d.choices)
    return _count(float(d.low), float(d.high), d.step) if d.step else None


def values(distribution: BaseDistribution, ceiling: float | None = None) -> Iterator[Value]:
    """All values of a distribution that has a `size`; `ceiling` lowers its upper limit."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        yield from d.choices
        return
    low, high = _range(d, ceiling)
    for place in range(_count(low, high, d.step)):
        yield d.low + place * d.step if isinstance(d, IntDistribution) else _rounded(low + place * d.step, low, high)


def identity(values: Mapping[str, Value]) -> str:
    """A text that is equal for equal configurations; the last digits of a number may differ."""

    def rounded(value: Value) -> Value:
        return float(f"{value:.12g}") if isinstance(value, float) else value

    return json.dumps({name: rounded(value) for name, value in values.items()}, sort_keys=True)


def as_real(distribution: BaseDistribution) -> BaseDistribution:
    """A range of integers, as a study file may give it for a real number, turned into one of real numbers."""
    if isinstance(distribution, IntDistribution):
        return FloatDistribution(distribution.low, distribution.high, log=distribution.log)
    return distribution


def _range(distribution: FloatDistribution | IntDistribution, ceiling: float | None) -> tuple[float, float]:
    low, high = float(distribution.low), float(distribution.high)
    return low, high if ceiling is None else min(high, ceiling)


def _index(choices: Sequence[Value], value: object) -> int:
    """The position of `value` among `choices`, or -1; true is not 1."""
    kind = isinstance(value, bool)
    return next((i for i, c in enumerate(choices) if c == value and isinstance(c, bool) == kind), -1)


def _count(low: float, high: float, step: float) -> int:
    """The number of values of a stepped range."""
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
