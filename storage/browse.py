"""Queries on studies of many trials: new rows, filters, pages of the leaderboard, ancestry.

No query needs more than one scan of a study's trials, and the frequent ones use an index.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from atoll.storage.models import MigrationRow, ProgressRow, StudyRow, TrialRow
from atoll.storage.store import Store, StoreError
from atoll.storage.text import storable

Operator = Literal[
    "<", "<=", ">", ">=", "=", "!=", "contains", "not contains", "starts", "ends", "between", "in", "is null"
]  # fmt: skip

# The columns that figures and places need; none holds JSON, which takes long to parse.
SCALAR_COLUMNS = (
    "id", "number", "attempt", "island", "worker", "state", "objective", "seconds", "wire_bytes",
    "started", "finished",
)  # fmt: skip
# All that a table of trials shows: not the configurations and tracebacks, which are long.
TABLE_COLUMNS = (
    *SCALAR_COLUMNS, "generation", "seed", "peak_memory", "host", "reason", "note", "oversubscribed", "provenance",
    "objectives", "hyperparameters", "metrics", "proposal", "notes",
)  # fmt: skip
REPORT_COLUMNS = (
    "step", "epoch", "seconds", "metric", "train_loss", "validation_loss", "learning_rate", "wire_bytes", "metrics"
)  # fmt: skip
SORTABLE = (*SCALAR_COLUMNS, "seed", "peak_memory", "host", "reason", "note", "oversubscribed")
# Readers also filter by `hp.NAME` and `metric.NAME`, which are values inside these JSON columns.
JSON_COLUMNS = {"hp": TrialRow.hyperparameters, "metric": TrialRow.metrics}
MAX_VALUES = 5000  # in one IN clause
MAX_TEXT = 1000  # characters of a condition's value
MAX_CONDITIONS = 100  # of a selection
MAX_NUMBER = 2**31 - 1  # drivers fail in different ways on larger ones


_VALUES = {"in": "a list", "between": "a list of two ends"}


def _check_value(value: object) -> None:
    """Raise StoreError for a value that no trial can have, or that a database's driver fails on."""
    if isinstance(value, str) and len(value) <= MAX_TEXT and storable(value) == value:
        return
    if isinstance(value, bool) or value is None or (isinstance(value, int) and abs(value) < 2**63):
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    raise StoreError(
        f"conditions compare with finite numbers below 2^63 and texts of up to {MAX_TEXT} characters; "
        f"got {_short(value)}"
    )


def _short(value: object) -> str:
    return reprlib.repr(value if not isinstance(value, int) or abs(value) < 2**63 else "a larger number")


@dataclass(frozen=True)
class Condition:
    """A condition on a column of a trial, on `hp.NAME` or on `metric.NAME`.

    The value of `in` is a list, that of `between` a pair of ends, and that of `is null` is True or False. A column
    without a value only meets `is null`, `!=` and `not contains`.
    """

    column: str
    operator: Operator
    value: Any

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise StoreError(f"conditions are {', '.join(get_args(Operator))}; got {self.operator!r}")
        parse_column(self.column)
        values = self.value if self.operator in ("in", "between") else [self.value]
        if not isinstance(values, list | tuple) or (self.operator == "between" and len(values) != 2):
            wanted = _VALUES[self.operator]
            raise StoreError(f"the value of {self.operator!r} must be {wanted}; got {_short(self.value)}")
        if len(values) > MAX_VALUES:
            raise StoreError(f"a condition may have at most {MAX_VALUES} values; got {len(values)}")
        for value in values:
            _check_value(value)


AnyOf = tuple[Condition, ...]  # joined by OR


