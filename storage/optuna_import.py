"""A study of an Optuna storage as a study of the store: to read, compare and learn from, not to be resumed.

Databases and the files of Optuna's JournalStorage are read: both hold JSON. Redis is not: Optuna keeps pickles there.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from atoll.storage.events import Event, ProgressReported, ProvenanceRecorded, TrialEnded, TrialStarted
from atoll.storage.optuna_export import distributions_of
from atoll.storage.store import MAX_NAME, Store, StoreError
from atoll.storage.text import REASON_LIMIT, shortened, storable
from atoll.storage.urls import absolute, parse, shown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import FrozenStudy
    from optuna.trial import FrozenTrial

ORIGIN = "optuna"  # in place of a workload and a method, and as the operator of its trials
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
_SQLITE = b"SQLite format 3\0"
_METRIC, _TRIAL = "metric:", "trial:"  # of the attributes that atoll writes


@dataclass(frozen=True)
class Imported:
    """What has been imported.

    Attributes:
        name: the study's name in the store.
        counts: trials by state.
        num_left_out: trials that are running or waiting.
    """

    name: str
    counts: dict[str, int]
    num_left_out: int


def import_from_optuna(store: Store, url: str, study: str | None = None, name: str | None = None) -> Imported:
    """Add a study of an Optuna storage to the store.

    Its trials keep numbers, states, parameters, objectives, intermediate values (as curves, by step) and times. Of the
    attributes, numbers become metrics, and other ones notes; those that atoll has exported become what they were.

    Args:
        store: the store.
        url: of the storage, as SQLAlchemy takes it, or the file of a JournalStorage. It is not changed.
        study: its study's name there. Default: the only one.
        name: the study's name in the store. Default: the same.

    Raises:
        StoreError: if the storage cannot be read, does not have the study, or the name is taken or not possible.
    """
    storage, where = _opened(url)
    found = _chosen(storage, study)
    name = found.study_name if name is None else name
    if not 0 < len(name) <= MAX_NAME or name != name.strip():
        raise StoreError(
            f"a study's name must have 1 to {MAX_NAME} characters without spaces at the ends; got {name!r}: use --name"
        )
    uid = uuid.uuid4().hex
    store.check_name(name, uid)
    trials = storage.get_all_trials(found._study_id, deepcopy=False)
    ended = [trial for trial in trials if trial.state.name in _STATES]
    is_ours = isinstance(found.user_attrs.get("method"), str) and isinstance(found.user_attrs.get("workload"), str)
    row = _row(found, ended, name, uid, where, is_ours=is_ours)
    events = [_provenance(ended, row), *(event for trial in ended for event in _events(trial, row, is_ours=is_ours))]
    store.add_whole(row, events)
    return Imported(name, dict(Counter(_STATES[trial.state.name] for trial in ended)), len(trials) - len(ended))


# The storage.


def _opened(url: str) -> tuple[BaseStorage, str]:
    """The storage, and its address without a password."""
    import optuna

    file = Path(url)
    if "://" not in url and file.is_file() and file.open("rb").read(len(_SQLITE)) != _SQLITE:
        try:
            backend = optuna.storages.journal.JournalFileBackend(str(file))
            return optuna.storages.JournalStorage(backend), str(file.resolve())
        except Exception as error:  # what is no journal raises anything
            raise StoreError(
                f"{file} must be a SQLite file or one of Optuna's JournalStorage; it cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error
    parsed = absolute(parse(url))
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise StoreError(f"there is no Optuna storage at {shown(parsed)}")
    engine = sa.create_engine(parsed)
    try:
        tables = set(sa.inspect(engine).get_table_names())
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the Optuna storage cannot be opened: {type(error).__name__}") from error
    finally:
        engine.dispose()
    if not {"studies", "trials", "version_info"} <= tables:
        raise StoreError(f"{shown(parsed)} is no storage of Optuna's: it has no tables `studies` and `trials`")
    try:
        return optuna.storages.RDBStorage(parsed.render_as_string(hide_password=False)), shown(parsed)
    except Exception as error:  # such as of a storage of another version
        raise StoreError(f"the Optuna storage cannot be opened: {type(error).__name__}: {error}") from error


def _chosen(storage: BaseStorage, name: str | None) -> FrozenStudy:
    studies = storage.get_all_studies()
    if not studies:
        raise StoreError("the Optuna storage holds no studies")
    names = ", ".join(sorted(study.study_name for study in studies))
    if name is None and len(studies) != 1:
        raise StoreError(f"name a study of the Optuna storage; it has {names}")
    chosen = next((study for study in studies if name in (None, study.study_name)), None)
    if chosen is None:
        raise StoreError(f"the Optuna storage does not have a study named {name!r}; it has {names}")
    return chosen


# The study.


def _row(
    study: FrozenStudy, trials: Sequence[FrozenTrial], name: str, uid: str, where: str, *, is_ours: bool
) -> dict[str, Any]:
    aims = _aims(study)
    attributes = study.user_attrs
    starts = [moment for trial in trials if (moment := _moment(trial.datetime_start)) is not None]
    ends = [moment for trial in trials if (moment := _moment(trial.datetime_complete)) is not None]
    now = time.time()
    target = attributes.get("target") if is_ours else None
    return {
        "name": name,
        "state": "complete",
        "workload": attributes["workload"] if is_ours else ORIGIN,
        "method": attributes["method"] if is_ours else ORIGIN,
        "metric": aims[0]["name"],
        "direction": aims[0]["direction"],
        "objectives": aims if len(aims) > 1 else None,
        "curve_metric": aims[0]["name"],
        "target": target if _is_number(target) else None,
        "num_trials": len(trials),
        "definition": {"imported_from": ORIGIN, "storage": where, "study": study.study_name},
        "folder": "",
        "uid": uid,
        "started": min(starts, default=now),
        "finished": max(ends, default=now),
    }


def _aims(study: FrozenStudy) -> list[dict[str, str]]:
    """Each objective's name and direction."""
    names = study.system_attrs.get("study:metric_names")
    directions = [direction.name.lower() for direction in study.directions]
    if not isinstance(names, list) or len(names) != len(directions) or len(set(map(str, names))) < len(names):
        names = ["value"] if len(directions) == 1 else [f"values_{index}" for index in range(len(directions))]
    return [
        {"name": str(name), "direction": direction if direction == "maximize" else "minimize"}
        for name, direction in zip(names, directions, strict=True)
    ]


