"""How long a training is, and when it reports, evaluates, writes checkpoints and stops early; equal on all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atoll.platform.study.interval import Every


@dataclass(frozen=True)
class Length:
    """A training's length.

    Attributes:
        num_steps: all steps.
        steps_per_epoch: the steps of a whole epoch; the last epoch may be shorter.
    """

    num_steps: int
    steps_per_epoch: int

    @property
    def num_epochs(self) -> int:
        """The number of epochs, the last of which may not be whole."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """The steps of an epoch, counted from 0."""
        return min(self.steps_per_epoch, self.num_steps - epoch * self.steps_per_epoch)


class IntervalTrigger:
    """Fires at an interval; one in seconds is looked at after as many steps as the training makes in the rest of it.

    Args:
        every: the interval. Default: an epoch.
        length: the training's.
    """

    def __init__(self, every: Every | None, length: Length) -> None:
        every = every or Every(1, "epochs")
        self.is_in_seconds = every.unit == "seconds"
        self._number = every.number
        self._steps = int(every.number * (length.steps_per_epoch if every.unit == "epochs" else 1))
        self._next = 1 if self.is_in_seconds else self._steps
        self._since = 0.0
        self._origin = (0, 0.0)

    def is_due(self, step: int) -> bool:
        """Whether to look after `step` steps; the same on all ranks."""
        return step >= self._next

    def fires(self, step: int, seconds: float) -> bool:
        """Look: whether the interval has passed. Plans the next look.

        Args:
            step: the number of completed steps.
            seconds: the training time so far, the same on all ranks; only counts for an interval in seconds.
        """
        if not self.is_in_seconds:
            self._next = step + self._steps
            return True
        steps, elapsed = step - self._origin[0], seconds - self._origin[1]
        per_step = max(elapsed / steps, 1e-9)
        has_passed = seconds - self._since + per_step / 2 >= self._number
        if has_passed:
            self._since = seconds
        # The first steps are slow, or fast, so an estimate may only reach so far.
        remaining = (self._number - (seconds - self._since)) / per_step
        self._next = step + max(1, round(min(remaining, 10.0 * steps)))
        return has_passed

    def state_dict(self) -> list[float]:
        """Return the step of the next look, and the training time when it last fired."""
        return [self._next, self._since]

    def load_state_dict(self, state: list[float], step: int, seconds: float) -> None:
        """Continue from `state` in a later attempt, perhaps on slower processors, whose first step tells their speed.

        Args:
            state: as `state_dict` has returned it.
            step: the number of completed steps.
            seconds: the training time so far, the same on all ranks.
        """
        self._next, self._since = int(state[0]), state[1]
        self._begin_at(step, seconds)

    def restart(self, step: int, seconds: float) -> None:
        """Continue in a later attempt as if it had fired just now; see `load_state_dict`."""
        self._next, self._since = step + self._steps, seconds
        self._begin_at(step, seconds)

    def _begin_at(self, step: int, seconds: float) -> None:
        if self.is_in_seconds:
            self._origin, self._next = (step, seconds), step + 1


class EarlyStopping:
    """Early stopping: ends a training whose metric has not become better for some evaluations.

    Args:
        limit: their number. Default: never.
        direction: maximize or minimize.
    """

    def __init__(self, limit: int | None, direction: str) -> None:
        self._limit = limit
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._best = math.inf
        self._num_worse = 0

    def ends(self, metric: float) -> bool:
        """Take in an evaluation's metric; whether the training is to end."""
        value = self._sign * metric
        self._num_worse = 0 if value < self._best else self._num_worse + 1
        self._best = min(self._best, value)
        return self._limit is not None and self._num_worse >= self._limit

    def state_dict(self) -> list[float]:
        """Return the best value, and the number of evaluations since."""
        return [self._best, self._num_worse]

    def load_state_dict(self, state: list[float]) -> None:
        """Continue from `state`."""
        self._best, self._num_worse = state[0], int(state[1])
