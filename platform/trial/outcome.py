"""How a trial ended: on each rank, and as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from atoll.communication.communicator import PeerAborted
from atoll.communication.ledger import Ledger
from atoll.communication.mpi import Summary
from atoll.methods.method import NotApplicable
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.trial import Diverged


class Stopped(Exception):
    """The trial was asked to stop before its end; it is queued again."""


class TrialTimeout(Exception):
    """The trial has taken longer than the study allows."""


@dataclass
class Report:
    """How a trial ended on one rank."""

    rank: int
    hostname: str
    error: str = ""
    reason: str = ""
    traceback: str = ""
    ledger: list[dict[str, Any]] = field(default_factory=list)
    summaries: dict[str, Summary] = field(default_factory=dict)
    peak_memory: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_pruned: bool = False
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: complete, pruned, failed, or lost where it was stopped.
        objective: the metric of the trained model; None unless complete.
        curve: of a pruned trial, its metric by epoch.
        metrics: anything else that was measured at the end, seconds_compute, seconds_waiting and seconds_data included:
            where the training time went, as a mean over ranks.
        wire_bytes, ledger: traffic summed over ranks.
        peak_memory: bytes; the largest resident size of a rank's process so far, earlier trials included.
        reason, traceback: why it failed, and where.
        notes: what the method says about how it ran.
        schedules: what ranks did at their steps: all where each has a part of the network or none can be added, else
            those of the first node and the last, as the others do what these do.
    """

    state: Literal["complete", "pruned", "failed", "lost"]
    objective: float | None
    metrics: dict[str, float]
    seconds: float
    wire_bytes: float
    ledger: list[dict[str, Any]]
    peak_memory: float
    reason: str | None = None
    traceback: str | None = None
    notes: list[str] = field(default_factory=list)
    curve: dict[int, float] | None = None
    schedules: list[dict[str, Any]] = field(default_factory=list)


def outcome_of(reports: list[Report], seen: list[Progress]) -> Outcome:
    """The outcome of a trial from its ranks' reports and from the progress that the root has seen."""
    metrics: dict[str, float] = {}
    ledger = Ledger.total([report.ledger for report in reports])
    errors = [report for report in reports if report.error]
    # Peers raise PeerAborted because of the first one; it says nothing of the cause.
    cause = next((r for r in errors if r.error != PeerAborted.__name__), errors[0] if errors else None)
    last = seen[-1] if seen else None
    pruned = cause is None and reports[0].is_pruned
    ended = cause is None and last is not None
    reason = f"pruned after epoch {last.epoch}" if pruned and last is not None else None
    if cause is not None:
        reason = f"{cause.reason} (rank {cause.rank} on {cause.hostname})"
    if ended and last is not None:
        spent = {f"seconds_{k}": sum(r.seconds[k] for r in reports) / len(reports) for k in reports[0].seconds}
        losses = {"train_loss": last.train_loss, "validation_loss": last.validation_loss}
        # Of single layers the curve has the values, and the trial only their means.
        further = {name: value for name, value in last.metrics.items() if "/" not in name}
        metrics = losses | further | spent
    expected = (Diverged.__name__, NotApplicable.__name__, Stopped.__name__, TrialTimeout.__name__)
    return Outcome(
        state=_state(cause, ended, pruned),
        objective=last.metric if ended and not pruned and last is not None else None,
        metrics=metrics,
        seconds=last.seconds if last is not None else 0.0,
        wire_bytes=ledger.wire_bytes(),
        ledger=ledger.rows(),
        peak_memory=float(max(report.peak_memory for report in reports)),
        reason=reason,
        traceback=cause.traceback if cause is not None and cause.error not in expected else None,
        notes=reports[0].notes,
        curve={progress.epoch: progress.metric for progress in seen} if pruned else None,
        schedules=[report.trace for report in reports if report.trace is not None] if ended else [],
    )


def _state(cause: Report | None, ended: bool, pruned: bool) -> Literal["complete", "pruned", "failed", "lost"]:
    if cause is not None and cause.error == Stopped.__name__:
        return "lost"
    if not ended:
        return "failed"
    return "pruned" if pruned else "complete"
