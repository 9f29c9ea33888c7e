"""Configurations and trials as plain data, for files and for other programs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from atoll.storage.models import ProvenanceRow, StudyRow, TrialRow
from atoll.storage.store import StoreError

_TRIAL_COLUMNS = tuple(column.name for column in TrialRow.__table__.columns if column.name != "study_id")


def trial_as_dict(trial: TrialRow) -> dict[str, Any]:
    """All columns of a trial."""
    return {name: getattr(trial, name) for name in _TRIAL_COLUMNS}


def study_as_dict(study: StudyRow) -> dict[str, Any]:
    """All columns of a study."""
    return {column.name: getattr(study, column.name) for column in StudyRow.__table__.columns}


def _named(study: StudyRow, trial: TrialRow) -> dict[str, float | None]:
    names = (objective["name"] for objective in study.objectives or ())
    return dict(zip(names, trial.objectives or (), strict=True))


def check_trained_here(study: StudyRow) -> None:
    """Raise StoreError for an imported study, whose configurations atoll cannot train."""
    if study.is_imported:
        raise StoreError(
            f"{study.name} was imported: its trials have hyperparameters, but no configuration that `atoll train` "
            "could train; `atoll table` and `atoll leaderboard --json` have the hyperparameters"
        )


def configuration(
    study: StudyRow, trial: TrialRow, provenances: Sequence[ProvenanceRow] = (), folder: Path | None = None
) -> dict[str, Any]:
    """A trial's configuration, complete enough to train it again, with its origin.

    Args:
        study, trial: the trial.
        provenances: the study's, for the hashes of the code and data that the trial was measured with.
        folder: the folder of the file that will hold the configuration, to which paths of code become relative.
            Default: they stay absolute.
    """
    origin = {
        "study": study.name,
        "trial": trial.number,
        "attempt": trial.attempt,
        "metric": study.metric,
        "objective": trial.objective,
        **({"objectives": _named(study, trial)} if study.objectives else {}),
        "metrics": trial.metrics,
        "seconds": trial.seconds,
        "host": trial.host,
        "exported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    content = dict(trial.configuration)
    for part in ("workload", "method"):
        content[part] = _located(str(content.get(part)), folder)
    given = content.get("hyperparameters")
    if isinstance(given, dict):
        own = {kind: _located(str(given[kind]), folder) for kind in ("optimizer", "schedule") if kind in given}
        content["hyperparameters"] = given | own
    content["schedule"] = _changed(content.get("schedule"))
    if not content["schedule"]:
        del content["schedule"]
    record = next((row.record for row in provenances if row.version == trial.provenance), None)
    if record is not None:
        measured = _mapping(record, "measured")
        content["versions"] = _mapping(measured, "libraries") | content.get("versions", {})
        code = _mapping(measured, "code").items()
        content["code"] = [{"path": _relative(path, folder), "sha256": sha256} for path, sha256 in code]
        content["data_files"] = _mapping(measured, "data")
    return content | {"origin": origin}


def _changed(schedule: object) -> dict[str, dict[int, Any]]:
    """The part of a schedule that changes something; in JSON its steps are texts."""
    given = schedule if isinstance(schedule, dict) else {}
    return {
        name: {int(step): value for step, value in values.items()} for name, values in given.items() if len(values) > 1
    }


def _mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a record; empty if it is absent, or of another type, as in a store that somebody has edited."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _located(name: str, folder: Path | None) -> str:
    """`file.py:Class` with a path relative to `folder`; any other name unchanged."""
    file, separator, attribute = name.rpartition(":")
    return f"{_relative(file, folder)}:{attribute}" if separator and file.endswith(".py") else name


def _relative(path: str, folder: Path | None) -> str:
    return path if folder is None else Path(os.path.relpath(path, folder.resolve())).as_posix()


def as_yaml(
    study: StudyRow,
    trials: Sequence[TrialRow],
    provenances: Sequence[ProvenanceRow] = (),
    folder: Path | None = None,
    *,
    alone: bool = False,
) -> str:
    """Configurations as YAML: a list, or (`alone`) a single one, which `atoll train` reads; see `configuration`."""
    configurations = [configuration(study, trial, provenances, folder) for trial in trials]
    content = configurations[0] if alone else {"configurations": configurations}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def plain(value: Any) -> Any:
    """A value for JSON, with null for NaN and infinite numbers."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
