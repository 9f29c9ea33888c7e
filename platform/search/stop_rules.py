"""Whether a rule of the study's `stop` is met: a function of the recorded results, and of nothing else.

Results count in the order of the trials' numbers, and not of their ends, so neither clocks nor the number of workers
matter, and a resumed search decides as the one before. Once a rule is met, this is recorded (`StopRuleMet`) and stands
although trials that were running may still improve the incumbent. A larger budget asks for more than what has met a
rule: from its start or change on (`StudyStarted`, `StudyChanged`), only results that are new count for a rule that has
not changed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.analysis.formatting import counted, number
from atoll.platform.study import objectives as losses_of
from atoll.platform.study.objectives import Objective
from atoll.platform.study.stop import RULES, Margin, Stop
from atoll.platform.study.study import BUDGETS
from atoll.storage.events import (
    Event,
    RegretBounded,
    StopRuleMet,
    StudyChanged,
    StudyStarted,
    TrialEnded,
    TrialKey,
    TrialStarted,
)

if TYPE_CHECKING:
    from atoll.platform.search.resume import Past, PastTrial
    from atoll.platform.study.plan import Length, Plan

COUNTED = ("complete", "pruned", "failed")


def stagnation(best: Sequence[float], margin: Margin, most: int) -> int:
    """The number of the last trials that have not improved the incumbent by more than the margin, at most `most`.

    Args:
        best: the lowest loss up to each trial.
        margin: of the incumbent before these trials.
        most: the largest number of interest.
    """
    count = 0
    for before in reversed(best[-most - 1 : -1]):
        if not math.isfinite(before) or before - best[-1] > margin.of(before):
            break
        count += 1
    return count


class Incumbents:
    """The lowest loss up to each trial, by the trials' numbers, whatever the order in which they end."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._losses: list[float] = []
        self.best: list[float] = []

    def num_since(self, number: int) -> int:
        """The trials with this number and higher ones."""
        return len(self._numbers) - bisect.bisect_left(self._numbers, number)

    def put(self, number: int, loss: float) -> None:
        """Take in a trial's loss, or a newer one; infinite if it has none that compares."""
        place = bisect.bisect_left(self._numbers, number)
        if place < len(self._numbers) and self._numbers[place] == number:
            self._losses[place] = loss
        else:
            self._numbers.insert(place, number)
            self._losses.insert(place, loss)
            self.best.insert(place, math.nan)
        low = self.best[place - 1] if place else math.inf
        for later in range(place, len(self._losses)):
            low = min(low, self._losses[later])
            if later > place and self.best[later] == low:
                break  # and so are all after it
            self.best[later] = low


@dataclass(frozen=True)
class Met:
    """A rule that is met.

    Attributes:
        rule: target, plateau or regret.
        reason: in words.
        trial: the number of the trial that has met it, if it is one.
    """

    rule: str
    reason: str
    trial: int | None = None


def _is_population_based(sampler: object) -> bool:
    return isinstance(sampler, dict) and sampler.get("name") == "pbt"


