"""The settings of a trial's checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atoll.platform.study.fields import Strict
from atoll.platform.study.interval import Interval


class Checkpointing(Strict):
    """How often a trial's state is written, and what stays of it."""

    every: Interval = Field(description="interval of checkpoints: such as 5 epochs, 500 steps or 10 minutes")
    keep: Literal["none", "last", "all"] = Field(
        default="none",
        description="the checkpoints that stay when a trial has ended; while it trains, the last one is always there",
    )
