"""The outcome of a trial: on each rank, and as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from atoll.communication.communicator import PeerAborted
from atoll.communication.ledger import Ledger
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.failure import Diverged, Stopped, TrialTimeout
from atoll.platform.trial.progress import Progress
from atoll.storage.events import TrialEnded

if TYPE_CHECKING:
    from atoll.communication.mpi import Summary  # needs MPI


_OWN = (PeerAborted, Diverged, NotApplicable, Stopped, TrialTimeout)


def kind_of(error: BaseException) -> str:
    """The name of an exception's class; of a class that only has the name of one of ours, with its module."""
    kind = type(error)
    is_ours = kind in _OWN or kind.__name__ not in {own.__name__ for own in _OWN}
    return kind.__name__ if is_ours else f"{kind.__module__}.{kind.__qualname__}"


@dataclass
class Report:
    """The outcome of a trial on one rank."""

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
    is_paused: bool = False
    # Of a call of a function: what it has returned, its time, and whether this rank has pruned the trial by itself.
    returned: float | dict[str, float] | None = None
    called_seconds: float = 0.0
    is_alone: bool = False
    arrivals: dict[str, int] = field(default_factory=dict)  # of its collectives, by the communicator's name
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: complete, pruned, failed, or lost if it was stopped.
        objective: the metric of the trained model, or the best of the curve (`objective_from`); None unless complete.
        curve: a pruned trial's metric, or the other objective that pruning compares, by epoch, or by step if reports
            came within epochs.
        metrics: the other final measurements, including seconds_compute, seconds_waiting and seconds_data: the parts of
            the training time, as means over ranks.
        wire_bytes, ledger: traffic summed over ranks; wire_bytes is None if a function was called.
        peak_memory: the largest resident size of a rank's process during the trial, in bytes. Of ranks that are threads
            of one process, and where the system cannot reset it, the largest so far.
        reason, traceback: the reason for a failure, and its location; or where it was pruned, or has paused.
        notes: the method's remarks about the run, and what the trial has changed in its process.
        traces: the ranks' step traces: of all ranks if each has a part of the network or the method limits the number
            of ranks; otherwise of the first node and the last rank, which represent the others.
        is_paused: whether it is pruned for now, after a checkpoint.
    """

    state: Literal["complete", "pruned", "failed", "lost"]
    objective: float | None
    metrics: dict[str, float]
    seconds: float
    wire_bytes: float | None
    ledger: list[dict[str, Any]]
    peak_memory: float
    reason: str | None = None
    traceback: str | None = None
    notes: list[str] = field(default_factory=list)
    curve: dict[int, float] | None = None
    traces: list[dict[str, Any]] = field(default_factory=list)
    is_paused: bool = False

    def as_event(
        self,
        number: int,
        attempt: int,
        *,
        objectives: Sequence[float | None] | None = None,
        worker_seconds: float = 0.0,
    ) -> TrialEnded:
        """The journal's line.

        Args:
            number, attempt: of the trial.
            objectives: all objectives if there are several.
            worker_seconds: the worker's time for the trial.
        """
        return TrialEnded(
            number=number,
            attempt=attempt,
            state=self.state,
            objective=self.objective,
            objectives=None if objectives is None else list(objectives),
            metrics=self.metrics,
            seconds=self.seconds,
            wire_bytes=self.wire_bytes,
            ledger=self.ledger,
            peak_memory=self.peak_memory,
            reason=self.reason,
            traceback=self.traceback,
            notes=self.notes,
            curve=self.curve,
            traces=self.traces,
            worker_seconds=worker_seconds,
        )


def outcome_of(
    reports: list[Report],
    seen: list[Progress],
    configuration: Configuration,
    value: Callable[[Progress], float | None] = lambda progress: progress.metric,
) -> Outcome:
    """The outcome of a trial.

    Args:
        reports: of its ranks.
        seen: the root's progress reports.
        configuration: of the trial.
        value: the value that a pruned trial's curve has.
    """
    if configuration.calls_function:
        return _outcome_of_call(reports, seen)
    ledger = Ledger.total([report.ledger for report in reports])
    shared: dict[str, Any] = {
        "seconds": seen[-1].seconds if seen else 0.0,
        "wire_bytes": ledger.wire_bytes(),
        "ledger": ledger.rows(),
        "peak_memory": float(max(report.peak_memory for report in reports)),
        "notes": list(dict.fromkeys(note for report in reports for note in report.notes)),
    }
    if (cause := _cause(reports)) is not None:
        return _aborted(cause, shared)
    shared |= {
        "metrics": _metrics(reports, seen[-1] if seen else None),
        "traces": [report.trace for report in reports if report.trace is not None],
    }
    if reports[0].is_pruned:
        curve = {progress.position: found for progress in seen if (found := value(progress)) is not None}
        word = "paused" if reports[0].is_paused else "pruned"
        where = "its start" if not seen else f"{'step' if seen[-1].by_steps else 'epoch'} {seen[-1].position}"
        reason = f"{word} after {where}"
        return Outcome(
            state="pruned", objective=None, curve=curve, reason=reason, is_paused=reports[0].is_paused, **shared
        )
    return Outcome(state="complete", objective=_objective(seen, configuration), **shared)


def _outcome_of_call(reports: list[Report], seen: list[Progress]) -> Outcome:
    """The outcome of a function's call; its objective is what it has returned, if that is a number."""
    shared: dict[str, Any] = {
        "seconds": reports[0].called_seconds,
        "wire_bytes": None,
        "ledger": [],
        "peak_memory": float(max(report.peak_memory for report in reports)),
        "notes": list(dict.fromkeys(note for report in reports for note in report.notes)),
    }
    is_pruned = any(report.is_pruned for report in reports)
    cause = _cause(reports)
    if cause is not None and not (is_pruned and cause.error == PeerAborted.__name__):
        return _aborted(cause, shared)
    if is_pruned:
        curve = {progress.position: progress.metric for progress in seen if progress.metric is not None}
        reason = f"pruned after step {seen[-1].position}" if seen else "pruned before its first report"
        return Outcome(state="pruned", objective=None, metrics={}, curve=curve, reason=reason, **shared)
    returned = reports[0].returned
    values = returned if isinstance(returned, dict) else {}
    objective = returned if isinstance(returned, float) else None
    return Outcome(state="complete", objective=objective, metrics=values, **shared)


