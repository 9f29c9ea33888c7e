"""Results from elsewhere that samplers are told without being trained again: tables and earlier studies.

A row that does not fit is left out and counted, not changed: clipping a value into its range would tell a sampler the
objective of a configuration that never had it. What is missing is not guessed either: a hyperparameter without a
value is taken from `fixed`, or it is inactive; otherwise its row is left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from atoll.analysis import pareto
from atoll.analysis.formatting import counted
from atoll.platform.study import objectives, related
from atoll.platform.study.cells import LeftOut, Row, Source, as_number, is_missing, readings, reasons, same
from atoll.platform.study.configuration import complete_hyperparameters
from atoll.platform.study.learn_from import LearnFrom
from atoll.platform.study.plan import Plan
from atoll.platform.study.related import Related
from atoll.platform.study.samplers import CmaEs, Grid, Sampler, members
from atoll.searchspaces.optimizer import acts
from atoll.searchspaces.space import Parameter
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store, StoreError

LEARNS_NOTHING = ("random", "grid", "optuna-qmc", "pbt")  # samplers
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
class Lessons:
    """What a study learns from elsewhere.

    Attributes:
        learned: results of its objective, which samplers are told, in order.
        related: results of other problems.
        report: sentences on the sources.
    """

    learned: list[Learned]
    related: list[Related]
    report: list[str]


def check(plan: Plan) -> None:
    """Raise ValueError if a study would learn from something, and its samplers cannot.

    Of a study of the store without `related` this is known when it is read.
    """
    for source in plan.study.learn_from or []:
        if source.related is not None or source.file is not None:
            _check_samplers(plan, source, is_related=bool(source.related))


def _check_samplers(plan: Plan, source: LearnFrom, *, is_related: bool) -> None:
    samplers = [member for sampler in plan.study.samplers() for member in members(sampler)]
    if is_related:
        if any(isinstance(sampler, Grid) for sampler in samplers):
            raise ValueError(
                f"a grid evaluates its points, so nothing can be suggested to it; {source.title} is related: omit it, "
                "or use another sampler"
            )
        if (count := len(plan.objectives)) > 1:
            raise ValueError(
                f"learn_from {source.title}: a related source needs a study with one objective; this one has {count}: "
                "omit it, or, if its objectives are on the same scale as this study's, set related: false"
            )
    elif not any(map(learns, samplers)):
        names = ", ".join(dict.fromkeys(sampler.name for sampler in samplers))
        raise ValueError(f"learn_from needs a sampler that learns; {names} does not: omit learn_from")


def learns(sampler: Sampler) -> bool:
    """Whether a sampler uses results from elsewhere; Optuna's separable CMA-ES has no form that does."""
    return sampler.name not in LEARNS_NOTHING and not (isinstance(sampler, CmaEs) and sampler.separable)


def read(plan: Plan, url: str) -> Lessons:
    """What a study learns.

    Raises:
        ValueError: if a source cannot be read, has another direction, lacks a column, or has no row that fits, or if
            the study's samplers cannot learn from it.
        StoreError: if the store does not hold a study.
    """
    lessons = Lessons([], [], [])
    for source in plan.study.learn_from or []:
        found = _of_study(plan, source, url) if source.study is not None else _of_file(plan, source)
        _check_samplers(plan, source, is_related=found.related_by is not None)
        if found.related_by is not None:
            one, said = related.read(plan, source, found)
            lessons.related.append(one)
        else:
            told, said = _told(plan, source, found)
            lessons.learned.extend(told)
        lessons.report.extend([said, *found.notes])
    return lessons


def _told(plan: Plan, source: LearnFrom, found: Source) -> tuple[list[Learned], str]:
    """The results of the study's objective that a source has, and a sentence on them."""
    told, left_out = _fitted(plan, found, source)
    said = _said(source, len(told), len(found.rows), left_out)
    if not told:
        raise ValueError(f"{said}: there is nothing to learn")
    if source.best is not None and source.best < len(told):
        said += f"; told the best {source.best}"
        told = [told[index] for index in _best(told)[: source.best]]
    return told, said


def _said(source: LearnFrom, num_told: int, num_rows: int, left_out: Counter[str]) -> str:
    said = f"learn_from {source.title}: learned from {num_told} of {counted(num_rows, 'row')}"
    return f"{said}; {reasons(left_out)}" if left_out else said


def _best(learned: Sequence[Learned]) -> list[int]:
    if len(learned[0].losses) == 1:
        return sorted(range(len(learned)), key=lambda index: learned[index].losses)
    return list(pareto.order([one.losses for one in learned]))


# Sources.


def _of_file(plan: Plan, source: LearnFrom) -> Source:
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
        if (other := directions.get(found[name], direction)) != direction and not source.related:
            raise ValueError(f"{file.name} has another direction of {name}: {other}, and this study would {direction}")
    has_states = {str(row.get("state")).lower() for row in rows} <= _STATES
    renamed = [
        Row(
            str(row["state"]).lower() if has_states else "complete",
            {name: row.get(column) for name, column in found.items() if name in names},
            {name: row.get(found[name]) for name in aims},
        )
        for row in rows
    ]
    there = {name: directions.get(found[name], direction) for name, direction in aims.items()}
    related_by = "as it says `related: true`" if source.related else None
    return Source(renamed, dict(plan.space.fixed), directions=there, related_by=related_by)


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


