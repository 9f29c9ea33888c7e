"""Building blocks of a study file: strict models, ranges, choices and spaces."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
    model_validator,
)

from atoll.searchspaces.condition import Condition

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


_MOST_STEPS = 1e12  # that genes, which are floats, tell apart


class Strict(BaseModel):
    """A part of a file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PriorSetting(Strict):
    """Where the best value is expected, and how surely."""

    mode: JsonValue = Field(default=None, description="the most probable value. Default: the hyperparameter's default")
    sigma: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="standard deviation, as a share of the range (of its logarithm on a log scale); of choices: 1 says "
        "nothing, small values mean that the mode is nearly certain",
    )


class Searched(Strict):
    """What is searched of a hyperparameter, and when it is."""

    prior: PriorSetting | None = Field(
        default=None, description="where the best value is expected: mode, sigma. Default: anywhere in the range"
    )

    only_if: dict[str, JsonValue] | None = Field(
        default=None,
        description="another hyperparameter and its value, or a list of its values, with which this one is searched; "
        "it is otherwise left out. Default: always",
    )

    @field_validator("only_if")
    @classmethod
    def _one_condition(cls, only_if: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if only_if is not None and len(only_if) != 1:
            raise ValueError(f"only_if must name one other hyperparameter; got {', '.join(only_if) or 'none'}")
        if only_if is not None and [] in only_if.values():
            raise ValueError("only_if must give a value of the other hyperparameter, or several; got none")
        return only_if

    @property
    def condition(self) -> Condition | None:
        """The other hyperparameter's name and its values."""
        if self.only_if is None:
            return None
        ((name, values),) = self.only_if.items()
        return name, tuple(values) if isinstance(values, list) else (values,)


class FloatRange(Searched):
    """A range of real numbers."""

    type: Literal["float"] = Field(description="may be omitted if low or high has a decimal point")
    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(default=False, description="search on a log scale")
    step: float | None = Field(default=None, description="distance of the values. Default: any value in between")

    @model_validator(mode="after")
    def _is_a_range(self) -> FloatRange:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low and high must be finite; got {self.low}, {self.high}")
        _check_ends(self.low, self.high)
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"high minus low must be finite; got {self.low}, {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 on a log scale; got {self.low}")
        if self.step is not None:
            _check_step(self.low, self.high, self.step, self.log)
        return self


class IntRange(Searched):
    """A range of integers."""

    type: Literal["int"] = Field(description="may be omitted if low and high are integers")
    low: int = Field(description="smallest value")
    high: int = Field(description="largest value")
    log: bool = Field(default=False, description="search on a log scale")
    step: int = Field(default=1, ge=1, description="distance of the values")

    @model_validator(mode="after")
    def _is_a_range(self) -> IntRange:
        _check_ends(self.low, self.high)
        if self.log and self.low < 1:
            raise ValueError(f"low must be at least 1 on a log scale; got {self.low}")
        if self.step != 1:
            _check_step(self.low, self.high, self.step, self.log)
        return self


def _check_ends(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low must be at most high; got {low}, {high}")


def _check_step(low: float, high: float, step: float, log: bool) -> None:
    if log:
        raise ValueError(f"a log scale has no step: leave out log or step; got step {step}")
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be above 0 and finite; got {step}")
    steps = (high - low) / step
    if steps > _MOST_STEPS:
        least = f"{(high - low) / _MOST_STEPS:g}"
        raise ValueError(f"step must be at least {least}, as a range has at most {_MOST_STEPS:g} steps; got {step}")
    if abs(steps - round(steps)) > 1e-8 * max(1.0, steps):
        ends = ", ".join(f"{low + step * whole:.12g}" for whole in (math.floor(steps), math.ceil(steps)))
        raise ValueError(f"high must be low plus a multiple of step, such as {ends}; got {high} with step {step}")


class Choices(Searched):
    """A categorical parameter."""

    type: Literal["choices"] = Field(description="may be omitted")
    choices: list[JsonValue] = Field(min_length=1, description="the values")


class KnownRange(Searched):
    """The range or choices that the method, the optimizer or the workload has, with a prior or a condition."""

    type: Literal["known"] = Field(description="may be omitted")


Fixed = bool | int | float | str | list[JsonValue] | None

Override = Annotated[FloatRange | IntRange | Choices | KnownRange, Field(discriminator="type")]


def _name_types(space: object) -> object:
    """Infer the type of a range from its bounds: int, unless one of them is a float."""
    return {name: _with_type(value) for name, value in space.items()} if isinstance(space, dict) else space


def _kind(value: object) -> str:
    return "range" if isinstance(value, dict | BaseModel) else "value"


# By its kind, an invalid range is one mistake, and not one for each type that it is not.
_Entry = Annotated[
    Annotated[Override, Tag("range")] | Annotated[Fixed, Tag("value")],
    Discriminator(_kind),
]
Space = Annotated[dict[str, _Entry], BeforeValidator(_name_types)]


def _with_type(value: object) -> object:
    if not isinstance(value, dict) or "type" in value:
        return value
    if "choices" in value:
        return {"type": "choices", **value}
    if value and value.keys() <= Searched.model_fields.keys():
        return {"type": "known", **value}
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
