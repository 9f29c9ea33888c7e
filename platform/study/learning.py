"""Results from elsewhere that samplers are told without being trained again: tables and earlier studies.

A row that does not fit is left out and counted, not changed: clipping a value into its range would tell a sampler the
objective of a configuration that never had it. What is missing is not guessed either: a hyperparameter without a
value is taken from `fixed`, or it is inactive; otherwise its row is left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from atoll.analysis import pareto
from atoll.analysis.formatting import counted
from atoll.platform.study import objectives
from atoll.platform.study.configuration import complete_hyperparameters
from atoll.platform.study.learn_from import LearnFrom
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import CmaEs, Sampler, members
from atoll.searchspaces.optimizer import acts
from atoll.searchspaces.space import Parameter
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store, StoreError

NUM_REASONS = 6
LEARNS_NOTHING = ("random", "grid", "optuna-qmc")  # samplers
_PREFIXES = ("hp.", "params_", "")  # of a hyperparameter's column: atoll's, Optuna's, any
_OF_OBJECTIVES = ("objective.", "values_", "metric.", "")
_STATES = {"complete", "pruned", "failed", "fail", "lost", "continued", "running", "waiting"}


@dataclass(frozen=True)
class Learned:
    """A result that samplers are told.

    Attributes:
        hyperparameters: searched and fixed ones, in the study's space.
        losses: to be minimized, one per objective.
    """

    hyperparameters: dict[str, Any]
    losses: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the study's file."""
        return {"hyperparameters": self.hyperparameters, "losses": list(self.losses)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Learned:
        """The result that `as_dict` described."""
        return cls(content["hyperparameters"], tuple(content["losses"]))


@dataclass(frozen=True)
class _Row:
    """A row of a source: the trial's state, its hyperparameters, and its objectives, both by name."""

    state: str
    hyperparameters: dict[str, Any]
    measured: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """The rows of a source.

    Attributes:
        rows: in their order.
        others: values that hyperparameters must have that the study does not search.
        notes: sentences on how its trainings differ.
    """

    rows: list[_Row]
    others: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def check(plan: Plan) -> None:
    """Raise ValueError if a study would learn from something, and none of its samplers learns."""
    samplers = [member for sampler in plan.study.samplers() for member in members(sampler)]
    if plan.study.learn_from and not any(map(_learns, samplers)):
        names = ", ".join(dict.fromkeys(sampler.name for sampler in samplers))
        raise ValueError(f"learn_from needs a sampler that learns; {names} does not: omit learn_from")


def _learns(sampler: Sampler) -> bool:
    """Whether a sampler uses results from elsewhere; Optuna's separable CMA-ES has no form that does."""
    return sampler.name not in LEARNS_NOTHING and not (isinstance(sampler, CmaEs) and sampler.separable)


def read(plan: Plan, url: str) -> tuple[list[Learned], list[str]]:
    """The results that a study's samplers are told, in order, and a sentence on each source.

    Raises:
        ValueError: if a source cannot be read, has another direction, lacks a column, or has no row that fits.
        StoreError: if the store does not hold a study.
    """
    learned: list[Learned] = []
    report: list[str] = []
    for source in plan.study.learn_from or []:
        found = _of_study(plan, source, url) if source.study is not None else _of_file(plan, source)
        told, left_out = _fitted(plan, found, source)
        said = _said(source, len(told), len(found.rows), left_out)
        if not told:
            raise ValueError(f"{said}: there is nothing to learn")
        if source.best is not None and source.best < len(told):
            said += f"; told the best {source.best}"
            told = [told[index] for index in _best(told)[: source.best]]
        learned += told
        report += [said, *found.notes]
    return learned, report


def _said(source: LearnFrom, num_told: int, num_rows: int, left_out: Counter[str]) -> str:
    said = f"learn_from {source.title}: learned from {num_told} of {counted(num_rows, 'row')}"
    if not left_out:
        return said
    reasons = [f"{count} {reason}" for reason, count in left_out.most_common(NUM_REASONS)]
    further = sum(left_out.values()) - sum(count for _, count in left_out.most_common(NUM_REASONS))
    return f"{said}; {sum(left_out.values())} left out: " + ", ".join(
        reasons + ([f"{further} for other reasons"] if further else [])
    )


def _best(learned: Sequence[Learned]) -> list[int]:
    if len(learned[0].losses) == 1:
        return sorted(range(len(learned)), key=lambda index: learned[index].losses)
    return list(pareto.order([one.losses for one in learned]))


# Sources.


def _of_file(plan: Plan, source: LearnFrom) -> _Source:
    """The rows of a table, by the names of the study."""
    file = Path(str(source.file))
    rows, directions = _table(file)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    names = list(plan.space.names())
    aims = {objective.name: str(objective.direction) for objective in plan.objectives}
    _check_names(source, columns, names, list(aims))
    found: dict[str, str] = {}
    for name in (*names, *aims):
        prefixes = _OF_OBJECTIVES if name in aims else _PREFIXES
        candidates = [source.columns[name]] if name in source.columns else [prefix + name for prefix in prefixes]
        candidates += ["value"] if list(aims) == [name] else []  # Optuna's, of a single objective
        if (column := next((candidate for candidate in candidates if candidate in columns), None)) is not None:
            found[name] = column
    for name, direction in aims.items():
        if name not in found:
            raise ValueError(
                f"{file.name} has no column of the objective {name}; name it, `columns: {{{name}: COLUMN}}`: it has "
                f"{', '.join(columns[:30])}"
            )
        if (other := directions.get(found[name], direction)) != direction:
            raise ValueError(f"{file.name} has another direction of {name}: {other}, and this study would {direction}")
    has_states = {str(row.get("state")).lower() for row in rows} <= _STATES
    renamed = [
        _Row(
            str(row["state"]).lower() if has_states else "complete",
            {name: row.get(column) for name, column in found.items() if name in names},
            {name: row.get(found[name]) for name in aims},
        )
        for row in rows
    ]
    return _Source(renamed, dict(plan.space.fixed))


def _check_names(source: LearnFrom, columns: Sequence[str], names: Sequence[str], aims: Sequence[str]) -> None:
    _check_ours(source, [*names, *aims])
    for column in source.columns.values():
        if column not in columns:
            raise ValueError(f"{source.title} has no column {column!r}; it has {', '.join(columns[:30])}")


def _check_ours(source: LearnFrom, names: Sequence[str]) -> None:
    """The names of `columns` and `fixed` must be those of this study."""
    for key in ("columns", "fixed"):
        if unknown := sorted(getattr(source, key).keys() - set(names)):
            raise ValueError(
                f"{key} of learn_from must name hyperparameters or objectives of the study, {', '.join(names)}; got "
                f"{', '.join(unknown)}"
            )


def _table(file: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of a table, and the directions of its objectives' columns, as far as the file tells them."""
    import pandas as pd

    if not file.is_file():
        raise ValueError(f"learn_from: the file {file} does not exist")
    try:
        if file.suffix == ".json":
            rows = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError("it must be a list of rows, each a mapping of columns to values")
            return rows, {}
        # An empty field is missing; "None" and "NA" may be choices.
        frame = (
            pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=object)
            if file.suffix == ".csv"
            else pd.read_parquet(file)
        )
    except ImportError as error:
        raise ValueError(f"reading {file.name} needs pyarrow: `pip install atoll[parquet]`; {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"learn_from: {file} cannot be read as a table: {error}") from None
    directions = frame.attrs.get("directions") or {}
    rows = [{str(name): value for name, value in row.items()} for row in frame.astype(object).to_dict("records")]
    return rows, dict(directions)


def _of_study(plan: Plan, source: LearnFrom, url: str) -> _Source:
    """The trials of a study of the store, each at its last attempt."""
    store = Store(url, read_only=True)
    try:
        row = store.study(source.study)
        if row.name != source.study:
            raise StoreError(f"{store} does not hold a study named {source.study!r}")
        trials = {trial.number: trial for trial in store.trials(row)}
        records = sorted(store.provenances(row), key=lambda one: one.version)
    finally:
        store.close()
    aims = {objective["name"]: str(objective["direction"]) for objective in row.all_objectives}
    names = _names_there(plan, source, aims)
    for objective in plan.objectives:
        there = names.get(objective.name, objective.name)
        if (direction := aims.get(there, objective.direction)) != objective.direction:
            raise ValueError(
                f"study {row.name} would {direction} {there}, and this study would {objective.direction} "
                f"{objective.name}"
            )
    if records:
        _check_units(plan, row.name, records[-1].record.get("space") or {})
    study = plan.study
    others = complete_hyperparameters(study.method, study.workload, dict(plan.space.fixed))
    rows = [_row(trial, list(aims), names) for trial in trials.values()]
    return _Source(rows, others, _differences(plan, row, trials.values()))


def _names_there(plan: Plan, source: LearnFrom, aims: Mapping[str, str]) -> dict[str, str]:
    """The names in another study of hyperparameters and objectives that have other names there."""
    _check_ours(source, [*plan.space.names(), *(objective.name for objective in plan.objectives)])
    names = dict(source.columns)
    (first, *more) = plan.objectives
    if not more and list(aims) == ["value"] and first.name not in names:  # Optuna's, of a single objective
        names[first.name] = "value"
    return names


def _check_units(plan: Plan, name: str, space: Mapping[str, Any]) -> None:
    units = {parameter["name"]: parameter.get("unit") for parameter in space.get("parameters", ())}
    for parameter in plan.space.parameters:
        other = units.get(parameter.name)
        if other and parameter.unit and other != parameter.unit:
            raise ValueError(
                f"study {name} has {parameter.name} in {other}, and this study in {parameter.unit}: they do not compare"
            )


def _row(trial: TrialRow, aims: Sequence[str], names: Mapping[str, str]) -> _Row:
    whole = dict(trial.configuration.get("hyperparameters") or trial.hyperparameters)
    values = trial.objectives or [trial.objective]
    totals = {"seconds": trial.seconds, "bytes_sent": trial.wire_bytes, "peak_memory": trial.peak_memory}
    measured = totals | (trial.metrics or {}) | dict(zip(aims, values, strict=False))
    for found in (whole, measured):
        found |= {name: found[there] for name, there in names.items() if there in found}
    return _Row(trial.state, whole, measured)


def _differences(plan: Plan, row: StudyRow, trials: Iterable[TrialRow]) -> list[str]:
    """Sentences on why objectives of an earlier study may not compare with those of this one."""
    notes = []
    if not row.is_imported:
        now, before = (plan.study.method, plan.study.workload), (row.method, row.workload)
        if now != before:
            notes.append(
                f"learn_from study {row.name}: it trained {before[0]} on {before[1]}, and this study {now[0]} on "
                f"{now[1]}: their objectives may not compare"
            )
    if plan.length is None:
        return notes
    unit, number = plan.length
    lengths = {trial.configuration.get(unit) for trial in trials if trial.state == "complete"}
    others = sorted(length for length in lengths if isinstance(length, int) and length != number)
    if others:
        notes.append(
            f"learn_from study {row.name}: its trainings have {', '.join(map(str, others))} {unit}, those of "
            f"this study {number}: their objectives may not compare"
        )
    return notes


# Rows.


def _fitted(plan: Plan, found: _Source, source: LearnFrom) -> tuple[list[Learned], Counter[str]]:
    """The rows in the study's space, and the number of the others by reason."""
    told, left_out = [], Counter[str]()
    for row in found.rows:
        if row.state != "complete":
            left_out[row.state] += 1
            continue
        try:
            values = _objectives(plan, row.measured)
            hyperparameters = _hyperparameters(plan, source.fixed | _present(row.hyperparameters), found.others)
        except _LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        told.append(Learned(hyperparameters, objectives.losses(plan.objectives, values)))
    return told, left_out


class _LeftOut(Exception):
    """Why a row is left out."""


def _objectives(plan: Plan, measured: Mapping[str, Any]) -> list[float]:
    values = []
    for objective in plan.objectives:
        value = _number(measured.get(objective.name))
        if value is None or not math.isfinite(value):
            raise _LeftOut("without objective" if len(plan.objectives) == 1 else f"without {objective.name}")
        values.append(float(value))
    return values


def _hyperparameters(plan: Plan, row: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The row's hyperparameters in the space, with the fixed ones. Raises _LeftOut if they do not fit."""
    space = plan.space
    searched = {parameter.name for parameter in space.parameters}
    for name, value in others.items():
        if name in searched or name not in row or not acts(name, {**others, **row}):
            continue
        if not any(_same(value, candidate) for candidate in _readings(row[name])):
            raise _LeftOut(f"{name} other than {value}")
    given: dict[str, Any] = dict(space.fixed)

    def gene(parameter: Parameter) -> Any:
        value = _value(parameter, row.get(parameter.name))
        given[parameter.name] = value
        ceiling = parameter.ceiling(given)
        if ceiling is not None and value > ceiling:
            raise _LeftOut(f"{parameter.name} above {parameter.at_most}")
        return parameter.encode(value, ceiling)

    genes, values = space.draw(gene)
    values |= {name: given[name] for name in genes}  # decoding may change a number's last digit
    if (violated := space.violated(values)) is not None:
        raise _LeftOut(f"against {violated}")
    if (reason := plan.infeasibility(values)) is not None:
        raise _LeftOut(f"infeasible ({reason})")
    return values


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not _is_missing(value)}


def _value(parameter: Parameter, cell: Any) -> Any:
    """A cell as a value of the parameter. Raises _LeftOut if it is missing or outside."""
    if _is_missing(cell):
        raise _LeftOut(f"without {parameter.name}")
    for candidate in _readings(cell):
        is_whole = isinstance(candidate, float) and candidate.is_integer()
        value = int(candidate) if is_whole and isinstance(parameter.distribution, IntDistribution) else candidate
        if parameter.contains(value):
            if isinstance(parameter.distribution, CategoricalDistribution):  # 1.0 may stand for the choice 1
                return next(one for one in parameter.distribution.choices if one == value)
            return value
    raise _LeftOut(f"{parameter.name} outside {_domain(parameter)}")


def _domain(parameter: Parameter) -> str:
    d = parameter.distribution
    return parameter.domain() if isinstance(d, CategoricalDistribution) else f"{d.low:g}..{d.high:g}"


def _readings(cell: Any) -> Iterator[Any]:
    """What a cell may stand for: itself, or what its text says, as CSV has only texts."""
    if hasattr(cell, "item"):  # of numpy
        cell = cell.item()
    yield cell
    if not isinstance(cell, str):
        return
    if cell in ("True", "False"):
        yield cell == "True"
    try:
        yield json.loads(cell)
    except (ValueError, RecursionError):
        if (number := _number(cell)) is not None:
            yield number


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _is_missing(cell: Any) -> bool:
    is_pandas = type(cell).__name__ in ("NAType", "NaTType")
    return cell is None or is_pandas or (isinstance(cell, float) and math.isnan(cell))


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return math.isclose(value, other, rel_tol=1e-9)
    return bool(value == other)
