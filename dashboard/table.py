"""The leaderboard's rows: what the table asks for, as a selection of the store, and a page of its answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atoll.dashboard.board import Board
from atoll.dashboard.components import BYTES, column, link_column
from atoll.dashboard.context import Context
from atoll.storage import browse
from atoll.storage.browse import AnyOf, Condition, Operator, Selection
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import StoreError

MAX_SHOWN = 8  # hyperparameters, until others are picked
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


def columns(
    study: StudyRow, shown: Sequence[str], kinds: Mapping[str, bool], order: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, Any]]:
    """The table's columns: place, trial, state, objectives, the hyperparameters that are shown, and what it took.

    Args:
        study: whose trials they are.
        shown: hyperparameters.
        kinds: which hyperparameters are numbers.
        order: by what to sort at first, ag-grid's sort model; by place unless given.
    """
    sorted_by = {one["colId"]: one["sort"] for one in order} or {"place": "asc"}
    several = study.objectives
    objectives = [
        column(f"objectives.{o['name']}", o["name"], numeric=True, filter=False, sortable=False, width=140)
        for o in several or ()
    ] or [column("objective", study.metric, numeric=True, width=90 + 8 * len(study.metric))]
    found = [
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
    return [one | {"initialSort": sorted_by.get(one["field"])} for one in found]


def selection(model: Model | None, order: Sequence[Mapping[str, str]], brushed: Model | None = None) -> Selection:
    """What the table's filters and sorting, and what is brushed in the figure, ask of the store.

    Args:
        model: ag-grid's filter model by column.
        order: ag-grid's sort model; a place is no column of the store.
        brushed: ranges or words by column, as `brushed_conditions` takes them.
    """
    conditions: list[AnyOf] = []
    for name, content in (model or {}).items():
        conditions += _conditions(name, content)
    conditions += brushed_conditions(brushed or {})
    wanted = tuple((one["colId"], one["sort"] == "desc") for one in order if one["colId"] != "place")
    return Selection(tuple(conditions), wanted)


def _conditions(name: str, content: Model) -> list[AnyOf]:
    if "conditions" in content:
        parts = [_conditions(name, one) for one in content["conditions"]]
        if content.get("operator") == "OR":
            # (a and b) or c is (a or c) and (b or c): every choice of one condition from each part.
            return [tuple(one for several in chosen for one in several) for chosen in itertools.product(*parts)]
        return [one for part in parts for one in part]
    kind, value = content.get("type"), content.get("filter")
    if kind in ("blank", "notBlank"):
        return [(Condition(name, "is null", kind == "blank"),)]
    if kind == "inRange":
        return [(Condition(name, ">=", value),), (Condition(name, "<=", content["filterTo"]),)]
    return [(Condition(name, OPERATORS[str(kind)], value),)]


def checked(model: Any, brushed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Filters and brushes of an address; none where they ask for what cannot be."""
    try:
        selection(model, [], brushed)
    except (StoreError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return {}, {}
    return dict(model), dict(brushed)


def brushed_conditions(brushed: Model) -> list[AnyOf]:
    """Of each brushed column: numbers inside one of the ranges, or one of the words; null stands for what is missing.

    Args:
        brushed: by column {"ranges": [[low, high], ...]} or {"words": [...]}.
    """
    found: list[AnyOf] = []
    for name, content in brushed.items():
        if "words" in content:
            words = [word for word in content["words"] if word is not None]
            missing = (Condition(name, "is null", True),) if None in content["words"] else ()
            found.append((Condition(name, "in", words), *missing))
        else:
            ranges = sorted(content["ranges"])
            found += [(Condition(name, ">=", ranges[0][0]),), (Condition(name, "<=", ranges[-1][1]),)]
            # Several ranges: not between one's end and the next one's beginning.
            found += [
                (Condition(name, "<=", low[1]), Condition(name, ">=", high[0]))
                for low, high in itertools.pairwise(ranges)
            ]
    return found


def ordered_ids(
    context: Context, board: Board, chosen: Selection, by_place: bool, descending: bool = False
) -> list[int]:
    """The ids of a selection in the order that the table shows them."""
    if not by_place:
        return browse.matching(context.store, board.study.id, chosen)
    trials = board.trials
    if chosen.conditions:
        ids = browse.matching(context.store, board.study.id, Selection(chosen.conditions))
        trials = trials[trials["id"].isin(ids)]
    place = trials["place"].to_numpy()
    # What has no place comes last, the newest first: what runs is of more interest than what failed long ago.
    order = np.lexsort((-trials["number"].to_numpy(), -place if descending else place))
    return [int(id_) for id_ in trials["id"].to_numpy()[order]]


def page(context: Context, study: StudyRow, request: Model, brushed: Model | None) -> dict[str, Any]:
    """The rows that the table asks for, and how many there are of them.

    The best trials, which a page begins with, come without the board, which takes a while to read at first. Raises what
    is in `context.UNREADABLE`.
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
    """One trial as the table shows it; NaN for a trial without a place."""
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
    """A hyperparameter's value in words, numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def cell(value: Any) -> Any:
    """The same for a column that sorts and formats numbers itself."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else shown(value)