class StopRules:
    """The rules of one study, and the results so far.

    Only results of the study's present length count, as others do not compare. A pruned trial counts as one that has
    not improved the incumbent; with promotion it has paused and may go on, so it does not count yet.

    Args:
        stop: the rules.
        objectives: the study's, with their directions.
        length: of its trainings; None for a function.
        promotes: whether pruned trials may be promoted.

    Attributes:
        num_complete: complete trials with a finite objective.
    """

    def __init__(self, stop: Stop, objectives: Sequence[Objective], length: Length | None, *, promotes: bool) -> None:
        self.stop = stop
        self.length: list[str | int] | None = None if length is None else list(length)
        self.num_complete = 0
        self._objectives = objectives
        self._promotes = promotes
        self._sign = -1.0 if objectives[0].direction == "maximize" else 1.0
        self._incumbents = Incumbents()
        self._attempts: dict[int, tuple[int, str]] = {}  # the newest that has ended, and whether it has counted
        self._reached: int | None = None  # the lowest number of a trial that has reached the target
        self._bound: RegretBounded | None = None
        self._recorded: Met | None = None
        self._definition: Mapping[str, Any] | None = None  # of the last start
        self._before: dict[str, frozenset[TrialKey]] = {}  # by rule, the attempts that no longer count
        self._since = 0  # the number of the first trial that counts for the plateau
        self._targets = self._losses_to_reach()

    @classmethod
    def of(cls, plan: Plan) -> StopRules | None:
        """Those of a study; None if it has none."""
        study = plan.study
        if study.stop is None:
            return None
        return cls(study.stop, plan.objectives, plan.length, promotes=study.pauses_trials)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> StopRules | None:
        """Those of a study's file, or of its row in the store; None if it has none."""
        definition = row["definition"]
        if (settings := definition.get("stop")) is None:
            return None
        several = row.get("objectives") or [{"name": row["metric"], "direction": row["direction"]}]
        length, pruning = row.get("length"), definition.get("pruning") or {}
        return cls(
            Stop.model_validate(settings),
            [Objective.model_validate(one) for one in several],
            None if length is None else (length[0], length[1]),
            promotes=bool(pruning.get("promotion")) or _is_population_based(definition.get("sampler")),
        )

    def _losses_to_reach(self) -> list[float] | None:
        target = self.stop.target
        if target is None:
            return None
        values = target if isinstance(target, dict) else {self._objectives[0].name: target}
        wanted = (values.get(o.name, -math.inf if o.direction == "maximize" else math.inf) for o in self._objectives)
        return list(losses_of.losses(self._objectives, list(wanted)))

    # What is known.

    def take(self, number: int, attempt: int, state: str, losses: Sequence[float] | None) -> None:
        """Take in a trial's end. Its losses count if it is complete."""
        if state not in COUNTED or self._attempts.get(number, (-1, ""))[0] >= attempt:
            return
        was_complete = self._attempts.get(number, (-1, ""))[1] == "complete"
        is_complete = state == "complete" and losses is not None and math.isfinite(losses[0])
        self._attempts[number] = attempt, "complete" if is_complete else state
        self.num_complete += is_complete - was_complete
        if is_complete and losses is not None:
            self._incumbents.put(number, losses[0])
            if self._reaches(losses) and (number, attempt) not in self._before.get("target", ()):
                self._reached = number if self._reached is None else min(number, self._reached)
        elif state == "complete" or (state == "pruned" and not self._promotes) or was_complete:
            self._incumbents.put(number, math.inf)

    def _reaches(self, losses: Sequence[float]) -> bool:
        return self._targets is not None and all(a <= b for a, b in zip(losses, self._targets, strict=True))

    def take_start(self, definition: Mapping[str, Any] | None, ended: Collection[TrialKey]) -> None:
        """Take in that the study starts or is resumed: with a larger budget, unchanged rules count from here on.

        Args:
            definition: the study's, as plain data; None if it is not known.
            ended: the attempts that have ended before.
        """
        if definition is None:
            return
        before, self._definition = self._definition, definition
        if before is None or not is_larger(definition, before):
            return
        for rule in RULES:
            settings = self.settings(rule).get(rule)
            if settings is not None and all(
                (of.get("stop") or {}).get(rule) == settings for of in (before, definition)
            ):
                self._begin_anew(rule, frozenset(ended))

    def _begin_anew(self, rule: str, ended: frozenset[TrialKey]) -> None:
        self._before[rule] = ended
        if self._recorded is not None and self._recorded.rule == rule:
            self._recorded = None
        if rule == "target":
            self._reached = None
        elif rule == "plateau":
            self._since = 1 + max((number for number, _ in ended), default=-1)
        else:
            self._bound = None

    def take_trial(self, trial: PastTrial) -> None:
        """Take in a past trial's end."""
        if self.compares(trial.epochs, trial.steps):
            self.take(trial.number, trial.attempt, trial.state, self.losses(trial.objective, trial.objectives))

    def take_bound(self, event: RegretBounded) -> None:
        """Take in a bound of the regret."""
        is_newer = self._bound is None or event.num_trials >= self._bound.num_trials
        if event.length == self.length and is_newer:
            self._bound = event

    def take_met(self, event: StopRuleMet) -> None:
        """Take in that a rule was met; it stands if it is still a rule of the study."""
        is_same = event.settings == self.settings(event.rule) != {} and event.length == self.length
        if self._recorded is None and is_same:
            self._recorded = Met(event.rule, event.reason, event.trial)

    def take_past(self, past: Past, events: Iterable[Event]) -> None:
        """Take in all that is recorded: the events by launch, the launcher's first."""
        ended: set[TrialKey] = set()
        for event in events:
            match event:
                case StudyStarted() | StudyChanged():
                    self.take_start(event.definition, ended)
                case TrialEnded():
                    ended.add(event.key)
                case RegretBounded():
                    self.take_bound(event)
                case StopRuleMet():
                    self.take_met(event)
        for trial in past.counted():
            self.take_trial(trial)

    def compares(self, epochs: object, steps: object) -> bool:
        """Whether results of trainings of this length, in one of them, count."""
        return self.length is None or (epochs if self.length[0] == "epochs" else steps) == self.length[1]

    def losses(self, objective: float | None, several: Sequence[float | None] | None) -> tuple[float, ...]:
        """The losses of recorded objectives."""
        return losses_of.losses(self._objectives, several or [objective])

    # What follows from it.

    @property
    def is_recorded(self) -> bool:
        """Whether it is recorded that a rule is met."""
        return self._recorded is not None

    @property
    def num_bounded(self) -> int:
        """The complete trials of the last bound of the regret, or of before the budget became larger; else 0."""
        if self._bound is not None:
            return self._bound.num_trials
        before, ends = self._before.get("regret", ()), self._attempts.items()
        return sum(state == "complete" and (number, attempt) in before for number, (attempt, state) in ends)

    def settings(self, rule: str) -> dict[str, Any]:
        """A rule with its settings as plain data; empty if the study does not have it."""
        return {
            name: value
            for name, value in self.stop.model_dump(mode="json").items()
            if name == rule and value is not None
        }

    def met(self) -> Met | None:
        """The rule that is met: the one that was recorded first, else one that the results meet."""
        return self._recorded or self._target() or self._plateau() or self._regret()

    def event(self, met: Met) -> StopRuleMet:
        """The line that records it."""
        return StopRuleMet(
            rule=met.rule, settings=self.settings(met.rule), length=self.length, reason=met.reason, trial=met.trial,
            num_trials=len(self._attempts),
        )  # fmt: skip

    def _target(self) -> Met | None:
        if self._reached is None:
            return None
        target = self.stop.target
        one = len(target) == 1 if isinstance(target, dict) else True
        values = ", ".join(f"{k} {v:g}" for k, v in target.items()) if isinstance(target, dict) else f"{target:g}"
        return Met("target", f"target{'' if one else 's'} {values} reached by trial {self._reached}", self._reached)

    def _plateau(self) -> Met | None:
        plateau = self.stop.plateau
        if plateau is None or self._stagnation() < plateau.trials:
            return None
        by = f" by more than {plateau.tolerance}" if plateau.tolerance.of(1.0) else ""
        return Met("plateau", f"no improvement{by} in {counted(plateau.trials, 'trial')} (plateau)")

    def _stagnation(self) -> int:
        plateau = self.stop.plateau
        assert plateau is not None
        most = min(plateau.trials, self._incumbents.num_since(self._since))
        return stagnation(self._incumbents.best, plateau.tolerance, most)

    def _regret(self) -> Met | None:
        if self.stop.regret is None or self._bound is None:
            return None
        bound, limit = self._bound.bound, self.stop.regret
        if bound is None or bound > limit.of(self._bound.incumbent):
            return None
        return Met("regret", f"regret {self._shown(self._bound)}, within {limit} (regret)")

    def _shown(self, event: RegretBounded) -> str:
        """A bound in the unit of the rule."""
        assert self.stop.regret is not None
        if event.bound is None:
            return "unknown, as the bound cannot be computed"
        if self.stop.regret.share is None or event.incumbent == 0:
            return f"at most {number(event.bound)}"
        return f"at most {100 * event.bound / abs(event.incumbent):.3g} %"

    def words(self) -> list[str]:
        """How far the search is from each rule that counts or measures, for a line of progress."""
        if (met := self.met()) is not None:
            return [met.reason]
        words = []
        if (plateau := self.stop.plateau) is not None:
            words.append(f"{self._stagnation()} of {counted(plateau.trials, 'trial')} without improvement")
        if self.stop.regret is not None and self._bound is not None:
            words.append(f"regret {self._shown(self._bound)} (stops at {self.stop.regret})")
        return words

    @property
    def incumbent(self) -> float | None:
        """The objective of the best complete trial."""
        best = self._incumbents.best[-1] if self._incumbents.best else math.inf
        return self._sign * best if math.isfinite(best) else None


