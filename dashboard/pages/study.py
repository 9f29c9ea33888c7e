"""One study: its leaderboard, the best so far, and the training curves of chosen trials."""

from __future__ import annotations

from typing import Any

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
import pandas as pd
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html, no_update

from atoll.dashboard import figures, queries
from atoll.storage.models import Study
from atoll.storage.store import Store, StoreError

INTERVAL_MILLISECONDS = 2000
FIRST_COLUMNS = ("place", "trial", "state")
HIDDEN_COLUMNS = ("id", "attempt")


def register(app: dash.Dash, store: Store) -> None:
    """Add the page and its callbacks to `app`."""

    def page(name: str = "", **_query: str) -> Any:
        try:
            return layout(store.study(name))
        except StoreError as error:
            return dmc.Alert(str(error), title="No such study", color="red")

    dash.register_page(__name__, path_template="/study/<name>", title="Study · atoll", layout=page)

    @app.callback(
        Output("study-grid", "rowData"),
        Output("study-grid", "columnDefs"),
        Output("study-best", "figure"),
        Output("study-summary", "children"),
        Output("study-seen", "data"),
        Input("study-interval", "n_intervals"),
        State("study-name", "data"),
        State("study-seen", "data"),
    )
    def _update(_count: int, name: str, seen: str | None) -> Any:
        study = store.study(name)
        trials = queries.trials(store, study)
        now = signature(study, trials, store.newest_steps(study))
        if now == seen:
            return (no_update,) * 5
        board = queries.leaderboard(trials, study)
        best = figures.best_so_far(queries.incumbents(trials, study), study.metric, study.target)
        return rows(board), columns(board, study.metric), best, summary(study, trials), now

    @app.callback(
        Output("study-curves", "figure"),
        Input("study-grid", "selectedRows"),
        Input("study-seen", "data"),
        State("study-name", "data"),
    )
    def _draw(selected: list[dict[str, Any]] | None, _seen: str, name: str) -> go.Figure:
        study = store.study(name)
        numbers = [row["trial"] for row in selected or []]
        curves = queries.curves(store, queries.trials(store, study), numbers)
        return figures.training_curves(curves, study.curve_metric or study.metric)


def signature(study: Study, trials: pd.DataFrame, newest_steps: dict[int, int]) -> str:
    """Changes whenever the page has something new to show."""
    return f"{study.state} {dict(trials['state'].value_counts())} {trials['finished'].max()} {newest_steps}"


def rows(board: pd.DataFrame) -> list[dict[str, Any]]:
    """The grid's rows; `key` tells them apart."""
    return queries.records(board.assign(key=board["id"].astype(str)))


def columns(board: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """The grid's columns: place, trial, state and objective first; numbers to four digits."""
    first = [*FIRST_COLUMNS, metric]
    names = [*first, *(c for c in board.columns if c not in (*first, *HIDDEN_COLUMNS))]
    return [_column(name, pd.api.types.is_float_dtype(board[name])) for name in names]


def _column(name: str, is_float: bool) -> dict[str, Any]:
    column: dict[str, Any] = {"field": name, "headerName": name}
    if is_float and name != "place":
        column["valueFormatter"] = {"function": "params.value == null ? '' : d3.format('.4~g')(params.value)"}
    if is_float:
        column["filter"] = "agNumberColumnFilter"
    return column


def summary(study: Study, trials: pd.DataFrame) -> str:
    """State and counts in one line."""
    counts = trials["state"].value_counts()
    shown = ", ".join(f"{counts[state]} {state}" for state in sorted(counts.index))
    return f"{study.state}: {shown or 'no trials yet'} of {study.num_trials} trials"


def layout(study: Study) -> dmc.Stack:
    """The page of one study."""
    return dmc.Stack(
        [
            dcc.Store(id="study-name", data=study.name),
            dcc.Store(id="study-seen"),
            dcc.Interval(id="study-interval", interval=INTERVAL_MILLISECONDS),
            dmc.Title(study.name, order=2),
            dmc.Text(f"{study.method} on {study.workload}; {study.direction} {study.metric}", c="dimmed"),
            dmc.Text(id="study-summary"),
            dmc.SimpleGrid(
                [
                    _panel("Best so far", dcc.Graph(id="study-best")),
                    _panel("Training curves of the selected trials", dcc.Graph(id="study-curves")),
                ],
                cols={"base": 1, "lg": 2},
            ),
            dmc.Title("Leaderboard", order=3),
            dmc.Text("Select trials to draw their curves.", c="dimmed", size="sm"),
            dag.AgGrid(
                id="study-grid",
                rowData=[],
                columnDefs=[],
                getRowId="params.data.key",
                defaultColDef={"sortable": True, "filter": True, "resizable": True, "minWidth": 90},
                dashGridOptions={
                    "rowSelection": {"mode": "multiRow", "enableClickSelection": True},
                    "animateRows": False,
                    "pagination": True,
                    "paginationPageSize": 50,
                },
                columnSize="autoSize",
                style={"height": "600px"},
            ),
        ]
    )


def _panel(title: str, content: Any) -> html.Div:
    return dmc.Card([dmc.Text(title, fw=600), content], withBorder=True, padding="sm")
