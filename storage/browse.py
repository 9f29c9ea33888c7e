"""What a reader asks of a study of many trials: what is new, which ones match, a page of them, where they come from.

No question takes more than one scan of a study's trials, and those that are asked again and again take an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from atoll.storage.models import MigrationRow, ProgressRow, StudyRow, TrialRow
from atoll.storage.store import Store, StoreError

Operator = Literal["<", "<=", ">", ">=", "=", "!=", "contains", "not contains", "starts", "ends", "in", "is null"]

# What figures and places are made of; nothing that has to be parsed.
NARROW = (
    "id", "number", "attempt", "island", "worker", "state", "objective", "seconds", "wire_bytes",
    "started", "finished",
)  # fmt: skip
SORTABLE = (*NARROW, "seed", "peak_memory", "host", "reason", "note", "oversubscribed")
# What readers filter by: a hyperparameter or a metric is a column too, named after what holds it.
HELD = {"hp": TrialRow.hyperparameters, "metric": TrialRow.metrics}
MAX_VALUES = 5000  # of one IN
MAX_NUMBER = 2**31 - 1  # of a column; drivers fail on more in their own ways


@dataclass(frozen=True)
class Condition:
    """What a column must be: the value of `in` is a list, that of `is null` is whether it must be.

    Columns are a trial's, `hp.NAME` and `metric.NAME`; one without a value meets `is null` and `!=` only.
    """

    column: str
    operator: Operator
    value: Any

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise StoreError(f"conditions are {', '.join(get_args(Operator))}; got {self.operator!r}")
        parse_column(self.column)


AnyOf = tuple[Condition, ...]  # one of them suffices


@dataclass(frozen=True)
class Selection:
    """The trials that meet all conditions, in order."""

    conditions: tuple[AnyOf, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()  # column, and whether the largest come first; what is missing comes last

    def __post_init__(self) -> None:
        for column, _ in self.order:
            parse_column(column)


def parse_column(column: str) -> tuple[str | None, str]:
    """What holds a column (hp, metric, or the trial itself) and its name. Raises StoreError for none there can be."""
    holder, dot, name = column.partition(".")
    if dot and name and holder in HELD:
        return holder, name
    if column in SORTABLE:
        return None, column
    raise StoreError(f"columns are {', '.join(SORTABLE)}, hp.NAME and metric.NAME; got {column!r}")


def narrow_trials(store: Store, study_id: int, after: int = 0) -> list[sa.Row[Any]]:
    """The narrow columns of the trials with an id above `after`, by id."""
    query = _narrow().where(TrialRow.study_id == study_id, TrialRow.id > after).order_by(TrialRow.id)
    with store.engine.connect() as connection:
        return list(connection.execute(query).all())


def narrow_again(store: Store, ids: Iterable[int]) -> list[sa.Row[Any]]:
    """The narrow columns of these trials, by id."""
    return _by_id(store, _narrow(), ids)


def _narrow() -> sa.Select[Any]:
    return sa.select(*(getattr(TrialRow, name) for name in NARROW), TrialRow.objectives)


def held(store: Store, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The hyperparameters of these trials by id."""
    rows = _by_id(store, sa.select(TrialRow.id, TrialRow.hyperparameters.label("content")), ids)
    return {row.id: row.content or {} for row in rows}


def held_at_ends(store: Store, study_id: int, first: int = 50, newest: int = 150) -> list[dict[str, Any]]:
    """The hyperparameters of a study's first and newest trials: those that all its trials may have, and their kinds."""
    query = sa.select(TrialRow.id, TrialRow.hyperparameters).where(TrialRow.study_id == study_id)
    with store.engine.connect() as connection:
        begin = connection.execute(query.order_by(TrialRow.id).limit(first)).all()
        end = connection.execute(query.order_by(TrialRow.id.desc()).limit(newest)).all()
    return list({row.id: row.hyperparameters or {} for row in [*begin, *reversed(end)]}.values())


def trials(store: Store, ids: Sequence[int]) -> list[TrialRow]:
    """Whole trials in the order of `ids`; those that are gone are left out."""
    with store.session() as session:
        found = {
            trial.id: trial
            for some in _parts(ids)
            for trial in session.scalars(sa.select(TrialRow).where(TrialRow.id.in_(some)))
        }
    return [found[id_] for id_ in ids if id_ in found]


def _by_id(store: Store, query: sa.Select[Any], ids: Iterable[int]) -> list[sa.Row[Any]]:
    with store.engine.connect() as connection:
        return [
            row
            for some in _parts(sorted(ids))
            for row in connection.execute(query.where(TrialRow.id.in_(some)).order_by(TrialRow.id))
        ]


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + MAX_VALUES] for start in range(0, len(ids), MAX_VALUES))


def matching(store: Store, study_id: int, selection: Selection) -> list[int]:
    """The ids of the trials of a selection, in its order, then by id."""
    dialect = store.engine.dialect.name
    clauses = [sa.or_(*(_clause(one, dialect) for one in several)) for several in selection.conditions]
    order: list[ColumnElement[Any]] = []
    for column, descending in selection.order:
        for key in _keys(column, dialect):
            order.append((key.desc() if descending else key.asc()).nulls_last())
    query = sa.select(TrialRow.id).where(TrialRow.study_id == study_id, *clauses).order_by(*order, TrialRow.id)
    with store.engine.connect() as connection:
        return list(connection.scalars(query))