@dataclass(frozen=True)
class Selection:
    """The trials that meet all conditions, in an order of columns."""

    conditions: tuple[AnyOf, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()  # (column, descending); missing values come last

    def __post_init__(self) -> None:
        for column, _ in self.order:
            parse_column(column)
        if (count := sum(map(len, self.conditions)) + len(self.order)) > MAX_CONDITIONS:
            raise StoreError(f"a selection may have at most {MAX_CONDITIONS} conditions and sortings; got {count}")
        if not all(self.conditions):
            raise StoreError("every part of a selection must have a condition; got an empty one")


def parse_column(column: str) -> tuple[str | None, str]:
    """Split `hp.NAME` and `metric.NAME` into both parts; the first is None for a trial's own column.

    Raises:
        StoreError: if there is no such column.
    """
    holder, dot, name = column.partition(".")
    if dot and name and holder in JSON_COLUMNS:
        return holder, name
    if column in SORTABLE:
        return None, column
    raise StoreError(f"columns are {', '.join(SORTABLE)}, hp.NAME and metric.NAME; got {column!r}")


def scalar_columns(store: Store, study_id: int, after: int = 0) -> list[sa.Row[Any]]:
    """The scalar columns and objectives of a study's trials with an id above `after`, by id."""
    query = _select_scalars().where(TrialRow.study_id == study_id, TrialRow.id > after).order_by(TrialRow.id)
    with store.engine.connect() as connection:
        return list(connection.execute(query).all())


def scalar_columns_of(store: Store, ids: Iterable[int]) -> list[sa.Row[Any]]:
    """The scalar columns and objectives of these trials, by id."""
    return _by_id(store, _select_scalars(), ids)


def _select_scalars() -> sa.Select[Any]:
    return sa.select(*(getattr(TrialRow, name) for name in SCALAR_COLUMNS), TrialRow.objectives)


def table_columns(store: Store, study_id: int) -> list[sa.Row[Any]]:
    """The columns `TABLE_COLUMNS` of all trials of a study, by number and attempt."""
    query = sa.select(*(getattr(TrialRow, name) for name in TABLE_COLUMNS)).where(TrialRow.study_id == study_id)
    with store.engine.connect() as connection:
        return list(connection.execute(query.order_by(TrialRow.number, TrialRow.attempt)))


def reports(store: Store, study_id: int, numbers: Sequence[int] | None = None) -> list[sa.Row[Any]]:
    """Trial number, attempt, and `REPORT_COLUMNS` of a study's reports, by trial, attempt and step.

    Args:
        store, study_id: the study.
        numbers: only of these trials. Default: of all.
    """
    columns = (getattr(ProgressRow, name) for name in REPORT_COLUMNS)
    query = (
        sa.select(TrialRow.number, TrialRow.attempt, *columns)
        .join(TrialRow, TrialRow.id == ProgressRow.trial_id)
        .where(TrialRow.study_id == study_id)
        .order_by(TrialRow.number, TrialRow.attempt, ProgressRow.step)
    )
    parts = [None] if numbers is None else list(_parts(sorted(set(numbers))))
    with store.engine.connect() as connection:
        return [
            row
            for part in parts
            for row in connection.execute(query if part is None else query.where(TrialRow.number.in_(part)))
        ]


def hyperparameters(store: Store, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The hyperparameters of these trials by id."""
    rows = _by_id(store, sa.select(TrialRow.id, TrialRow.hyperparameters.label("content")), ids)
    return {row.id: row.content or {} for row in rows}


def sampled_ends(store: Store, study_id: int, first: int = 50, newest: int = 150) -> list[dict[str, Any]]:
    """The hyperparameters of a study's first and newest trials, a sample that shows all names and types."""
    query = sa.select(TrialRow.id, TrialRow.hyperparameters).where(TrialRow.study_id == study_id)
    with store.engine.connect() as connection:
        first_rows = connection.execute(query.order_by(TrialRow.id).limit(first)).all()
        newest_rows = connection.execute(query.order_by(TrialRow.id.desc()).limit(newest)).all()
    return list({row.id: row.hyperparameters or {} for row in [*first_rows, *reversed(newest_rows)]}.values())


def trials(store: Store, ids: Sequence[int]) -> list[TrialRow]:
    """Whole trials in the order of `ids`, without those that have been deleted."""
    with store.session() as session:
        by_id = {
            trial.id: trial
            for part in _parts(ids)
            for trial in session.scalars(sa.select(TrialRow).where(TrialRow.id.in_(part)))
        }
    return [by_id[id_] for id_ in ids if id_ in by_id]


def _by_id(store: Store, query: sa.Select[Any], ids: Iterable[int]) -> list[sa.Row[Any]]:
    with store.engine.connect() as connection:
        return [
            row
            for part in _parts(sorted(ids))
            for row in connection.execute(query.where(TrialRow.id.in_(part)).order_by(TrialRow.id))
        ]


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + MAX_VALUES] for start in range(0, len(ids), MAX_VALUES))


