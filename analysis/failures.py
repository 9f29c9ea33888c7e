"""Failure rates by choice: unstable choices stay in the search space, so readers must see their cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from atoll.storage.models import TrialRow


@dataclass(frozen=True)
class ChoiceFailures:
    """One value of one hyperparameter: its trials, its failed trials, and their most frequent reason."""

    name: str
    value: str
    num_trials: int
    num_failed: int
    reason: str

    @property
    def share(self) -> float:
        """The share of failed trials among those with this value."""
        return self.num_failed / self.num_trials


def by_choice(trials: Iterable[TrialRow]) -> list[ChoiceFailures]:
    """For each categorical or Boolean hyperparameter with several values: its values, most failures first."""
    ended: dict[tuple[str, str], list[TrialRow]] = defaultdict(list)
    for trial in trials:
        if trial.state in ("complete", "pruned", "failed"):
            for name, value in trial.hyperparameters.items():
                if isinstance(value, str | bool):
                    ended[name, str(value)].append(trial)
    varied = [name for name, _ in ended]
    rows = [
        ChoiceFailures(name, value, len(some), sum(t.state == "failed" for t in some), _main_reason(some))
        for (name, value), some in ended.items()
        if varied.count(name) > 1
    ]
    order = list(dict.fromkeys(varied))
    return sorted(rows, key=lambda row: (order.index(row.name), -row.share, row.value))


def _main_reason(trials: Iterable[TrialRow]) -> str:
    kinds = [(trial.reason or "").partition(":")[0] for trial in trials if trial.state == "failed"]
    return max(set(kinds), key=lambda kind: (kinds.count(kind), kind)) if kinds else ""
