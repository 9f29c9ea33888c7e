"""Journals as a search writes them, without a search."""

from __future__ import annotations

import json
from pathlib import Path

from atoll.storage.events import Event, parse
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter

LEDGER = [
    {
        "operation": "all_reduce",
        "scope": "global",
        "payload_bytes": 40,
        "overlapped": False,
        "count": 3,
        "wire_bytes": 120.0,
        "seconds_waited": 0.5,
    }
]

PLACED = {
    "world_rank": 0,
    "island": 0,
    "worker": 0,
    "rank": 0,
    "node": 0,
    "hostname": "here",
    "device": "cpu",
    "threads": 1,
    "process": 7,
}


def event(name: str, fields: dict) -> Event:
    """An event by its name and fields on disk."""
    read = parse({"event": name, "time": 0.0, **fields})
    assert read is not None, name
    return read


def study_row(folder: Path, name: str = "s", **changes) -> dict:
    return {
        "name": name,
        "state": "running",
        "workload": "digits_mlp",
        "method": "daso",
        "metric": "accuracy",
        "direction": "maximize",
        "target": 0.97,
        "num_trials": 4,
        "definition": {"space": {"wire": "float32"}},
        "folder": str(folder),
        "started": 1000.0,
    } | changes


def start_folder(path: Path, name: str = "s", **changes) -> StudyFolder:
    folder = StudyFolder(path)
    folder.create()
    folder.definition.write_text(json.dumps(study_row(path, name, **changes)))
    return folder


def start_trial(lines: JournalWriter, number: int, attempt: int = 0, **changes) -> None:
    hyperparameters = {"B": number + 1, "learning_rate": 0.1 / (number + 1)}
    fields = {
        "number": number,
        "attempt": attempt,
        "island": number % 2,
        "worker": number % 2,
        "generation": number // 2,
        "seed": number,
        "host": "here",
        "hyperparameters": hyperparameters,
        "configuration": {"workload": "digits_mlp", "method": "daso", "hyperparameters": hyperparameters},
    }
    lines.append(event("trial_started", fields | changes))


def report(lines: JournalWriter, number: int, epoch: int, attempt: int = 0, **changes) -> None:
    fields = {
        "number": number,
        "attempt": attempt,
        "step": 10 * epoch,
        "epoch": epoch,
        "seconds": 0.1 * epoch,
        "train_loss": 1.0 / epoch,
        "validation_loss": 1.1 / epoch,
        "metric": 1 - 0.5 / epoch,
        "learning_rate": 0.1,
        "wire_bytes": 100.0 * epoch,
    }
    lines.append(event("progress", fields | changes))


def end_trial(lines: JournalWriter, number: int, objective: float | None, attempt: int = 0, **changes) -> None:
    fields = {
        "number": number,
        "attempt": attempt,
        "state": "failed" if objective is None else "complete",
        "objective": objective,
        "metrics": {"train_loss": 0.1},
        "seconds": 2.0,
        "wire_bytes": 120.0,
        "ledger": LEDGER,
        "peak_memory": 1e6,
        "reason": "Diverged" if objective is None else None,
        "traceback": None,
    }
    lines.append(event("trial_ended", fields | changes))


def write_study(folder: StudyFolder, objectives: list[float | None], state: str = "complete") -> None:
    """A whole search with these objectives; None fails."""
    launcher = JournalWriter(folder.launcher_journal())
    launcher.append(event("study_started", {"definition": {}, "num_trials": len(objectives)}))
    lines = JournalWriter(folder.root_journal(0))
    for number, objective in enumerate(objectives):
        start_trial(lines, number)
        for epoch in (1, 2, 3):
            report(lines, number, epoch)
        end_trial(lines, number, objective)
    lines.append(event("migrated", {"number": 0, "from_island": 0, "to_island": 1}))
    launcher.append(event("study_ended", {"state": state, "reason": None}))