def _keys(column: str, dialect: str) -> list[ColumnElement[Any]]:
    """What to order by: of what is held, numbers first, then words."""
    holder, name = parse_column(column)
    if holder is None:
        return [getattr(TrialRow, name)]
    return [_number(HELD[holder], name, dialect), _text(HELD[holder], name, dialect)]


def _number(where: Any, name: str, dialect: str) -> ColumnElement[Any]:
    """A held value where it is a number, else null: databases differ in what they make of a word there."""
    is_number = _type(where, name, dialect).in_(("integer", "real", "number"))
    return sa.case((is_number, where[name].as_float()))


def _text(where: Any, name: str, dialect: str) -> ColumnElement[Any]:
    """A held value as a word; SQLite would say 1 for true."""
    text = where[name].as_string()
    kind = _type(where, name, dialect)
    return sa.case((kind.in_(("true", "false")), kind), else_=text) if dialect == "sqlite" else text


def _type(where: Any, name: str, dialect: str) -> ColumnElement[Any]:
    if dialect == "sqlite":
        return sa.func.json_type(where, f'$."{name}"')
    return sa.func.json_typeof(where[name])


def _clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    holder, name = parse_column(condition.column)
    value, operator = condition.value, condition.operator
    if holder is None:
        column: ColumnElement[Any] = getattr(TrialRow, name)
        text = column if isinstance(column.type, sa.String) else sa.cast(column, sa.String)
    else:
        text = _text(HELD[holder], name, dialect)
        column = _number(HELD[holder], name, dialect) if _is_number(value) else text
    if operator == "is null":
        return text.is_(None) if value else text.is_not(None)
    if operator == "in":
        # Of what is held, the text of a number is the database's own: compare numbers as such.
        numbers = [one for one in value if _is_number(one)]
        of_numbers = _number(HELD[holder], name, dialect) if holder else column
        # PostgreSQL keeps the spaces of a list as it was written, SQLite none.
        spelled = [str(one) for one in value if not _is_number(one)]
        words = text.in_([*spelled, *(one.replace(", ", ",") for one in spelled if one.startswith("["))])
        return sa.or_(words, of_numbers.in_(numbers)) if numbers else words
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
    found = text.icontains(value, autoescape=True)
    return found if operator == "contains" else sa.or_(sa.not_(found), text.is_(None))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def leaders(store: Store, study: StudyRow, num: int) -> list[int]:
    """The ids of a study's best complete trials, equals by number; of one objective."""
    key = TrialRow.objective.desc() if study.direction == "maximize" else TrialRow.objective.asc()
    query = sa.select(TrialRow.id).where(TrialRow.study_id == study.id, TrialRow.state == "complete")
    with store.engine.connect() as connection:
        known = query.where(TrialRow.objective.is_not(None)).order_by(key, TrialRow.number)
        return list(connection.scalars(known.limit(num)))


def num_trials(store: Store, study_id: int) -> int:
    """How many trials a study has, in any state."""
    with store.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(TrialRow.study_id == study_id)) or 0


def reasons(store: Store, study_id: int) -> list[tuple[str, int, int]]:
    """Why trials failed or were lost: the reason, how many, and the newest one's number; the most frequent first."""
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
    """A trial by number, of its attempts the last unless one is given. Raises StoreError where there is none."""
    if max(number, attempt or 0) > MAX_NUMBER:
        raise StoreError(f"trials are numbered up to {MAX_NUMBER}; got {number}")
    query = sa.select(TrialRow).where(TrialRow.study_id == study_id, TrialRow.number == number)
    if attempt is not None:
        query = query.where(TrialRow.attempt == attempt)
    with store.session() as session:
        found = session.scalars(query.order_by(TrialRow.attempt.desc())).first()
    if found is None:
        which = f"trial {number}" if attempt is None else f"attempt {attempt} of trial {number}"
        raise StoreError(f"the study has no {which}")
    return found


def ancestry(store: Store, study_id: int, number: int, max_trials: int = 200) -> dict[int, TrialRow]:
    """A trial and its ancestors by number, back to those without parents, the nearest first, at most `max_trials`."""
    found: dict[int, TrialRow] = {}
    wanted = [number] if number <= MAX_NUMBER else []
    while wanted and len(found) < max_trials:
        query = sa.select(TrialRow).where(
            TrialRow.study_id == study_id, TrialRow.number.in_(wanted[: max_trials - len(found)])
        )
        with store.session() as session:
            # Later attempts take the place of earlier ones.
            new = {one.number: one for one in session.scalars(query.order_by(TrialRow.number, TrialRow.attempt))}
        found |= new
        parents = (parent for one in new.values() for parent in (one.proposal or {}).get("parents", ()))
        wanted = sorted(set(parents) - found.keys(), reverse=True)
    return found


def num_migrations(store: Store, study_id: int) -> int:
    """How many individuals of a study have migrated so far."""
    with store.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(MigrationRow.study_id == study_id)) or 0


def newest_progress(store: Store, ids: Iterable[int]) -> Mapping[int, int]:
    """The newest step that each of these trials has reported."""
    query = sa.select(ProgressRow.trial_id, sa.func.max(ProgressRow.step)).where(ProgressRow.trial_id.in_(list(ids)))
    with store.engine.connect() as connection:
        return {id_: step for id_, step in connection.execute(query.group_by(ProgressRow.trial_id))}  # noqa: C416
