"""Ends trials early: asynchronous successive halving (ASHA; Li et al. 2020) and median stopping (Golovin et al. 2017).

At every rung a trial is compared with all that any worker of the search has brought there so far. The roots tell each
other their values over MPI; no database has a part in it. The stopping form of ASHA is used: a trial that is among the
best 1/factor of its rung goes on, any other ends; nobody waits for a rung to fill, and no trial is taken up again.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from atoll.platform.mailbox import Mailbox
    from atoll.platform.trial import Progress

RUNG = 31


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


class Ladder:
    """Which rungs there are, at which fidelities."""

    def __init__(self, settings: Pruning, rule: str) -> None:
        self._given = settings.rungs
        self._grace = settings.grace
        self._factor = settings.factor if rule == "asha" else None

    def passed(self, before: float, now: float) -> Iterator[float]:
        """The rungs above fidelity `before` and at most at `now`, in order."""
        if self._given is not None:
            yield from (rung for rung in self._given if before < rung <= now)
        elif self._factor is None:
            if now >= self._grace:
                yield now
        else:
            rung = self._grace
            while rung <= now:
                if rung > before:
                    yield rung
                rung *= self._factor


class Pruner:
    """The search's values at every rung, as one worker's root knows them, and its decisions.

    Args:
        settings: the study's.
        rule, while_falling: the settings' or the method's.
        sign: 1 where the metric is minimised, -1 where it is maximised.
        roots: mailbox between all roots.
    """

    def __init__(self, settings: Pruning, rule: str, while_falling: bool, sign: float, roots: Mailbox) -> None:
        self._settings = settings
        self._rule = rule
        self._while_falling = while_falling
        self._sign = sign
        self._roots = roots
        self._ladder = Ladder(settings, rule)
        self._values: dict[float, list[float]] = {}
        self._reached: dict[int, float] = {}  # of trials that are under way, or were before a resume
        self._losses: list[float] = []

    def replay(self, number: int, epoch: int, step: int, seconds: float, metric: float | None) -> None:
        """Learn from a report of an earlier start."""
        if metric is not None:
            fidelity = {"epochs": epoch, "steps": step, "seconds": seconds}[self._settings.fidelity]
            for rung in self._ladder.passed(self._reached.get(number, 0.0), fidelity):
                self._learn(rung, self._sign * metric)
            self._reached[number] = fidelity

    def start(self) -> None:
        """A trial begins."""
        self._reached[-1] = 0.0
        self._losses = []

    def prunes(self, progress: Progress) -> bool:
        """Whether the trial that reports is to end now; tells the other roots what it has reached."""
        self.receive()
        fidelity = {"epochs": progress.epoch, "steps": progress.step, "seconds": progress.seconds}[
            self._settings.fidelity
        ]
        value = self._sign * progress.metric
        is_behind = False
        for rung in self._ladder.passed(self._reached[-1], fidelity):
            is_behind = self._is_behind(rung, value)
            self._learn(rung, value)
            self._roots.send_to(self._roots.others(), (rung, value), RUNG)
        self._reached[-1] = fidelity
        falls = not self._losses or progress.train_loss < min(self._losses)
        self._losses.append(progress.train_loss)
        return is_behind and not progress.last and (self._while_falling or not falls)

    def _is_behind(self, rung: float, value: float) -> bool:
        others = self._values.get(rung, [])
        if self._rule == "median":
            return len(others) >= self._settings.startup and value > statistics.median(others)
        # Among the n that have come here, itself included, the best n/factor go on, and always the very best.
        place = bisect.bisect_left(others, value)
        return place >= max(1, (len(others) + 1) // self._settings.factor)

    def receive(self) -> None:
        """Take in what other workers' trials have reached."""
        while (message := self._roots.take(RUNG)) is not None:
            self._learn(*message[1])

    def _learn(self, rung: float, value: float) -> None:
        bisect.insort(self._values.setdefault(rung, []), value)