def _objective(seen: list[Progress], configuration: Configuration) -> float | None:
    """The last metric, or the best one."""
    if configuration.objective_from == "last":
        return seen[-1].metric
    best = max if registry.workload(configuration.workload).direction == "maximize" else min
    return best(progress.metric for progress in seen if progress.metric is not None)


def _cause(reports: list[Report]) -> Report | None:
    """The report of the rank that failed first, because of which its peers raised PeerAborted."""
    errors = [report for report in reports if report.error]
    return next((r for r in errors if r.error != PeerAborted.__name__), errors[0] if errors else None)


def _aborted(cause: Report, shared: dict[str, Any]) -> Outcome:
    """The outcome of a trial that failed, or was stopped and is lost."""
    expected = (Diverged.__name__, NotApplicable.__name__, Stopped.__name__, TrialTimeout.__name__)
    return Outcome(
        state="lost" if cause.error == Stopped.__name__ else "failed",
        objective=None,
        metrics={},
        reason=f"{cause.reason} (rank {cause.rank} on {cause.hostname})",
        traceback=None if cause.error in expected else cause.traceback,
        **shared,
    )


def _metrics(reports: list[Report], last: Progress | None) -> dict[str, float]:
    """The final measurements, and the parts of the training time as means over ranks."""
    spent = {f"seconds_{k}": sum(r.seconds[k] for r in reports) / len(reports) for k in reports[0].seconds}
    if last is None:  # paused before its first report
        return spent
    losses = {"train_loss": last.train_loss}
    if last.validation_loss is not None:
        losses["validation_loss"] = last.validation_loss
    # Values of single layers stay in the curve; the trial has only their means.
    further = {name: value for name, value in last.metrics.items() if "/" not in name}
    return losses | further | spent
