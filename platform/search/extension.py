"""Continues finished trials after a study's `epochs` or `steps` have been increased.

Those whose checkpoints have stayed (`keep: last` or `all`) are trained on, the best first, before new ones; the others
stay as they are. A trial that had stopped early, or was pruned or failed, stays, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.platform.study import objectives

if TYPE_CHECKING:
    from atoll.platform.search.resume import Past, PastTrial
    from atoll.platform.search.tickets import Ticket
    from atoll.platform.study.plan import Length, Plan
    from atoll.platform.study.study import Study
    from atoll.storage.folder import StudyFolder


@dataclass(frozen=True)
class Extension:
    """The finished trials of a study that are shorter than it says now.

    Attributes:
        continued: those that can be continued.
        num_left: how many others there are.
    """

    continued: list[PastTrial]
    num_left: int

    @classmethod
    def of(cls, study: Study, length: Length | None, folder: StudyFolder, past: Past) -> Extension:
        """Those of a study whose trainings now have this length; None: they are no trainings."""
        if length is None:
            return cls([], 0)
        shorter = [trial for trial in past.counted() if trial.state == "complete" and _is_shorter(trial, length)]
        stays = study.checkpoint is not None and study.checkpoint.keep in ("last", "all")
        continued = [trial for trial in shorter if stays and folder.trial(trial.number).manifest.exists()]
        return cls(continued, len(shorter) - len(continued))

    def tickets(self, plan: Plan, num_islands: int, reached: dict[int, float]) -> list[Ticket]:
        """Their tickets, the best first.

        Args:
            plan: the resolved study.
            num_islands: the number of islands.
            reached: with promotion, the fidelity that each trial has reached.
        """

        def losses(trial: PastTrial) -> tuple[float, ...]:
            return objectives.losses(plan.objectives, trial.objectives or [trial.objective])

        order = sorted(self.continued, key=lambda trial: (losses(trial), trial.number))
        return [trial.next_ticket(num_islands, reached.get(trial.number, 0.0)) for trial in order]


def _is_shorter(trial: PastTrial, length: Length) -> bool:
    """Whether it was trained to its end, which is before the study's."""
    unit, number = length
    own, reached = (trial.steps, trial.step) if unit == "steps" else (trial.epochs, trial.epoch)
    return own is not None and own <= reached and own < number
