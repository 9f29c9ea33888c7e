"""The trials of a study that have paused: those of promotion, or the members of a population."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from atoll.platform.search import population_based, promotion

if TYPE_CHECKING:
    from atoll.platform.search.resume import Past
    from atoll.platform.study.plan import Plan
    from atoll.storage.events import Event
    from atoll.storage.folder import StudyFolder


def restored(
    plan: Plan, folder: StudyFolder, events: Iterable[Event], past: Past
) -> tuple[promotion.Paused, dict[int, float]]:
    """The paused trials of a study's past, and the fidelity that each trial's result has reached.

    Args:
        plan: the study, whose trials pause.
        folder: its files.
        events, past: its journals, and what follows from them.
    """
    if plan.study.population_based is not None:
        return population_based.restored(plan, folder, events, past)
    return promotion.restored(plan.study, plan.judged, folder, events, past)
