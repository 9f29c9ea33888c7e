"""The figures of the tabs on a study's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from atoll.analysis import importance
from atoll.analysis.importance import ImportanceError
from atoll.dashboard import drawing
from atoll.dashboard.board import Board
from atoll.dashboard.context import Context
from atoll.dashboard.drawing import MAX_CURVES
from atoll.dashboard.figures import study as figures
from atoll.dashboard.figures import style

TABS = {
    "best": "Best so far",
    "parallel": "Parallel coordinates",
    "importance": "Importance",
    "slices": "Slices",
    "contour": "Contour",
    "pareto": "Pareto front",
    "timeline": "Timeline",
    "failures": "Failures",
}
PATIENCE = 0.3  # seconds to wait for importance before the page says that it is being computed


def draw(context: Context, board: Board, tab: str, options: dict[str, Any]) -> go.Figure | None:
    """The figure of a tab; None while it is being computed."""
    store = context.store
    if tab == "best":
        return drawing.history(store, board, options["against"])
    if tab == "importance":
        return importance_figure(context, board, options["method"])
    if tab == "parallel":
        return drawing.parallel_coordinates(store, board, options["brush"])
    if tab == "slices":
        return drawing.slices(store, board, options["shown"] or ())
    draws = {"timeline": drawing.timeline, "failures": drawing.failures}.get(tab)
    if draws is not None:
        return draws(store, board)
    of_two = drawing.pareto if tab == "pareto" else drawing.contour
    return of_two(store, board, options["x"], options["y"])


def importance_figure(context: Context, board: Board, method: importance.Method) -> go.Figure | None:
    """Importance; None while it is being computed. It is kept until a tenth more trials are complete."""
    num_complete = int(board.trials["place"].notna().sum())
    # One more trial changes it little.
    grown = int(math.log(max(1, num_complete), 1.1))
    key = board.study.id, board.study.started, method, grown
    try:
        result = context.background.get(key, lambda: drawing.shares(context.store, board, method), PATIENCE)
    except ImportanceError as error:
        return style.message(str(error))
    if result is None:
        return None
    shares, used = result
    return figures.importance(shares, method, used)


def curves(context: Context, board: Board, chosen: Sequence[Any]) -> go.Figure:
    """Training curves of trials by [number, attempt]."""
    wanted = [tuple(pair) for pair in chosen if isinstance(pair, list)][:MAX_CURVES]
    keys = zip(board.trials["number"], board.trials["attempt"], board.trials["id"], strict=True)
    ids = [int(id_) for number, attempt, id_ in keys if (number, attempt) in wanted]
    return drawing.curves_of(context.store, board, ids)
