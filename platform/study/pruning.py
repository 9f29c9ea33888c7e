"""When trials are ended early: the settings of a study file."""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Pruning(BaseModel):
    """When trials are ended early."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Literal["asha", "median"] | None = Field(
        default=None,
        description="goes on: who is among the best 1/factor of its rung, or not behind the rung's median; the "
        "method's own default, or else asha, unless given",
    )
    fidelity: Literal["epochs", "steps", "seconds"] = Field(
        default="epochs", description="what rungs and grace count; seconds are those of training"
    )
    grace: float = Field(default=1, gt=0, description="fidelity that every trial reaches: the first rung")
    factor: int = Field(default=3, ge=2, description="of asha: from rung to rung, and of trials to those that go on")
    rungs: list[float] | None = Field(
        default=None,
        min_length=1,
        description="where trials are compared; grace x factor^k for asha, every report after grace for median, unless "
        "given",
    )
    startup: int = Field(default=5, ge=1, description="of median: values at a rung before trials are ended there")
    while_falling: bool | None = Field(
        default=None,
        description="whether a trial may be ended while its training loss still falls; the method's own default, or "
        "else true, unless given",
    )

    @field_validator("rungs")
    @classmethod
    def _rising(cls, rungs: list[float] | None) -> list[float] | None:
        if rungs is not None and (rungs[0] <= 0 or any(a >= b for a, b in itertools.pairwise(rungs))):
            raise ValueError(f"rungs must be above 0 and rise; got {rungs}")
        return rungs
