"""The settings of a trial's checkpoints, and of the trained models that stay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from atoll.platform.study.fields import Strict
from atoll.platform.study.interval import Interval


class Checkpointing(Strict):
    """How often a trial's state is written, and what stays of it; whose trained models stay."""

    every: Interval | None = Field(
        default=None, description="interval of checkpoints: such as 5 epochs, 500 steps or 10 minutes. Default: none"
    )
    keep: Literal["none", "last", "best", "all"] = Field(
        default="none",
        description="the checkpoints that stay when a trial has ended: none, the last one, the first one at or after "
        "the best evaluation, or all; while it trains, the last one is always there",
    )
    weights: Literal["none", "best", "all"] = Field(
        default="none",
        description="the trials whose trained model stays, for `atoll export --weights`: best keeps that of each trial "
        "that was its island's incumbent when it ended, all that of each complete trial",
    )

    @model_validator(mode="after")
    def _writes_something(self) -> Checkpointing:
        if self.every is None and self.weights == "none":
            raise ValueError("checkpoint needs every, such as 10 minutes, or weights: best or all; got neither")
        if self.every is None and self.keep != "none":
            raise ValueError(f"keep needs every, the interval of checkpoints; got keep: {self.keep} without it")
        return self
