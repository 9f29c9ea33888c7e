"""The list of studies."""

from __future__ import annotations

from typing import Any

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import Input, Output, dcc

from atoll.dashboard import queries
from atoll.storage.store import Store

INTERVAL_MILLISECONDS = 2000

COLUMNS: list[dict[str, Any]] = [
    {"field": "study", "cellRenderer": "markdown", "minWidth": 200},
    {"field": "state"},
    {"field": "trials"},
    {"field": "budget"},
    {"field": "failed"},
    {"field": "metric"},
    {"field": "best", "valueFormatter": {"function": "params.value == null ? '' : d3.format('.4~g')(params.value)"}},
    {"field": "method"},
    {"field": "workload"},
    {"field": "started", "headerName": "started (UTC)", "minWidth": 180},
]


def register(app: dash.Dash, store: Store) -> None:
    """Add the page and its callback to `app`."""
    dash.register_page(__name__, path="/", name="Studies", title="Studies · atoll", layout=layout)

    @app.callback(
        Output("studies-grid", "rowData"), Input("studies-interval", "n_intervals"), Input("studies-grid", "id")
    )
    def _update(_count: int, _grid: str) -> list[dict[str, Any]]:
        return rows(store)


def rows(store: Store) -> list[dict[str, Any]]:
    """The grid's rows, each name a link to the study's page."""
    table = queries.studies(store)
    table["key"] = table["study"]
    table["study"] = [f"[{name}](/study/{name})" for name in table["study"]]
    return queries.records(table)


def layout() -> dmc.Stack:
    """The page."""
    return dmc.Stack(
        [
            dmc.Title("Studies", order=2),
            dag.AgGrid(
                id="studies-grid",
                columnDefs=[{"headerName": column["field"]} | column for column in COLUMNS],
                rowData=[],
                getRowId="params.data.key",
                defaultColDef={"sortable": True, "filter": True, "resizable": True, "flex": 1, "minWidth": 100},
                dashGridOptions={"domLayout": "autoHeight", "animateRows": False},
                style={"height": None},
            ),
            dcc.Interval(id="studies-interval", interval=INTERVAL_MILLISECONDS),
        ]
    )
