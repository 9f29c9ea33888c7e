"""Configurations and trials as plain data, for files and for other programs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import yaml

from atoll.storage.models import StudyRow, TrialRow


def trial_as_dict(trial: TrialRow) -> dict[str, Any]:
    """A trial, complete."""
    return {
        column.name: getattr(trial, column.name) for column in TrialRow.__table__.columns if column.name != "study_id"
    }


def study_as_dict(study: StudyRow) -> dict[str, Any]:
    """A study, complete."""
    return {column.name: getattr(study, column.name) for column in StudyRow.__table__.columns}


def _named(study: StudyRow, trial: TrialRow) -> dict[str, float | None]:
    names = (objective["name"] for objective in study.objectives or ())
    return dict(zip(names, trial.objectives or (), strict=True))


def configuration(study: StudyRow, trial: TrialRow) -> dict[str, Any]:
    """A trial's configuration, complete enough to train again, and where it came from."""
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
    """Configurations as files hold them: a list, or the one of a single trial, which `atoll train` takes."""
    found = [configuration(study, trial) for trial in trials]
    return str(yaml.safe_dump(found[0] if alone else {"configurations": found}, sort_keys=False, allow_unicode=True))


def plain(value: Any) -> Any:
    """For JSON, with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