def matching(store: Store, study_id: int, selection: Selection) -> list[int]:
    """The ids of the trials of a selection, in its order, then by id."""
    dialect = store.engine.dialect.name
    clauses = [sa.or_(*(_clause(condition, dialect) for condition in any_of)) for any_of in selection.conditions]
    order: list[ColumnElement[Any]] = []
    for column, descending in selection.order:
        for key in _keys(column, dialect):
            order.append((key.desc() if descending else key.asc()).nulls_last())
    query = sa.select(TrialRow.id).where(TrialRow.study_id == study_id, *clauses).order_by(*order, TrialRow.id)
    with store.engine.connect() as connection:
        return list(connection.scalars(query))


def _keys(column: str, dialect: str) -> list[ColumnElement[Any]]:
    """The keys to sort by; JSON values sort numbers first, then text."""
    holder, name = parse_column(column)
    if holder is None:
        return [getattr(TrialRow, name)]
    return [_number(JSON_COLUMNS[holder], name, dialect), _text(JSON_COLUMNS[holder], name, dialect)]


def _number(column: Any, name: str, dialect: str) -> ColumnElement[Any]:
    """A JSON value if it is a number, else null: databases differ in how they convert text to numbers."""
    is_number = _type(column, name, dialect).in_(("integer", "real", "number"))
    return sa.case((is_number, column[name].as_float()))


def _text(column: Any, name: str, dialect: str) -> ColumnElement[Any]:
    """A JSON value as text; SQLite would write 1 for true."""
    text = column[name].as_string()
    kind = _type(column, name, dialect)
    return sa.case((kind.in_(("true", "false")), kind), else_=text) if dialect == "sqlite" else text


def _type(column: Any, name: str, dialect: str) -> ColumnElement[Any]:
    if dialect == "sqlite":
        return sa.func.json_type(column, f'$."{name}"')
    return sa.func.json_typeof(column[name])


def _clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    holder, name = parse_column(condition.column)
    value, operator = condition.value, condition.operator
    if operator == "between":
        ends = (Condition(condition.column, ">=", value[0]), Condition(condition.column, "<=", value[1]))
        return sa.and_(*(_clause(end, dialect) for end in ends))
    if holder is None:
        column: ColumnElement[Any] = getattr(TrialRow, name)
        text = column if isinstance(column.type, sa.String) else sa.cast(column, sa.String)
    else:
        text = _text(JSON_COLUMNS[holder], name, dialect)
        column = _number(JSON_COLUMNS[holder], name, dialect) if _is_number(value) else text
    if operator == "is null":
        return text.is_(None) if value else text.is_not(None)
    if operator == "in":
        # Databases format the numbers of a JSON column in their own ways, so compare them as numbers.
        numbers = [item for item in value if _is_number(item)]
        number_column = _number(JSON_COLUMNS[holder], name, dialect) if holder else column
        # PostgreSQL keeps the spaces in a JSON list as it was written, SQLite removes them.
        words = [str(item) for item in value if not _is_number(item)]
        is_word = text.in_([*words, *(word.replace(", ", ",") for word in words if word.startswith("["))])
        return sa.or_(is_word, number_column.in_(numbers)) if numbers else is_word
    if operator in ("contains", "not contains", "starts", "ends"):
        return _words(text, operator, str(value))
    if operator == "!=":
        return sa.or_(column != value, column.is_(None))
    comparison = {"<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__", "=": "__eq__"}[operator]
    return sa.and_(getattr(column, comparison)(value))


