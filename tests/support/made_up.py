"""A benchmark's rows without any training: what its confirmations measured is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import journals

from atoll.storage.journal import JournalWriter
from atoll.storage.models import BenchmarkRow
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store

Curve = Sequence[float] | None  # the test metric after each epoch, of 0.1 s, 10 steps and 320 passes; None failed
Table = Mapping[str, Mapping[str, Sequence[Curve]]]  # by method and workload, by trial number


def make(
    folder: Path,
    table: Table,
    *,
    targets: Mapping[str, float | None],
    tuned: Mapping[tuple[str, str], Sequence[float | None]] | None = None,
    direction: str = "maximize",
    num_configurations: int = 1,
    variants: Mapping[str, str] | None = None,
    states: Mapping[str, str] | None = None,
    num_tunings: int = 1,
    schedules: Mapping[str, list] | None = None,
    passes: Mapping[str, float | None] | None = None,
    seconds: Mapping[str, float] | None = None,
    shared: Collection[str] = (),
    optimizers: Mapping[str, str] | None = None,
    compared: Mapping[str, str] | None = None,
    **changes,
) -> tuple[Store, BenchmarkRow]:
    """A store that holds the benchmark `b`.

    Args:
        folder: for the journals and the store.
        table: confirmations.
        targets: by workload.
        tuned: the objectives of the tuning's trials; (0.5, 0.6) unless given; None failed.
        direction, num_configurations: as the studies have them.
        variants: base workload -> its variant.
        states: of studies, WORKLOAD.METHOD.STAGE, that did not end complete.
        num_tunings: among which a cell's confirmations are shared out.
        schedules: what ranks did at every step of a confirmation, by method.
        passes: of an epoch, by method; None if its trials do not report them. Default: 320.
        seconds: of an epoch, by method. Default: 0.1.
        shared: the methods whose confirmations shared cores.
        optimizers: of the confirmed configurations, by method; not recorded unless given.
        compared: the value that curves and targets are of, in place of the test metric, by workload.
        changes: of every confirmation's start, such as oversubscribed.
    """
    workloads, of_base = list(targets), {variant: base for base, variant in (variants or {}).items()}
    definition = {
        "methods": [{"name": method} for method in table],
        "workloads": [
            {"name": name, "variant_of": of_base.get(name)}
            | ({"compared": compared[name]} if name in (compared or {}) else {})
            for name in workloads
        ],
        "confirmation": {"best": num_configurations, "seeds": 2},
        "description": "made up",
        "tuning": {"repeats": num_tunings},
    }
    num_studies = 2 * len(table) * len(workloads) * num_tunings
    row = {"name": "b", "uid": "1", "folder": str(folder), "definition": definition}
    row |= {"num_studies": num_studies, "started": 1.0}
    url = f"sqlite:///{folder}/atoll.db"
    for method, of_method in table.items():
        for workload, curves in of_method.items():
            about = {"benchmark": row, "method_label": method, "workload_label": workload}
            value = (compared or {}).get(workload)
            about |= {"target": targets[workload] if value is None else None, "direction": direction}
            found = (tuned or {}).get((method, workload), (0.5, 0.6))
            for repeat in range(num_tunings):
                about["repeat"] = repeat
                name = f"{workload}.{method}" if num_tunings == 1 else f"{workload}.{method}.{repeat}"
                tuned_to = (states or {}).get(f"{name}.tune", "complete")
                tuning = _start(folder, f"{name}.tune", about | {"stage": "tune", "definition": {}})
                journals.write_study(tuning, list(found), tuned_to)
                _record(tuning, url)
                if tuned_to == "failed" or all(objective is None for objective in found):
                    continue
                fixed = {"optimizer": optimizers[method]} if optimizers else {}
                configurations = [{"x": n} | fixed for n in range(num_configurations)]
                confirm = {"confirm": {"configurations": configurations, "seeds": 2}}
                if value is not None:
                    confirm["confirm"] |= {"compared": value, "target": targets[workload]}
                made = _start(folder, f"{name}.confirm", about | {"stage": "confirm", "definition": confirm})
                share = len(curves) // num_tunings
                own = curves[repeat * share : (repeat + 1) * share]
                state, recorded = (states or {}).get(f"{name}.confirm", "complete"), (schedules or {}).get(method, [])
                epoch = {"seconds": (seconds or {}).get(method, 0.1), "passes": (passes or {}).get(method, 320.0)}
                own_changes = changes | ({"oversubscribed": True} if method in shared else {})
                epoch["value"] = value or "test_accuracy"
                _write_confirmation(made, confirm, own, own_changes, state, recorded, epoch)
                _record(made, url)
    store = Store(url)
    return store, store.benchmark("b")


def _start(folder: Path, name: str, changes: dict):
    return journals.start_folder(folder / name, name=f"b.{name}", **changes)


def _record(folder, url: str) -> None:
    recorder = Recorder(folder, lambda: Store(url), journals.study_row(folder.path) | _definition(folder))
    recorder.catch_up()
    recorder.close()


def _definition(folder) -> dict:
    import json

    return json.loads(folder.definition.read_text())


def _write_confirmation(
    folder, definition: dict, curves: Sequence[Curve], changes: dict, state: str, schedules: list, of_epoch: dict
) -> None:
    launcher = JournalWriter(folder.launcher_journal())
    launcher.append(journals.event("study_started", {"definition": definition, "num_trials": len(curves)}))
    lines = JournalWriter(folder.root_journal(0))
    for number, curve in enumerate(curves):
        journals.start_trial(lines, number, seed=500_000 + number, **changes)
        for epoch, value in enumerate(curve or (), 1):
            metrics = {of_epoch["value"]: value}
            if of_epoch["passes"] is not None:
                metrics["passes"] = of_epoch["passes"] * epoch
            journals.report(lines, number, epoch, metrics=metrics, seconds=of_epoch["seconds"] * epoch)
        metrics = {of_epoch["value"]: curve[-1]} if curve else {}
        # The metric on validation data, of which more is better, is another number than a loss.
        objective = None if not curve else curve[-1] if of_epoch["value"] == "test_accuracy" else -curve[-1]
        journals.end_trial(lines, number, objective, metrics=metrics, schedules=schedules if curve else [])
    launcher.append(journals.event("study_ended", {"state": state, "reason": None}))
