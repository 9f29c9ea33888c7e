"""The figures of the tabs on a study's page."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from atoll.analysis import importance
from atoll.analysis.importance import ImportanceError
from atoll.dashboard.board import Board
from atoll.dashboard.context import Context
from atoll.dashboard.figures import parallel, style
from atoll.dashboard.figures import study as figures
from atoll.dashboard.figures import trial as trial_figures
from atoll.storage import browse

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
MAX_CURVES = 8
PATIENCE = 0.3  # seconds to wait for importance before the page says that it is being computed


def draw(context: Context, board: Board, tab: str, options: dict[str, Any]) -> go.Figure | None:
    """The figure of a tab; None while it is being computed."""
    study, trials = board.study, board.trials
    if tab == "best":
        return figures.best_so_far(
            trials, study.metric, study.direction, board.target, options["against"], study.started
        )
    if tab == "timeline":
        return figures.timeline(trials, study.started, study.finished or time.time())
    if tab == "failures":
        return figures.failures(browse.reasons(context.store, study.id))
    if tab == "pareto":
        return pareto_figure(board, options["x"], options["y"])
    if tab == "importance":
        return importance_figure(context, board, options["method"])
    sample, hyperparameters = board.sample()
    if tab == "parallel":
        axes = parallel.dimensions(sample, hyperparameters, study.metric)
        return parallel.figure(sample, axes, options["brush"], int(trials["place"].notna().sum()), study.direction)
    if tab == "slices":
        names = [name for name in options["shown"] or () if name in hyperparameters]
        return figures.slices(sample, hyperparameters, names, study.metric)
    x, y = options["x"], options["y"]
    if x not in hyperparameters or y not in hyperparameters:
        return style.message("Choose two hyperparameters.")
    return figures.contour(sample, hyperparameters, x, y, study.metric, study.direction)


def pareto_figure(board: Board, x: str, y: str) -> go.Figure:
    """The front of two objectives: those chosen. Default: the first two."""
    names = [objective["name"] for objective in board.objectives]
    if len(names) < 2:
        return style.message(f"This study has one objective, {names[0]}; a Pareto front needs at least two.")
    first, second = (x, y) if x in names and y in names and x != y else names[:2]
    return figures.pareto(board.trials, board.objectives, first, second)


def importance_figure(context: Context, board: Board, method: importance.Method) -> go.Figure | None:
    """Importance; None while it is being computed. It is kept until a tenth more trials are complete."""
    num_complete = int(board.trials["place"].notna().sum())
    # One more trial changes it little.
    grown = int(math.log(max(1, num_complete), 1.1))

    def work() -> tuple[dict[str, float], int]:
        complete = board.trials[board.trials["place"].notna()]
        some = complete.iloc[importance.sample(len(complete))]
        held = browse.hyperparameters(context.store, some["id"].tolist())
        rows = [held.get(int(id_), {}) for id_ in some["id"]]
        shares = importance.importance(rows, some["objective"].tolist(), board.study.direction, method)
        return shares, len(some)

    try:
        result = context.background.get((board.study.id, board.study.started, method, grown), work, PATIENCE)
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
    number_of = {int(id_): int(number) for number, attempt, id_ in keys if (number, attempt) in wanted}
    reports = trial_figures.reports_frame(context.store.progress(number_of), number_of)
    return trial_figures.curves(reports, board.study.curve_metric or board.study.metric, board.study.target)
