"""How batches are loaded from a data set that is not in memory: the settings of torch's DataLoader."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atoll.platform.study.fields import Strict


class Loader(Strict):
    """Settings of the DataLoader of each rank; tensors in memory (`Samples`) need none."""

    workers: int = Field(
        default=0, ge=0, description="processes per rank that load training batches, and as many for validation"
    )
    prefetch: int = Field(default=2, ge=1, description="batches that each worker loads ahead")
    start: Literal["fork", "spawn", "forkserver"] | None = Field(
        default=None, description="how workers start. Default: fork; spawn if ranks are threads (--in-process)"
    )
    pin_memory: bool | None = Field(
        default=None, description="whether batches are loaded into pinned memory. Default: on GPUs"
    )
