"""A store as large as that of a long search, with synthetic trials and reports.

Rows are inserted without journals. Objectives improve as the search goes on; some trials fail or are pruned; parents
are earlier trials.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from atoll.storage.models import HostRow, LedgerRow, MigrationRow, ProgressRow, StudyRow, TrialRow
from atoll.storage.store import Store

NUM_ISLANDS, WORKERS_PER_ISLAND = 4, 4
NUM_WORKERS = NUM_ISLANDS * WORKERS_PER_ISLAND
BATCH = 5000
STARTED = 1_700_000_000.0
REASONS = ("Diverged: the training loss is not finite", "CUDA out of memory", "PeerAborted: rank 3 raised")
GENES = ("B", "S", "wire", "learning_rate", "momentum", "weight_decay", "batch_size", "schedule")


def make(path: Path, num_trials: int, num_reports: int, seed: int = 0, name: str = "large") -> None:
    """Add the study `name` of `num_trials` trials with `num_reports` reports each to the store in `path`."""
    store, rng = Store(f"sqlite:///{path}"), np.random.default_rng(seed)
    study_id = store.add_study(_study(name, num_trials))
    clock = np.full(NUM_WORKERS, STARTED)
    with store.engine.begin() as connection:
        for start in range(0, num_trials, BATCH):
            numbers = range(start, min(start + BATCH, num_trials))
            trials = [_trial(rng, clock, study_id, number, num_trials) for number in numbers]
            connection.execute(sa.insert(TrialRow), trials)
        _insert_reports(connection, study_id, num_reports)
        _insert_ledger(connection, study_id, num_reports)
        connection.execute(sa.insert(HostRow), list(_hosts(study_id)))
        connection.execute(sa.insert(MigrationRow), list(_migrations(rng, study_id, num_trials, clock.max())))
        ended = {"state": "complete", "finished": float(clock.max())}
        connection.execute(sa.update(StudyRow).where(StudyRow.id == study_id).values(**ended))
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()


def _study(name: str, num_trials: int) -> dict[str, Any]:
    return {
        "name": name,
        "uid": name,
        "state": "running",
        "workload": "cifar10_cnn7",
        "method": "daso",
        "metric": "validation_error",
        "curve_metric": "accuracy",
        "direction": "minimize",
        "target": 0.1,
        "num_trials": num_trials,
        "definition": {},
        "folder": "",
        "started": STARTED,
    }


def hyperparameters(rng: np.random.Generator) -> dict[str, Any]:
    """A configuration from a space like DASO's."""
    return {
        "B": int(rng.integers(1, 33)),
        "S": int(rng.integers(0, 8)),
        "wire": ("float32", "bfloat16", "float16")[int(rng.integers(3))],
        "learning_rate": float(10 ** rng.uniform(-4, 0)),
        "momentum": float(rng.uniform(0, 0.99)),
        "weight_decay": float(10 ** rng.uniform(-6, -2)),
        "batch_size": int(2 ** rng.integers(4, 9)),
        "schedule": ("constant", "cosine", "linear")[int(rng.integers(3))],
    }


def objective(chosen: dict[str, Any], rng: np.random.Generator) -> float:
    """A validation error that depends on some of the hyperparameters."""
    away = (np.log10(chosen["learning_rate"]) + 1.5) ** 2 / 8 + (chosen["momentum"] - 0.9) ** 2 + chosen["S"] / 80
    return float(np.clip(0.05 + away + 0.02 * rng.standard_normal(), 0.02, 0.9))


