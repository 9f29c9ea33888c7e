"""Hyperparameters that have no effect on a training, because of its ranks, its nodes or its length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingShape:
    """How large a training is, as far as it is known: before the ranks start, some of it is not.

    Attributes:
        num_ranks: ranks of the worker.
        num_nodes: nodes that these are on; None if not known yet.
        num_epochs: its length.
        steps_per_epoch: None if not known yet.
    """

    num_ranks: int
    num_epochs: int | None
    num_nodes: int | None = None
    steps_per_epoch: int | None = None

    @property
    def num_steps(self) -> int | None:
        """The length in steps; None if not known yet."""
        if self.steps_per_epoch is None or self.num_epochs is None:
            return None
        return self.num_epochs * self.steps_per_epoch

    def ends_by(self, step: int) -> bool:
        """Whether the training is known to have at most so many steps."""
        return self.num_steps is not None and self.num_steps <= step


def idle(names: Iterable[str], why: str) -> dict[str, str]:
    """The reason for each of the names."""
    return dict.fromkeys(names, why)


def sentences(reasons: Mapping[str, str]) -> list[str]:
    """One sentence for each reason.

    Example:
        >>> sentences({"B": "all ranks are on one node", "S": "all ranks are on one node"})
        ['B, S have no effect: all ranks are on one node']
    """
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name)
    return [
        f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no effect: {why}"
        for why, names in by_reason.items()
    ]