def _words(text: ColumnElement[Any], operator: str, value: str) -> ColumnElement[bool]:
    if operator == "starts":
        return text.istartswith(value, autoescape=True)
    if operator == "ends":
        return text.iendswith(value, autoescape=True)
    contains = text.icontains(value, autoescape=True)
    return contains if operator == "contains" else sa.or_(sa.not_(contains), text.is_(None))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def leaders(store: Store, study: StudyRow, num: int) -> list[int]:
    """The ids of the best complete trials of a study with one objective; ties by number."""
    key = TrialRow.objective.desc() if study.direction == "maximize" else TrialRow.objective.asc()
    query = sa.select(TrialRow.id).where(TrialRow.study_id == study.id, TrialRow.state == "complete")
    with store.engine.connect() as connection:
        ranked = query.where(TrialRow.objective.is_not(None)).order_by(key, TrialRow.number)
        return list(connection.scalars(ranked.limit(num)))


def num_trials(store: Store, study_id: int) -> int:
    """The number of a study's trials, in any state."""
    with store.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(TrialRow.study_id == study_id)) or 0


def reasons(store: Store, study_id: int) -> list[tuple[str, int, int]]:
    """Why trials failed or were lost: reason, count and number of the newest; the most frequent first."""
    reason = sa.func.coalesce(TrialRow.reason, "")
    query = (
        sa.select(reason, sa.func.count(), sa.func.max(TrialRow.number))
        .where(TrialRow.study_id == study_id, TrialRow.state.in_(("failed", "lost")))
        .group_by(reason)
        .order_by(sa.func.count().desc(), reason)
    )
    with store.engine.connect() as connection:
        return [(text, count, newest) for text, count, newest in connection.execute(query)]


def trial(store: Store, study_id: int, number: int, attempt: int | None = None) -> TrialRow:
    """A trial by number and attempt. Default: its last attempt. Raises StoreError if there is none."""
    if max(number, attempt or 0) > MAX_NUMBER:
        raise StoreError(f"trials are numbered up to {MAX_NUMBER}; got {number}")
    query = sa.select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.number == number)
    if attempt is not None:
        query = query.where(TrialRow.attempt == attempt)
    with store.session() as session:
        row = session.scalars(query.order_by(TrialRow.attempt.desc())).first()
    if row is None:
        which = f"trial {number}" if attempt is None else f"attempt {attempt} of trial {number}"
        raise StoreError(f"the study has no {which}")
    return row


def ancestry(store: Store, study_id: int, number: int, max_trials: int = 200) -> dict[int, TrialRow]:
    """A trial and its ancestors by number, the nearest first, at most `max_trials`."""
    family: dict[int, TrialRow] = {}
    wanted = [number] if number <= MAX_NUMBER else []
    while wanted and len(family) < max_trials:
        query = sa.select(TrialRow).where(
            TrialRow.study_id == study_id, TrialRow.number.in_(wanted[: max_trials - len(family)])
        )
        with store.session() as session:
            rows = session.scalars(query.order_by(TrialRow.number, TrialRow.attempt))
            generation = {row.number: row for row in rows}  # later attempts replace earlier ones
        family |= generation
        parents = (parent for row in generation.values() for parent in (row.proposal or {}).get("parents", ()))
        wanted = sorted(set(parents) - family.keys(), reverse=True)
    return family


def num_migrations(store: Store, study_id: int) -> int:
    """The number of migrations of a study so far."""
    with store.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(MigrationRow.study_id == study_id)) or 0


def newest_progress(store: Store, ids: Iterable[int]) -> Mapping[int, int]:
    """The newest step that each of these trials has reported."""
    query = sa.select(ProgressRow.trial_id, sa.func.max(ProgressRow.step)).where(ProgressRow.trial_id.in_(list(ids)))
    with store.engine.connect() as connection:
        return {id_: step for id_, step in connection.execute(query.group_by(ProgressRow.trial_id))}  # noqa: C416
