"""A study's best trials: by its objective, or by Pareto fronts where it has several."""

from __future__ import annotations

import math
from collections.abc import Sequence

from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store


def best(store: Store, study: StudyRow, top: int | None = None) -> list[TrialRow]:
    """The complete trials, the best first; of several objectives by front, inside a front by crowding distance."""
    if not study.objectives:
        return store.leaderboard(study, top)
    from atoll.analysis import pareto  # takes a third of a second, which one objective does without

    trials = store.leaderboard(study)
    order = pareto.order([losses(study, trial) for trial in trials]) if trials else []
    return [trials[index] for index in order[:top]]


def front(study: StudyRow, trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Those complete trials that no other one is better than in all objectives."""
    from atoll.analysis import pareto

    return [trials[index] for index in pareto.front([losses(study, trial) for trial in trials])]


def dominated_share(study: StudyRow, trials: Sequence[TrialRow]) -> float:
    """Of the box between the best and the worst values of complete trials, the share that their front dominates."""
    from atoll.analysis import pareto

    return pareto.dominated_share([losses(study, trial) for trial in trials])


def losses(study: StudyRow, trial: TrialRow) -> tuple[float, ...]:
    """A trial's objectives as what is to be minimised; one that was not reached is infinite."""
    objectives = study.objectives or [{"direction": study.direction}]
    found: Sequence[float | None] = trial.objectives or [trial.objective]
    signs = [-1.0 if objective["direction"] == "maximize" else 1.0 for objective in objectives]
    return tuple(math.inf if value is None else sign * value for sign, value in zip(signs, found, strict=True))
