"""What journal lines mean: from events to rows, without a database.

A trial's lines are trial_started, then progress, then trial_ended; trial_lost ends a trial whose process is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from atoll.storage.journal import Event

TrialKey = tuple[int, int]
Row = dict[str, Any]


@dataclass
class Batch:
    """Rows to be added together. Trials are named by (number, attempt) until the database has given them an id."""

    study_id: int
    study: Row = field(default_factory=dict)
    started: dict[TrialKey, Row] = field(default_factory=dict)
    progress: list[tuple[TrialKey, Row]] = field(default_factory=list)
    ended: list[tuple[TrialKey, Row]] = field(default_factory=list)
    lost: list[tuple[TrialKey, Row]] = field(default_factory=list)
    ledger: list[tuple[TrialKey, Row]] = field(default_factory=list)
    schedules: list[tuple[TrialKey, Row]] = field(default_factory=list)
    migrations: list[Row] = field(default_factory=list)
    hosts: list[Row] = field(default_factory=list)
    num_refused: int = 0
    num_skipped: int = 0

    def keys(self) -> set[TrialKey]:
        """The trials that the batch speaks of."""
        return {key for key, _ in (*self.progress, *self.ended, *self.lost, *self.ledger, *self.schedules)}


def sort(study_id: int, events: Iterable[Event]) -> Batch:
    """Turn events into rows; an event that is unknown or incomplete is counted and skipped."""
    batch = Batch(study_id)
    for event in events:
        handler = _HANDLERS.get(event["event"])
        try:
            if handler is None:
                batch.num_skipped += 1
            else:
                handler(batch, event)
        except (KeyError, TypeError):
            batch.num_skipped += 1
    return batch


def key_of(event: Event) -> TrialKey:
    """The trial that an event speaks of."""
    return event["number"], event["attempt"]


def _take(event: Event, *names: str) -> Row:
    return {name: event[name] for name in names}


def _trial_started(batch: Batch, event: Event) -> None:
    row = _take(
        event, "number", "attempt", "island", "worker", "generation", "seed", "hyperparameters", "configuration"
    )
    row |= {"study_id": batch.study_id, "state": "running", "started": event["time"]}
    row |= {"host": event.get("host"), "oversubscribed": event.get("oversubscribed")}
    # What a sampler keeps with a trial is for a resume, and may be large.
    proposal = event.get("proposal") or {}
    row["proposal"] = {name: value for name, value in proposal.items() if name not in ("attributes", "genes")} or None
    batch.started[key_of(event)] = row


def _progress(batch: Batch, event: Event) -> None:
    names = ("step", "epoch", "seconds", "train_loss", "validation_loss", "metric", "learning_rate", "wire_bytes")
    batch.progress.append((key_of(event), _take(event, *names) | {"metrics": event.get("metrics") or None}))


def _trial_ended(batch: Batch, event: Event) -> None:
    measured = ("objective", "objectives", "metrics", "seconds", "wire_bytes", "peak_memory")
    row = {name: event.get(name) for name in (*measured, "reason", "traceback")}
    row |= {"state": event["state"], "finished": event["time"]}
    batch.ended.append((key_of(event), row))
    fields = ("operation", "scope", "payload_bytes", "overlapped", "count", "wire_bytes", "seconds_waited")
    batch.ledger += [(key_of(event), _take(entry, *fields)) for entry in event.get("ledger") or ()]
    batch.schedules += [(key_of(event), {"rank": s["rank"], "content": s}) for s in event.get("schedules") or ()]


def _trial_lost(batch: Batch, event: Event) -> None:
    batch.lost.append((key_of(event), {"state": "lost", "finished": event["time"], "reason": event["reason"]}))


def _refused(batch: Batch, event: Event) -> None:
    batch.num_refused += 1


def _migrated(batch: Batch, event: Event) -> None:
    batch.migrations.append({"study_id": batch.study_id, **_take(event, "time", "number", "from_island", "to_island")})


def _host(batch: Batch, event: Event) -> None:
    names = ("time", "world_rank", "island", "worker", "rank", "node", "hostname", "process", "device", "threads")
    further = {name: event.get(name) for name in ("processor", "cores")}
    batch.hosts.append({"study_id": batch.study_id, **_take(event, *names), **further})


def _study_started(batch: Batch, event: Event) -> None:
    batch.study |= {"state": "running", "finished": None, "reason": None}
    if "definition" in event:
        batch.study |= {"definition": event["definition"], "num_trials": event["num_trials"]}


def _study_ended(batch: Batch, event: Event) -> None:
    batch.study |= {"state": event["state"], "finished": event["time"], "reason": event.get("reason")}


_HANDLERS: dict[str, Callable[[Batch, Event], None]] = {
    "trial_started": _trial_started,
    "progress": _progress,
    "trial_ended": _trial_ended,
    "trial_lost": _trial_lost,
    "migrated": _migrated,
    "refused": _refused,
    "proposed": lambda batch, event: None,
    "host": _host,
    "study_started": _study_started,
    "restarted": lambda batch, event: None,
    "study_ended": _study_ended,
}