def _of_study(plan: Plan, source: LearnFrom, url: str) -> Source:
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
    related_by = _related_by(plan, source, row)
    names = _names_there(plan, source, aims)
    notes = [] if related_by else _differences(plan, row, trials.values())
    first = plan.objectives[0].name
    if related_by and names.get(first, first) not in aims and first not in names:
        names[first] = next(iter(aims))
        notes.append(f"learn_from {source.title}: its objective is {names[first]}, in place of {first}")
    there = {one.name: aims.get(names.get(one.name, one.name), str(one.direction)) for one in plan.objectives}
    for objective in plan.objectives:
        if (direction := there[objective.name]) != objective.direction and not related_by:
            raise ValueError(
                f"study {row.name} would {direction} {names.get(objective.name, objective.name)}, and this study would "
                f"{objective.direction} {objective.name}"
            )
    if records:
        _check_units(plan, row.name, records[-1].record.get("space") or {})
    study = plan.study
    others = complete_hyperparameters(study.method, study.workload, dict(plan.space.fixed))
    rows = [_row(trial, list(aims), names) for trial in trials.values()]
    return Source(rows, others, notes, there, related_by)


def _related_by(plan: Plan, source: LearnFrom, row: StudyRow) -> str | None:
    """Why a study's results are not those of this study's objective; None if they are."""
    if source.related is not None:
        return "as it says `related: true`" if source.related else None
    subject = _other_subject(plan, row)
    return None if subject is None else f"as {subject}"


def _other_subject(plan: Plan, row: StudyRow) -> str | None:
    """What an earlier study trained, in words, if it is not what this one trains; of an import this is not known."""
    now, before = (plan.study.method, plan.study.workload), (row.method, row.workload)
    if row.is_imported or now == before:
        return None
    if plan.study.calls_function and before[0] == now[0]:
        return f"it called {before[1]}, and this study {now[1]}"
    return f"it trained {before[0]} on {before[1]}, and this study {now[0]} on {now[1]}"


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


def _row(trial: TrialRow, aims: Sequence[str], names: Mapping[str, str]) -> Row:
    whole = dict(trial.configuration.get("hyperparameters") or trial.hyperparameters)
    values = trial.objectives or [trial.objective]
    totals = {"seconds": trial.seconds, "bytes_sent": trial.wire_bytes, "peak_memory": trial.peak_memory}
    measured = totals | (trial.metrics or {}) | dict(zip(aims, values, strict=False))
    for found in (whole, measured):
        found |= {name: found[there] for name, there in names.items() if there in found}
    changes = any(len(values) > 1 for values in (trial.configuration.get("schedule") or {}).values())
    # Its last values alone are another training.
    state = "trained with a schedule" if changes and trial.state == "complete" else trial.state
    return Row(state, whole, measured)


def _differences(plan: Plan, row: StudyRow, trials: Iterable[TrialRow]) -> list[str]:
    """Sentences on why objectives of an earlier study may not compare with those of this one."""
    notes = []
    if (other := _other_subject(plan, row)) is not None:
        notes.append(f"learn_from study {row.name}: {other}: their objectives may not compare")
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


def _fitted(plan: Plan, found: Source, source: LearnFrom) -> tuple[list[Learned], Counter[str]]:
    """The rows in the study's space, and the number of the others by reason."""
    told, left_out = [], Counter[str]()
    for row in found.rows:
        if row.state != "complete":
            left_out[row.state] += 1
            continue
        try:
            values = _objectives(plan, row.measured)
            hyperparameters = _hyperparameters(plan, source.fixed | _present(row.hyperparameters), found.others)
        except LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        told.append(Learned(hyperparameters, objectives.losses(plan.objectives, values)))
    return told, left_out


def _objectives(plan: Plan, measured: Mapping[str, Any]) -> list[float]:
    values = []
    for objective in plan.objectives:
        value = as_number(measured.get(objective.name))
        if value is None or not math.isfinite(value):
            raise LeftOut("without objective" if len(plan.objectives) == 1 else f"without {objective.name}")
        values.append(float(value))
    return values


def _hyperparameters(plan: Plan, row: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The row's hyperparameters in the space, with the fixed ones. Raises LeftOut if they do not fit."""
    space = plan.space
    searched = {parameter.name for parameter in space.parameters}
    for name, value in others.items():
        if name in searched or name not in row or not acts(name, {**others, **row}):
            continue
        if not any(same(value, candidate) for candidate in readings(row[name])):
            raise LeftOut(f"{name} other than {value}")
    given: dict[str, Any] = dict(space.fixed)

    def gene(parameter: Parameter) -> Any:
        value = _value(parameter, row.get(parameter.name))
        given[parameter.name] = value
        ceiling = parameter.ceiling(given)
        if ceiling is not None and value > ceiling:
            raise LeftOut(f"{parameter.name} above {parameter.at_most}")
        return parameter.encode(value, ceiling)

    genes, values = space.draw(gene)
    values |= {name: given[name] for name in genes}  # decoding may change a number's last digit
    if (violated := space.violated(values)) is not None:
        raise LeftOut(f"against {violated}")
    if (reason := plan.infeasibility(values)) is not None:
        raise LeftOut(f"infeasible ({reason})")
    return values


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not is_missing(value)}


def _value(parameter: Parameter, cell: Any) -> Any:
    """A cell as a value of the parameter. Raises LeftOut if it is missing or outside."""
    if is_missing(cell):
        raise LeftOut(f"without {parameter.name}")
    for candidate in readings(cell):
        is_whole = isinstance(candidate, float) and candidate.is_integer()
        value = int(candidate) if is_whole and isinstance(parameter.distribution, IntDistribution) else candidate
        if parameter.contains(value):
            if isinstance(parameter.distribution, CategoricalDistribution):  # 1.0 may stand for the choice 1
                return next(one for one in parameter.distribution.choices if one == value)
            return value
    raise LeftOut(f"{parameter.name} outside {_domain(parameter)}")


def _domain(parameter: Parameter) -> str:
    d = parameter.distribution
    return parameter.domain() if isinstance(d, CategoricalDistribution) else f"{d.low:g}..{d.high:g}"
