"""The leaderboard: the table's requests as selections of the store, and pages of rows in answer."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atoll.analysis.tables import unit_of
from atoll.dashboard.board import Board
from atoll.dashboard.components import BYTES, column, link_column
from atoll.dashboard.context import Context
from atoll.storage import browse
from atoll.storage.browse import AnyOf, Condition, Operator, Selection
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import StoreError

MAX_SHOWN = 8  # hyperparameters that are shown by default
OPERATORS: dict[str, Operator] = {
    "equals": "=",
    "notEqual": "!=",
    "lessThan": "<",
    "lessThanOrEqual": "<=",
    "greaterThan": ">",
    "greaterThanOrEqual": ">=",
    "contains": "contains",
    "notContains": "not contains",
    "startsWith": "starts",
    "endsWith": "ends",
}
Model = Mapping[str, Any]


def _title(objective: str) -> str:
    """An objective's name with its unit."""
    unit = unit_of(objective)
    return f"{objective} ({unit})" if unit else objective


def columns(
    study: StudyRow, shown: Sequence[str], kinds: Mapping[str, bool], order: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, Any]]:
    """The table's columns: place, trial, state, objectives, the chosen hyperparameters, and costs.

    Args:
        study: the trials' study.
        shown: the hyperparameters to show.
        kinds: whether each hyperparameter is a number.
        order: the initial sort order as ag-grid's sort model. Default: by place.
    """
    sorted_by = {entry["colId"]: entry["sort"] for entry in order} or {"place": "asc"}
    several = study.objectives
    objectives = [
        column(f"objectives.{o['name']}", _title(o["name"]), numeric=True, filter=False, sortable=False, width=140)
        for o in several or ()
    ] or [column("objective", _title(study.metric), numeric=True, width=90 + 8 * len(_title(study.metric)))]
    definitions = [
        column("place", "place", width=100, filter=False, pinned="left"),
        link_column("number", "trial", width=90, filter="agNumberColumnFilter", pinned="left"),
        column("state", width=110),
        *objectives,
        *(column(f"hp.{name}", name, numeric=kinds.get(name, False), width=90 + 8 * len(name)) for name in shown),
        column("seconds", "seconds", numeric=True, width=110),
        column("wire_bytes", "sent", width=100, valueFormatter=BYTES, filter="agNumberColumnFilter"),
        column("island", numeric=True, width=110),
        column("worker", numeric=True, width=115),
        column("attempt", numeric=True, width=120),
        column("reason", minWidth=220),
        column("note", minWidth=160),
    ]
    return [definition | {"initialSort": sorted_by.get(definition["field"])} for definition in definitions]


def selection(model: Model | None, order: Sequence[Mapping[str, str]], brushed: Model | None = None) -> Selection:
    """The table's filters and sorting, and the figure's brushes, as a selection of the store.

    Args:
        model: ag-grid's filter model by column.
        order: ag-grid's sort model; the store has no column of places.
        brushed: ranges or words by column, as `brushed_conditions` takes them.
    """
    conditions: list[AnyOf] = []
    for name, content in (model or {}).items():
        conditions += _conditions(name, content)
    conditions += brushed_conditions(brushed or {})
    wanted = tuple((entry["colId"], entry["sort"] == "desc") for entry in order if entry["colId"] != "place")
    return Selection(tuple(conditions), wanted)


def _conditions(name: str, content: Model) -> list[AnyOf]:
    """The conditions of a column's filter: one, or several that ag-grid joins by AND or OR."""
    if "conditions" not in content:
        return [(_condition(name, content),)]
    parts = [_condition(name, part) for part in content["conditions"]]
    return [tuple(parts)] if content.get("operator") == "OR" else [(part,) for part in parts]


def _condition(name: str, content: Model) -> Condition:
    kind, value = content.get("type"), content.get("filter")
    if kind in ("blank", "notBlank"):
        return Condition(name, "is null", kind == "blank")
    if kind == "inRange":
        return Condition(name, "between", [value, content["filterTo"]])
    if kind not in OPERATORS:
        raise StoreError(f"filters are {', '.join(OPERATORS)}, inRange, blank and notBlank; got {reprlib.repr(kind)}")
    return Condition(name, OPERATORS[kind], value)