def _trial(rng: np.random.Generator, clock: np.ndarray, study_id: int, number: int, num_trials: int) -> dict[str, Any]:
    worker = int(clock.argmin())
    seconds = float(rng.lognormal(1.0, 0.5))
    started = float(clock[worker]) + 0.05
    clock[worker] = started + seconds
    chosen = hyperparameters(rng)
    if rng.random() < number / num_trials:  # the search learns
        chosen |= {"learning_rate": float(10 ** rng.normal(-1.5, 0.3)), "momentum": float(rng.normal(0.9, 0.02))}
    draw = rng.random()
    state = "failed" if draw < 0.02 else "pruned" if draw < 0.2 else "complete"
    parents = sorted({int(p) for p in rng.integers(max(0, number - 500), number, 2)}) if number > 50 else []
    value = objective(chosen, rng)
    return {
        "study_id": study_id,
        "number": number,
        "attempt": 0,
        "island": worker // WORKERS_PER_ISLAND,
        "worker": worker,
        "generation": number // NUM_WORKERS,
        "state": state,
        "seed": number,
        "hyperparameters": chosen,
        "configuration": {"workload": "cifar10_cnn7", "method": "daso", "ranks": 4, "hyperparameters": chosen},
        "objective": value if state == "complete" else None,
        "metrics": None if state == "failed" else {"validation_loss": 2 * value, "train_loss": value},
        "seconds": seconds,
        "wire_bytes": 1e6 * float(rng.uniform(1, 50)),
        "peak_memory": 1e8,
        "host": f"node{worker // 4}",
        "started": started,
        "finished": float(clock[worker]),
        "reason": REASONS[int(rng.integers(3))] if state == "failed" else None,
        "traceback": "Traceback (most recent call last): ..." if state == "failed" else None,
        "proposal": {
            "operator": "crossover+point_mutation" if parents else "random",
            "parents": parents,
            "sources": {gene: parents[i % len(parents)] for i, gene in enumerate(GENES)} if parents else {},
            "seconds": 0.001,
            "waited": 0.0,
        },
    }


def _insert_reports(connection: sa.Connection, study_id: int, num_reports: int) -> None:
    """Inside the database: two million rows that Python makes take half a minute."""
    trial, first = TrialRow, sa.select(sa.literal(1).label("epoch")).cte("epochs", recursive=True)
    epochs = first.union_all(sa.select(first.c.epoch + 1).where(first.c.epoch < num_reports))
    epoch, last = epochs.c.epoch, sa.func.coalesce(trial.objective, 0.5)
    error = last + (0.9 - last) / epoch
    values = {
        "trial_id": trial.id,
        "step": 100 * epoch,
        "epoch": epoch,
        "seconds": trial.seconds * epoch / num_reports,
        "train_loss": 2 * error,
        "validation_loss": 2.1 * error,
        "metric": 1 - error,
        "learning_rate": trial.hyperparameters["learning_rate"].as_float(),
        "wire_bytes": 1e5 * epoch,
        "metrics": sa.literal_column("'null'"),
    }
    rows = sa.select(*values.values()).join_from(trial, epochs, sa.true()).where(trial.study_id == study_id)
    connection.execute(sa.insert(ProgressRow).from_select(list(values), rows.order_by(trial.id, epoch)))


def _insert_ledger(connection: sa.Connection, study_id: int, num_reports: int) -> None:
    trial = TrialRow
    for scope, size in (("node", 1 << 20), ("global", 1 << 19)):
        values = {
            "trial_id": trial.id,
            "operation": sa.literal("all_reduce"),
            "scope": sa.literal(scope),
            "payload_bytes": sa.literal(size),
            "overlapped": sa.literal(scope == "global"),
            "count": sa.literal(100 * num_reports),
            "wire_bytes": trial.wire_bytes / 2,
            "seconds_waited": trial.seconds / 10,
        }
        rows = sa.select(*values.values()).where(trial.study_id == study_id)
        connection.execute(sa.insert(LedgerRow).from_select(list(values), rows))


def _hosts(study_id: int) -> Iterator[dict[str, Any]]:
    for worker in range(NUM_WORKERS):
        yield {
            "study_id": study_id,
            "time": STARTED,
            "world_rank": worker,
            "island": worker // WORKERS_PER_ISLAND,
            "worker": worker,
            "rank": 0,
            "node": worker // 4,
            "hostname": f"node{worker // 4}",
            "process": 1000 + worker,
            "device": "cpu",
            "threads": 1,
        }


def _migrations(rng: np.random.Generator, study_id: int, num_trials: int, end: float) -> Iterator[dict[str, Any]]:
    for number in range(0, num_trials, 10):
        there, back = rng.choice(NUM_ISLANDS, 2, replace=False)
        when = STARTED + (end - STARTED) * number / num_trials
        yield {"study_id": study_id, "time": when, "number": number, "from_island": int(there), "to_island": int(back)}
