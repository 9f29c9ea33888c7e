"""A study as a study of Optuna's, for optuna-dashboard and scripts that read Optuna's storages."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from atoll.storage.models import ProgressRow, StudyRow, TrialRow
from atoll.storage.store import Store, StoreError
from atoll.storage.urls import parse

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

# Attempts that are trained again, or not yet to the end, have no counterpart.
_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
_PLAIN = (bool, int, float, str, type(None))  # the types of Optuna's choices


@dataclass(frozen=True)
class Exported:
    """What has been written.

    Attributes:
        name: the study's name in Optuna's storage.
        num_trials: trials written.
        num_left_out: trials that are running or lost.
        num_outside: hyperparameters outside the searched range, written as attributes of their trial.
    """

    name: str
    num_trials: int
    num_left_out: int
    num_outside: int


def export_to_optuna(store: Store, study: StudyRow, url: str, name: str | None = None) -> Exported:
    """Write a study into an Optuna storage.

    Trials keep their order, searched hyperparameters, objectives, curves (by step), and times. All else becomes
    attributes: fixed hyperparameters, metrics, seed, host, reason and notes.

    Args:
        store, study: the study.
        url: of the storage, as SQLAlchemy takes it; made if it is absent.
        name: the study's name there. Default: its own.

    Raises:
        StoreError: if that storage is the store itself, cannot be opened, or has a study of this name.
    """
    import optuna

    location = _location(url)
    name = name or study.name
    trials = list({trial.number: trial for trial in store.trials(study)}.values())  # the last attempt at each
    distributions = _distributions(store, study, trials)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        target = optuna.create_study(
            storage=location, study_name=name, directions=[objective["direction"] for objective in study.all_objectives]
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise StoreError(f"the Optuna storage must have no study {name}; it has one: use --name") from None
    except Exception as error:  # of SQLAlchemy or a database's driver
        raise StoreError(f"the Optuna storage cannot be opened: {type(error).__name__}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    for key in ("workload", "method", "metric", "target", "state"):
        target.set_user_attr(key, getattr(study, key))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        target.set_metric_names([objective["name"] for objective in study.all_objectives])
    written, num_outside = [trial for trial in trials if trial.state in _STATES], 0
    curves = _curves(store, [trial.id for trial in written])
    frozen = []
    for trial in written:
        made, outside = _frozen(trial, curves.get(trial.id, {}), distributions)
        frozen.append(made)
        num_outside += outside
    target.add_trials(frozen)
    return Exported(name, len(written), len(trials) - len(written), num_outside)


def _location(url: str) -> str:
    """The URL as Optuna takes it. Raises StoreError if the database is a store of atoll's, or cannot be opened."""
    parsed = parse(url)
    engine = sa.create_engine(parsed)
    try:
        has_store = sa.inspect(engine).has_table(StudyRow.__tablename__)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the Optuna storage cannot be opened: {type(error).__name__}") from error
    finally:
        engine.dispose()
    if has_store:
        raise StoreError("the Optuna storage must be another database; this one is a store of atoll's")
    return parsed.render_as_string(hide_password=False)


def _distributions(store: Store, study: StudyRow, trials: Sequence[TrialRow]) -> dict[str, BaseDistribution]:
    """What was searched, as it was recorded; of studies that have no such record, as their trials show it."""
    from optuna.distributions import CategoricalDistribution, json_to_distribution

    records = sorted(store.provenances(study), key=lambda row: row.version)
    if not records:
        return distributions_of([trial.hyperparameters for trial in trials])
    found: dict[str, BaseDistribution] = {}
    for parameter in records[-1].record["space"]["parameters"]:
        distribution = json_to_distribution(parameter["distribution"])
        if isinstance(distribution, CategoricalDistribution):
            distribution = CategoricalDistribution(list(map(_plain, distribution.choices)))
        found[parameter["name"]] = distribution
    return found


def distributions_of(several: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """The smallest ranges, and the choices, that hold all values of these hyperparameters."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values: dict[str, list[Any]] = {}
    for hyperparameters in several:
        for name, value in hyperparameters.items():
            values.setdefault(name, []).append(_plain(value))
    found: dict[str, BaseDistribution] = {}
    for name, seen in values.items():
        kinds = {type(value) for value in seen}
        if kinds == {int}:
            found[name] = IntDistribution(min(seen), max(seen))
        elif kinds <= {int, float}:
            found[name] = FloatDistribution(min(seen), max(seen))
        else:
            found[name] = CategoricalDistribution(list(dict.fromkeys(seen)))
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else json.dumps(value)


def _curves(store: Store, ids: Sequence[int]) -> dict[int, dict[int, float]]:
    curves: dict[int, dict[int, float]] = {}
    row: ProgressRow
    for row in store.progress(ids):
        if row.metric is not None and math.isfinite(row.metric):
            curves.setdefault(row.trial_id, {})[row.step] = row.metric
    return curves


def _frozen(
    trial: TrialRow, curve: dict[int, float], distributions: Mapping[str, BaseDistribution]
) -> tuple[FrozenTrial, int]:
    """The trial as Optuna's, and the number of its hyperparameters outside their range."""
    import optuna

    values = {name: _plain(value) for name, value in trial.hyperparameters.items()}
    searched = {name: value for name, value in values.items() if name in distributions}
    inside = {name: value for name, value in searched.items() if _contains(distributions[name], value)}
    state = optuna.trial.TrialState[_STATES[trial.state]]
    attributes = {name: value for name, value in values.items() if name not in inside}
    attributes |= {f"metric:{name}": value for name, value in (trial.metrics or {}).items()}
    columns = ("number", "attempt", "island", "worker", "seed", "host", "seconds", "reason", "notes")
    attributes |= {f"trial:{name}": getattr(trial, name) for name in columns}
    is_complete = state == optuna.trial.TrialState.COMPLETE
    made = optuna.create_trial(
        state=state,
        values=(trial.objectives or [trial.objective]) if is_complete else None,
        params=inside,
        distributions={name: distributions[name] for name in inside},
        intermediate_values=curve,
        user_attrs={name: value for name, value in attributes.items() if value is not None},
    )
    made.datetime_start = datetime.fromtimestamp(trial.started)
    made.datetime_complete = datetime.fromtimestamp(trial.finished or trial.started)
    return made, len(searched) - len(inside)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False
