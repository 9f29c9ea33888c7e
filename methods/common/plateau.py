"""Detects that a loss has stopped improving."""

from __future__ import annotations

import math
from typing import Any


class Plateau:
    """Detects a plateau: more than `patience` updates in a row without a relative improvement above `threshold`."""

    def __init__(self, threshold: float, patience: int) -> None:
        self._threshold = threshold
        self._patience = patience
        self._best = math.inf
        self._num_bad = 0

    def update(self, loss: float) -> bool:
        """Take the next loss; true if it completes a plateau, after which the count starts again."""
        if loss < self._best * (1 - self._threshold):
            self._best, self._num_bad = loss, 0
        else:
            self._num_bad += 1
        if self._num_bad <= self._patience:
            return False
        self._num_bad = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best loss and the count."""
        return {"best": self._best, "num_bad": self._num_bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._best, self._num_bad = state["best"], state["num_bad"]
