"""A study's best trials: by its objective, or by Pareto fronts if it has several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store


def best(store: Store, study: StudyRow, top: int | None = None) -> list[TrialRow]:
    """The complete trials, the best first; several objectives are sorted by front, then by crowding distance."""
    if not study.objectives:
        return store.leaderboard(study, top)
    trials = sorted(store.leaderboard(study), key=lambda trial: (trial.number, trial.attempt))
    order = ranking(study, [losses(study, trial) for trial in trials])
    return [trials[index] for index in order[:top]]


def places(study: StudyRow, trials: Sequence[Any]) -> list[int | None]:
    """Each trial's place in the order of `best`, from 1; None for those that are not complete.

    Args:
        study: the study.
        trials: its trials, or rows with their state, objective and objectives, by number and attempt.
    """
    complete = [index for index, trial in enumerate(trials) if trial.state == "complete"]
    found: list[int | None] = [None] * len(trials)
    for place, index in enumerate(ranking(study, [losses(study, trials[index]) for index in complete]), 1):
        found[complete[index]] = place
    return found


def ranking(study: StudyRow, of_complete: Sequence[Sequence[float]]) -> list[int]:
    """The indices of complete trials' losses, the best first; equal ones, and ends of a front, keep their order."""
    if not study.objectives or not of_complete:
        return sorted(range(len(of_complete)), key=lambda index: tuple(of_complete[index]))
    from atoll.analysis import pareto  # takes a third of a second to import, and one objective does not need it

    return pareto.order(of_complete)


def front(study: StudyRow, trials: Sequence[TrialRow]) -> list[TrialRow]:
    """The complete trials that no other one dominates."""
    from atoll.analysis import pareto

    return [trials[index] for index in pareto.front([losses(study, trial) for trial in trials])]


def dominated_share(study: StudyRow, trials: Sequence[TrialRow]) -> float:
    """The share of the box between the best and the worst values of complete trials that their front dominates."""
    from atoll.analysis import pareto

    return pareto.dominated_share([losses(study, trial) for trial in trials])


def losses(study: StudyRow, trial: Any) -> tuple[float, ...]:
    """A trial's objectives, all to be minimized; a missing one is infinite."""
    values: Sequence[float | None] = trial.objectives or [trial.objective]
    signs = [-1.0 if objective["direction"] == "maximize" else 1.0 for objective in study.all_objectives]
    return tuple(math.inf if value is None else sign * value for sign, value in zip(signs, values, strict=True))
