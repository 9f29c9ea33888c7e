"""Cells of a table of earlier results, and what they may stand for."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NUM_REASONS = 6


@dataclass(frozen=True)
class Row:
    """A row of a source: the trial's state, its hyperparameters, and its objectives, both by name."""

    state: str
    hyperparameters: dict[str, Any]
    measured: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """The rows of a source.

    Attributes:
        rows: in their order.
        others: values that hyperparameters must have that the study does not search.
        notes: sentences on how its trainings differ.
        directions: by name of objective, as far as the source tells them.
        related_by: why its results are not those of this study's objective; None if they are.
    """

    rows: list[Row]
    others: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    directions: dict[str, str] = field(default_factory=dict)
    related_by: str | None = None


def reasons(left_out: Counter[str]) -> str:
    """How many rows are left out, and why: the most frequent reasons."""
    shown = [f"{count} {reason}" for reason, count in left_out.most_common(NUM_REASONS)]
    further = sum(left_out.values()) - sum(count for _, count in left_out.most_common(NUM_REASONS))
    shown += [f"{further} for other reasons"] if further else []
    return f"{sum(left_out.values())} left out: {', '.join(shown)}"


class LeftOut(Exception):
    """Why a row is left out."""


def readings(cell: Any) -> Iterator[Any]:
    """What a cell may stand for: itself, or what its text says, as CSV has only texts."""
    if hasattr(cell, "item"):  # of numpy
        cell = cell.item()
    yield cell
    if not isinstance(cell, str):
        return
    if cell in ("True", "False"):
        yield cell == "True"
    try:
        yield json.loads(cell)
    except (ValueError, RecursionError):
        if (number := as_number(cell)) is not None:
            yield number


def as_number(cell: Any) -> float | None:
    """A cell as a number; None if it is none."""
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def is_missing(cell: Any) -> bool:
    """Whether a cell is empty."""
    is_pandas = type(cell).__name__ in ("NAType", "NaTType")
    return cell is None or is_pandas or (isinstance(cell, float) and math.isnan(cell))


def same(value: Any, other: Any) -> bool:
    """Whether two values are equal up to rounding; true is not 1."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return math.isclose(value, other, rel_tol=1e-9)
    return bool(value == other)