class Follower:
    """Takes in a journal's events one after another, to tell how far a running search is from its rules."""

    def __init__(self, rules: StopRules) -> None:
        self._rules = rules
        self._lengths: dict[TrialKey, tuple[object, object]] = {}
        self._ended: set[TrialKey] = set()

    def take(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case StudyStarted() | StudyChanged():
                self._rules.take_start(event.definition, self._ended)
            case TrialStarted():
                self._lengths[event.key] = event.configuration.get("epochs"), event.configuration.get("steps")
            case TrialEnded():
                self._ended.add(event.key)
                if self._rules.compares(*self._lengths.pop(event.key, (None, None))):
                    losses = self._rules.losses(event.objective, event.objectives)
                    self._rules.take(event.number, event.attempt, event.state, losses)
            case RegretBounded():
                self._rules.take_bound(event)
            case StopRuleMet():
                self._rules.take_met(event)

    @property
    def is_met(self) -> bool:
        """Whether a rule is met, so that no further trial starts."""
        return self._rules.met() is not None

    def words(self) -> list[str]:
        """See `StopRules.words`."""
        return self._rules.words()


def is_larger(definition: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a study's budget leaves room for more than that of an earlier definition, both as plain data."""
    both = ((definition.get(kind), before.get(kind)) for kind in BUDGETS)
    return any(old is not None and (new is None or new > old) for new, old in both)


def ended_because(met: Met, num_trials: int, budget: int | None) -> str:
    """The reason that is recorded of a study.

    Args:
        met: the rule.
        num_trials: the trials that have ended.
        budget: the number that there might have been; None if it is not limited.
    """
    return f"{met.reason} after {num_trials}{'' if budget is None else f' of {budget}'} trials"
