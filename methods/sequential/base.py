"""The base of the sequential comparators (Zhang 2016, chapter 4): descent on one rank, optionally averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.common.averages import RunningAverage
from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.method import Batch, Context, H, Method
from atoll.methods.sequential.descent import Descent


class SequentialBase(Method[H]):
    """Step, and optionally average the iterates.

    Args:
        context: the trial's.
        averaged: whether an average of the iterates is evaluated.
        moving_rate: of that average. Default: the mean over all time.
    """

    max_ranks: ClassVar[int | None] = 1
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}

    def __init__(self, context: Context, *, averaged: bool = False, moving_rate: float | None = None) -> None:
        self._flat = context.flatten()
        self._descent = Descent(context, self._flat)
        self._average = RunningAverage(self._flat.parameters, moving_rate) if averaged else None
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked) if averaged else None

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        if self._average is not None:
            self._average.update(self._flat.parameters)
        return self._descent.step(batch)

    def evaluation_model(self) -> nn.Module:
        """Return the model, or its average with the running statistics of the model in training."""
        if self._average is None or self._evaluation_copy is None:
            return self._flat.model
        return self._evaluation_copy.load(self._average.value)

    def finalize(self) -> nn.Module:
        """Return the model or its average."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return the model, its velocity and its average."""
        average = self._average.state_dict() if self._average is not None else None
        return {"descent": self._descent.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state["descent"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
