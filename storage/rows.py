"""Converts events to rows of the database, without a database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from atoll.storage import events
from atoll.storage.events import Event, TrialKey

Row = dict[str, Any]

# A sampler's data are needed for resuming only, and may be large; some people are shown.
NOT_STORED = ("attributes", "genes")
SHOWN = ("related:weights",)


@dataclass
class Rows:
    """Rows to add together. Trials are identified by (number, attempt) until the database has assigned ids."""

    study_id: int
    study: Row = field(default_factory=dict)
    started: dict[TrialKey, Row] = field(default_factory=dict)
    progress: list[tuple[TrialKey, Row]] = field(default_factory=list)
    ended: list[tuple[TrialKey, Row]] = field(default_factory=list)
    lost: list[tuple[TrialKey, Row]] = field(default_factory=list)
    ledger: list[tuple[TrialKey, Row]] = field(default_factory=list)
    traces: list[tuple[TrialKey, Row]] = field(default_factory=list)
    migrations: list[Row] = field(default_factory=list)
    hosts: list[Row] = field(default_factory=list)
    provenances: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    num_refused: int = 0

    def keys(self) -> set[TrialKey]:
        """The trials that the rows refer to."""
        return {key for key, _ in (*self.progress, *self.ended, *self.lost, *self.ledger, *self.traces)}


def rows_of(study_id: int, journal_events: Iterable[Event]) -> Rows:
    """Convert events to rows."""
    rows = Rows(study_id)
    for event in journal_events:
        handler = _HANDLERS.get(type(event))
        if handler is not None:  # others are for resuming only
            handler(rows, event)
    return rows


def _trial_started(rows: Rows, event: events.TrialStarted) -> None:
    rows.started[event.key] = {
        "study_id": rows.study_id,
        "state": "running",
        "started": event.time,
        "number": event.number,
        "attempt": event.attempt,
        "island": event.island,
        "worker": event.worker,
        "generation": event.generation,
        "seed": event.seed,
        "host": event.host,
        "oversubscribed": event.oversubscribed,
        "hyperparameters": event.hyperparameters,
        "configuration": event.configuration,
        "proposal": _stored(event.proposal) or None,
        "provenance": event.provenance,
    }


def _stored(proposal: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in proposal.items() if name not in NOT_STORED}
    attributes = proposal.get("attributes")
    if isinstance(attributes, dict) and (shown := {name: attributes[name] for name in SHOWN if name in attributes}):
        kept["attributes"] = shown
    return kept


def _progress(rows: Rows, event: events.ProgressReported) -> None:
    row = {
        "step": event.step,
        "epoch": event.epoch,
        "seconds": event.seconds,
        "train_loss": event.train_loss,
        "validation_loss": event.validation_loss,
        "metric": event.metric,
        "learning_rate": event.learning_rate,
        "wire_bytes": event.wire_bytes,
        "metrics": event.metrics or None,
    }
    rows.progress.append((event.key, row))


def _trial_ended(rows: Rows, event: events.TrialEnded) -> None:
    row = {
        "state": event.state,
        "finished": event.time,
        "objective": event.objective,
        "objectives": event.objectives,
        "metrics": event.metrics,
        "seconds": event.seconds,
        "wire_bytes": event.wire_bytes,
        "peak_memory": event.peak_memory,
        "reason": event.reason,
        "traceback": event.traceback,
        "notes": event.notes or None,
    }
    ledger = [(event.key, entry) for entry in event.ledger]
    traces = [(event.key, {"rank": trace["rank"], "content": trace}) for trace in event.traces]
    rows.ended.append((event.key, row))
    rows.ledger += ledger
    rows.traces += traces


def _trial_lost(rows: Rows, event: events.TrialLost) -> None:
    rows.lost.append((event.key, {"state": "lost", "finished": event.time, "reason": event.reason}))


def _refused(rows: Rows, _: events.ProposalRefused) -> None:
    rows.num_refused += 1


def _migrated(rows: Rows, event: events.Migrated) -> None:
    row = {"number": event.number, "from_island": event.from_island, "to_island": event.to_island}
    rows.migrations.append({"study_id": rows.study_id, "time": event.time, **row})


def _host(rows: Rows, event: events.RankPlaced) -> None:
    row = {
        "study_id": rows.study_id,
        "time": event.time,
        "world_rank": event.world_rank,
        "island": event.island,
        "worker": event.worker,
        "rank": event.rank,
        "node": event.node,
        "hostname": event.hostname,
        "process": event.process,
        "device": event.device,
        "threads": event.threads,
        "processor": event.processor,
        "cores": event.cores,
    }
    rows.hosts.append(row)


def _study_started(rows: Rows, event: events.StudyStarted) -> None:
    rows.study |= {"state": "running", "finished": None, "reason": None}
    if event.definition is not None:
        rows.study |= {"definition": event.definition, "num_trials": event.num_trials}


def _study_changed(rows: Rows, event: events.StudyChanged) -> None:
    rows.study |= {"definition": event.definition, "num_trials": event.num_trials}
    row = {
        "number": event.number,
        "requested": event.requested,
        "first_trial": event.first_trial,
        "settings": event.settings,
        "outside": dict(event.outside),
    }
    rows.changes.append({"study_id": rows.study_id, "time": event.time, **row})


def _provenance(rows: Rows, event: events.ProvenanceRecorded) -> None:
    row = {"version": event.version, "sha256": event.sha256, "record": event.record, "changes": event.changes}
    rows.provenances.append({"study_id": rows.study_id, "time": event.time, **row})


def _study_ended(rows: Rows, event: events.StudyEnded) -> None:
    rows.study |= {"state": event.state, "finished": event.time, "reason": event.reason}


_HANDLERS: dict[type[Event], Callable[[Rows, Any], None]] = {
    events.TrialStarted: _trial_started,
    events.ProgressReported: _progress,
    events.TrialEnded: _trial_ended,
    events.TrialLost: _trial_lost,
    events.Migrated: _migrated,
    events.ProposalRefused: _refused,
    events.RankPlaced: _host,
    events.StudyStarted: _study_started,
    events.StudyChanged: _study_changed,
    events.ProvenanceRecorded: _provenance,
    events.StudyEnded: _study_ended,
}
