"""Configurations and trials as plain data, for files and for other programs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import yaml

from atoll.storage.models import StudyRow, TrialRow


def trial_as_dict(trial: TrialRow) -> dict[str, Any]:
    """All columns of a trial."""
    return {
        column.name: getattr(trial, column.name) for column in TrialRow.__table__.columns if column.name != "study_id"
    }


def study_as_dict(study: StudyRow) -> dict[str, Any]:
    """All columns of a study."""
    return {column.name: getattr(study, column.name) for column in StudyRow.__table__.columns}


def _named(study: StudyRow, trial: TrialRow) -> dict[str, float | None]:
    names = (objective["name"] for objective in study.objectives or ())
    return dict(zip(names, trial.objectives or (), strict=True))


def configuration(study: StudyRow, trial: TrialRow) -> dict[str, Any]:
    """A trial's configuration, complete enough to train it again, with its origin."""
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
    return trial.configuration | {"origin": origin}


def as_yaml(study: StudyRow, trials: Sequence[TrialRow], *, alone: bool = False) -> str:
    """Configurations as YAML: a list, or (`alone`) a single one, which `atoll train` reads."""
    configurations = [configuration(study, trial) for trial in trials]
    return str(
        yaml.safe_dump(
            configurations[0] if alone else {"configurations": configurations}, sort_keys=False, allow_unicode=True
        )
    )


def plain(value: Any) -> Any:
    """A value for JSON, with null for NaN and infinite numbers."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
