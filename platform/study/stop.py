"""The stopping rules of a study file: what ends a search before its budget is used up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from atoll.platform.study.fields import Strict

RULES = ("target", "plateau", "regret")
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


class Margin(Strict):
    """A difference of the objective: a share of the incumbent's absolute value, or in the objective's own unit.

    Example:
        >>> Margin.model_validate(_as_margin("0.1 %")).of(-50.0)
        0.05
        >>> Margin(absolute=0.3).of(-50.0)
        0.3
    """

    share: float | None = Field(
        default=None, ge=0, lt=1, allow_inf_nan=False, description="share of the incumbent's absolute value"
    )
    absolute: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="in the objective's unit, for objectives near zero"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Margin:
        if (self.share is None) == (self.absolute is None):
            raise ValueError("give one of share and absolute, such as {absolute: 0.001}")
        return self

    def of(self, incumbent: float) -> float:
        """The difference in the objective's unit."""
        return self.absolute if self.absolute is not None else (self.share or 0.0) * abs(incumbent)

    def __str__(self) -> str:
        """As in messages."""
        return f"{self.absolute:g}" if self.absolute is not None else f"{100 * (self.share or 0.0):g} %"


def _as_margin(value: Any) -> Any:
    """The mapping that a text or a number stands for."""
    if isinstance(value, str):
        if (match := _PERCENT.fullmatch(value)) is None:
            raise ValueError(
                f"must be a share such as '0.1 %' or 0.001, or {{absolute: 0.001}} in the objective's unit; "
                f"got {value[:100]!r}"
            )
        return {"share": float(match[1]) / 100}
    return {"share": value} if isinstance(value, int | float) else value


_Margin = Annotated[
    Margin,
    BeforeValidator(_as_margin),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "object"}]}),
]
_Value = Annotated[float, Field(allow_inf_nan=False)]


class Plateau(Strict):
    """Ends a search whose last trials have not improved the incumbent."""

    trials: int = Field(ge=1, description="number of complete or pruned trials in a row without an improvement")
    tolerance: _Margin = Field(
        default_factory=lambda: Margin(share=0.0),
        description="improvements up to this count as none: a share of the incumbent's absolute value, such as 0.1 % "
        "or 0.001, or {absolute: 0.001} in the objective's unit. Default: 0",
    )


class Stop(Strict):
    """Rules that end a search before its budget is used up; the first one that is met does."""

    target: (
        Annotated[
            Annotated[_Value, Tag("one")] | Annotated[dict[str, _Value], Tag("each")],
            Discriminator(lambda value: "each" if isinstance(value, dict) else "one"),
        ]
        | None
    ) = Field(
        default=None,
        description="value of the objective that a complete trial must reach, or a mapping of objectives to values, "
        "all of which one trial must reach",
    )
    plateau: Plateau | None = Field(
        default=None, description="trials: a number of trials in a row that have not improved the incumbent by more "
        "than tolerance"
    )  # fmt: skip
    regret: _Margin | None = Field(
        default=None,
        description="largest upper bound of the incumbent's distance to the optimum, by a Gaussian process on the "
        "results (Makarova et al. 2022): a share of the incumbent's absolute value, such as 0.2 %, or "
        "{absolute: 0.002}",
    )
    running: Literal["finish", "stop"] = Field(
        default="finish",
        description="trials that run when a rule is met: finish, or stop, from which a study continues that is resumed "
        "with another rule",
    )

    @model_validator(mode="after")
    def _some_rule(self) -> Stop:
        if all(getattr(self, rule) is None for rule in RULES):
            raise ValueError(f"stop needs a rule: one or several of {', '.join(RULES)}")
        if self.target == {}:
            raise ValueError("target must name at least one objective, such as {accuracy: 0.97}; got none")
        if self.regret is not None and not self.regret.of(1.0):
            raise ValueError("regret must be above 0, as the bound always is; got 0")
        return self

    def check(self, objectives: Sequence[str]) -> None:
        """Raise ValueError unless the rules fit the study's objectives, of which these are the names."""
        names = ", ".join(objectives)
        if isinstance(self.target, dict):
            if unknown := [name for name in self.target if name not in objectives]:
                raise ValueError(f"target must be of objectives of the study ({names}); got {', '.join(unknown)}")
        elif self.target is not None and len(objectives) > 1:
            example = ", ".join(f"{name}: {self.target:g}" for name in objectives[:1])
            raise ValueError(
                f"target needs the objective's name with several objectives ({names}), such as {{{example}}}; "
                f"got {self.target:g}"
            )
        for rule in ("plateau", "regret"):
            if getattr(self, rule) is not None and len(objectives) > 1:
                raise ValueError(
                    f"{rule} needs a single objective, as several have no one incumbent; got {len(objectives)} "
                    f"({names}): use target with a value for each, or a budget"
                )
