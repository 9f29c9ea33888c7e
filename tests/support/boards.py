"""Small stores for the dashboard's tests, made without a search."""

from __future__ import annotations

from pathlib import Path

import journals
import optuna

from atoll.storage.journal import JournalWriter
from atoll.storage.optuna_import import import_from_optuna
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store

Objective = float | None
NASTY = "<script>alert(1)</script> & \"quotes\" 'single' 🙂/ü?name=x#y"


def record(path: Path, name: str = "s", url: str | None = None, **changes) -> tuple[Store, JournalWriter, Recorder]:
    """A study that has started: its store (default: SQLite in `path`), its root's journal, and its recorder."""
    number = len(list(path.glob("study-*")))
    folder = journals.start_folder(path / f"study-{number}", name=name)
    address = url or f"sqlite:///{path}/atoll.db"
    recorder = Recorder(folder, lambda: Store(address), journals.study_row(folder.path, name=name, **changes))
    recorder.catch_up()
    return Store(address), JournalWriter(folder.root_journal(0)), recorder


def study(path: Path, objectives: list[Objective], name: str = "s", **changes) -> Store:
    """A store with a study whose trials have these objectives; None stands for a failed trial."""
    store, lines, recorder = record(path, name, **changes)
    for number, objective in enumerate(objectives):
        parents = [number - 1, number // 2] if number > 1 else []
        sources = {"B": parents[0], "learning_rate": "interval_mutation"} if parents else {}
        operator = "crossover" if parents else "default" if number == 0 else "random"
        proposal = {"operator": operator, "parents": parents, "sources": sources}
        journals.start_trial(lines, number, proposal=proposal)
        for epoch in (1, 2, 3):
            journals.report(lines, number, epoch)
        reason = "Diverged: <b>loss</b> is not finite" if objective is None else None
        trace = "Traceback: <script>" if objective is None else None
        journals.end_trial(lines, number, objective, reason=reason, traceback=trace)
    if len(objectives) > 1:
        lines.append(journals.event("migrated", {"number": 0, "from_island": 0, "to_island": 1}))
    recorder.catch_up()
    return store


def imported(path: Path, values: list[float]) -> Store:
    """A store with a study s that Optuna has searched, and whose trials have these values."""
    journal = optuna.storages.journal.JournalFileBackend(str(path / "optuna.log"))
    study = optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name="s")
    for value in values:
        study.add_trial(
            optuna.create_trial(
                params={"x": value}, distributions={"x": optuna.distributions.FloatDistribution(0.0, 1.0)}, value=value
            )
        )
    store = Store(f"sqlite:///{path}/atoll.db")
    import_from_optuna(store, str(path / "optuna.log"))
    return store