def _provenance(trials: Sequence[FrozenTrial], row: Mapping[str, Any]) -> ProvenanceRecorded:
    """What was searched, as far as the trials' distributions tell."""
    from optuna.distributions import distribution_to_json

    parameters = [
        {
            "name": name,
            "distribution": distribution_to_json(distribution),
            "domain": _domain(distribution),
            "default": None,
            "symbol": "",
            "unit": "",
            "source": "Optuna",
            "at_most": None,
            "only_if": None,
        }
        for name, distribution in _distributions(trials).items()
    ]
    aims = row["objectives"] or [{"name": row["metric"], "direction": row["direction"]}]
    space = {"parameters": parameters, "fixed": {}, "constraints": []}
    record = {"measured": {}, "space": space, "samplers": [], "objectives": aims}
    sha256 = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return ProvenanceRecorded(time=row["started"], version=1, sha256=sha256, record=record)


def _distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """The distribution of each parameter; of one that had several, the smallest that holds all values."""
    seen: dict[str, list[BaseDistribution]] = {}
    values: dict[str, list[Any]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if distribution not in (known := seen.setdefault(name, [])):
                known.append(distribution)
            values.setdefault(name, []).append(trial.params[name])
    return {
        name: several[0] if len(several) == 1 else distributions_of([{name: value} for value in values[name]])[name]
        for name, several in seen.items()
    }


def _domain(distribution: BaseDistribution) -> str:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    d: Any = distribution
    if isinstance(d, CategoricalDistribution):
        return "{" + ", ".join(map(str, d.choices)) + "}"
    steps = f" in steps of {d.step:g}" if d.step and d.step != 1 else ""
    kind = "integer " if isinstance(d, IntDistribution) else ""
    return f"{kind}{d.low:g} to {d.high:g}{', log' if d.log else ''}{steps}"


# A trial.


def _events(trial: FrozenTrial, row: Mapping[str, Any], *, is_ours: bool) -> Iterator[Event]:
    """The journal lines that such a trial would have."""
    started = _moment(trial.datetime_start)
    ended = _moment(trial.datetime_complete)
    begin = row["started"] if started is None else started
    attributes = _attributes(trial.user_attrs, is_ours=is_ours)
    state, key = _STATES[trial.state.name], {"number": trial.number, "attempt": 0}
    hyperparameters = trial.params | attributes.hyperparameters
    yield TrialStarted(
        time=begin,
        **key,
        island=attributes.count("island"),
        worker=attributes.count("worker"),
        generation=trial.number,
        seed=attributes.count("seed"),
        host=str(attributes.columns.get("host") or ""),
        hyperparameters=hyperparameters,
        configuration={name: row[name] for name in ("workload", "method")} | {"hyperparameters": hyperparameters},
        proposal={"operator": ORIGIN},
        provenance=1,
    )
    for step, value in sorted(trial.intermediate_values.items()):
        yield ProgressReported(
            time=begin,
            **key,
            step=step,
            epoch=step,
            seconds=0.0,
            train_loss=None,
            validation_loss=None,
            metric=_finite(value),
            learning_rate=None,
            wire_bytes=None,
        )
    values = [_finite(value) for value in trial.values or []] if state == "complete" else []
    several = row["objectives"] is not None
    took = attributes.columns.get("seconds")
    reason, notes = attributes.columns.get("reason"), attributes.columns.get("notes")
    yield TrialEnded(
        time=begin if ended is None else ended,
        **key,
        state=state,
        objective=values[0] if values else None,
        objectives=values if several and values else None,
        metrics=attributes.metrics or None,
        seconds=_took(took, started, ended),
        reason=_text(reason) if reason else _why(trial),
        notes=[*map(_text, attributes.notes), *(map(_text, notes) if isinstance(notes, list) else ())],
    )


def _took(seconds: object, started: float | None, ended: float | None) -> float | None:
    """A trial's training time: the attribute, or from its start to its end."""
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        return float(seconds)
    return None if started is None or ended is None else ended - started


def _why(trial: FrozenTrial) -> str | None:
    """Why a trial has no value, as far as Optuna keeps it."""
    reason = trial.system_attrs.get("fail_reason")
    return _text(reason) if reason else None


@dataclass(frozen=True)
class _Attributes:
    """A trial's user attributes, by what they become."""

    hyperparameters: dict[str, Any]
    metrics: dict[str, float | None]
    columns: dict[str, Any]
    notes: list[str]

    def count(self, name: str) -> int:
        """A column that counts; 0 if it is absent."""
        value = self.columns.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0


def _attributes(attributes: Mapping[str, Any], *, is_ours: bool) -> _Attributes:
    found = _Attributes({}, {}, {}, [])
    for name, value in attributes.items():
        if is_ours and name.startswith(_METRIC) and (_is_number(value) or value is None):
            found.metrics[name.removeprefix(_METRIC)] = _finite(value)
        elif is_ours and name.startswith(_TRIAL):
            found.columns[name.removeprefix(_TRIAL)] = value
        elif is_ours:
            found.hyperparameters[name] = value
        elif _is_number(value):
            found.metrics[name] = _finite(value)
        else:
            found.notes.append(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return found


def _text(value: object) -> str:
    return shortened(storable(str(value)), REASON_LIMIT)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _moment(when: datetime | None) -> float | None:
    """Seconds since the epoch of a time of Optuna's, which is local."""
    return None if when is None else when.timestamp()
