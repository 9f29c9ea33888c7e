"""Building blocks of a study file: strict models, ranges, choices and spaces."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Strict(BaseModel):
    """A part of a file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FloatRange(Strict):
    """A range of real numbers."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = None


class IntRange(Strict):
    """A range of integers."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)


class Choices(Strict):
    """A categorical parameter."""

    type: Literal["choices"]
    choices: list[JsonValue] = Field(min_length=1)


Fixed = bool | int | float | str | list[JsonValue] | None

Override = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


def _name_types(space: object) -> object:
    """Infer the type of a range from its bounds: int, unless one of them is a float."""
    return {name: _with_type(value) for name, value in space.items()} if isinstance(space, dict) else space


Space = Annotated[dict[str, Override | Fixed], BeforeValidator(_name_types)]


def _with_type(value: object) -> object:
    if not isinstance(value, dict) or "type" in value:
        return value
    if "choices" in value:
        return {"type": "choices", **value}
    kind = "float" if any(isinstance(value.get(end), float) for end in ("low", "high")) else "int"
    return {"type": kind, **value}


def distribution(value: Override | Fixed) -> BaseDistribution | Fixed:
    """The Optuna distribution of a range or of choices; a fixed value unchanged."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(value, FloatRange):
        return FloatDistribution(value.low, value.high, log=value.log, step=value.step)
    if isinstance(value, IntRange):
        return IntDistribution(value.low, value.high, log=value.log, step=value.step)
    if isinstance(value, Choices):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about JSON values that only Optuna's databases cannot store
            return CategoricalDistribution(value.choices)
    return value
