"""Averages of a vector over time, z_{t+1} = (1 - a_{t+1}) z_t + a_{t+1} x_t, z_0 = x_0 (Zhang 2016, chapter 4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class RunningAverage:
    """The mean z of all x so far, a_{t+1} = 1/(t+1), or a moving average with a constant rate.

    Args:
        start: (n,) x_0.
        rate: a. Default: 1/(t+1), the running mean.

    Attributes:
        value: (n,) z.
    """

    def __init__(self, start: Tensor, rate: float | None = None) -> None:
        self.value = start.clone()
        self._rate = rate
        self._num_seen = 0

    def update(self, x: Tensor) -> None:
        """Take x_t, before the next step changes it."""
        self._num_seen += 1
        self.value.lerp_(x, 1 / self._num_seen if self._rate is None else self._rate)

    def state_dict(self) -> dict[str, Any]:
        """Return z and t."""
        return {"value": self.value.clone(), "num_seen": self._num_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.value.copy_(state["value"])
        self._num_seen = state["num_seen"]