def checked(model: Any, brushed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An address's filters and brushes; none if they are invalid."""
    try:
        selection(model, [], brushed)
    except (StoreError, KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        return {}, {}
    return dict(model), dict(brushed)


def brushed_conditions(brushed: Model) -> list[AnyOf]:
    """Numbers inside one of a column's ranges, or one of its words; null stands for a missing value.

    Args:
        brushed: by column {"ranges": [[low, high], ...]} or {"words": [...]}.
    """
    conditions: list[AnyOf] = []
    for name, content in brushed.items():
        if "words" in content:
            words = [word for word in content["words"] if word is not None]
            missing = (Condition(name, "is null", True),) if None in content["words"] else ()
            conditions.append((Condition(name, "in", words), *missing))
        else:
            conditions.append(tuple(Condition(name, "between", list(ends)) for ends in content["ranges"]))
    return conditions


def ordered_ids(
    context: Context, board: Board, chosen: Selection, by_place: bool, descending: bool = False
) -> list[int]:
    """The ids of a selection, in the table's order."""
    if not by_place:
        return browse.matching(context.store, board.study.id, chosen)
    trials = board.trials
    if chosen.conditions:
        ids = browse.matching(context.store, board.study.id, Selection(chosen.conditions))
        trials = trials[trials["id"].isin(ids)]
    place = trials["place"].to_numpy()
    # Trials without a place come last, the newest first: a running trial matters more than an old failure.
    order = np.lexsort((-trials["number"].to_numpy(), -place if descending else place))
    return [int(id_) for id_ in trials["id"].to_numpy()[order]]


def page(context: Context, study: StudyRow, request: Model, brushed: Model | None) -> dict[str, Any]:
    """The requested rows, and the number of all rows.

    A page begins with the best trials; these come without the board, whose first reading takes a while. Raises the
    errors in `context.UNREADABLE`.
    """
    sorting = list(request.get("sortModel") or [])
    by_place = not sorting or sorting[0]["colId"] == "place"
    chosen = selection(request.get("filterModel"), sorting, brushed)
    descending = bool(sorting) and sorting[0]["sort"] == "desc"
    start, end = int(request["startRow"]), int(request["endRow"])
    is_begin = start == 0 and by_place and not descending and not chosen.conditions and not study.objectives
    shown = browse.leaders(context.store, study, end) if is_begin else []
    if shown and len(shown) == end:
        count = browse.num_trials(context.store, study.id)
        places: dict[int, float] = {id_: place for place, id_ in enumerate(shown, 1)}
    else:
        board = context.boards.of(study.name)
        ids = ordered_ids(context, board, chosen, by_place, by_place and descending)
        shown, count = ids[start:end], len(ids)
        places = dict(zip(shown, board.trials.set_index("id")["place"].reindex(shown), strict=True))
    rows = [row(context, study, trial, places[trial.id]) for trial in browse.trials(context.store, shown)]
    return {"rowData": rows, "rowCount": count}


def row(context: Context, study: StudyRow, trial: TrialRow, place: float) -> dict[str, Any]:
    """A trial as a row of the table; `place` is NaN for a trial without one."""
    several = zip(study.objectives or (), trial.objectives or (), strict=False)
    return {
        "key": str(trial.id),
        "href": context.link("trial", study=study.name, number=trial.number, attempt=trial.attempt),
        "place": None if np.isnan(place) else int(place),
        **{name: getattr(trial, name) for name in ("number", "attempt", "state", "objective", "seconds", "wire_bytes")},
        **{name: getattr(trial, name) for name in ("island", "worker", "reason", "note")},
        **{f"objectives.{objective['name']}": value for objective, value in several},
        **{f"hp.{name}": cell(value) for name, value in trial.hyperparameters.items()},
    }


def shown(value: Any) -> str:
    """A hyperparameter's value as text; numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def cell(value: Any) -> Any:
    """A hyperparameter's value for a column that sorts and formats numbers itself."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else shown(value)
