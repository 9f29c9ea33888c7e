"""One study: its best results so far, its trials, and the importance of hyperparameters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import dash
import dash_mantine_components as dmc
import pandas as pd
import plotly.graph_objects as go
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from atoll.analysis.formatting import duration
from atoll.dashboard import components, controls, drawing, table, tabs
from atoll.dashboard.board import Board
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.controls import ADDRESS, BESIDE_FIGURE, DRAWING, View
from atoll.dashboard.figures import parallel, style
from atoll.storage import browse
from atoll.storage.liveness import INTERRUPTED, true_state_of
from atoll.storage.models import ChangeRow, StudyRow
from atoll.storage.names import subject
from atoll.storage.store import StoreError


def page(context: Context, /, name: str | None = None, **query: str) -> Any:
    """The page that an address asks for."""
    try:
        return layout(context, context.store.study(name), query)
    except UNREADABLE as error:
        return components.alert("No such study", str(error))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""
    components.show_figures(app, "study-figure", "study-curves")
    components.keep_address(app, "study", ADDRESS)
    _register_live(app, context)
    _register_figure(app, context)
    _register_curves(app, context)
    _register_brush(app, context)
    _register_table(app, context)
    _register_selection(app)
    if context.allow_edit:
        _register_edits(app, context)


def _register_live(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output("study-revision", "data"),
        Output("study-summary", "children"),
        Output("study-problem", "children"),
        Input("study-interval", "n_intervals"),
        Input("study-sort", "data"),  # arrives with the table's rows: slower work begins after them
        State("study-name", "data"),
        State("study-revision", "data"),
        prevent_initial_call=True,
    )
    def _update(_count: int, _sort: list[Any], name: str, revision: str | None) -> Any:
        try:
            board = context.boards.of(name)
        except StoreError:
            return no_update, no_update, components.alert("This study is gone", f"{name} is no longer in the store.")
        except UNREADABLE as error:
            # The table may have received no rows, so the next revision must count as new.
            forgotten = no_update if revision is None else None
            return forgotten, no_update, components.alert("The store cannot be read", str(error))
        try:
            changes = context.store.changes(board.study)
        except UNREADABLE:  # with the next revision
            changes = []
        words = summary(board, time.time(), changes)
        return board.revision if board.revision != revision else no_update, words, None


def _register_figure(app: dash.Dash, context: Context) -> None:
    @app.callback(
        output=(Output(components.drawn("study-figure"), "data"), Output("study-patience", "disabled")),
        inputs={
            "revision": Input("study-revision", "data"),
            "_patience": Input("study-patience", "n_intervals"),
            "options": DRAWING,
            "theme": Input("theme", "data"),
            "_unbrush": Input("study-unbrush", "n_clicks"),
        },
        state={"name": State("study-name", "data"), "brush": State("study-brush", "data")},
    )
    def _draw(
        revision: str | None,
        options: dict[str, Any],
        theme: str,
        name: str,
        brush: dict[str, Any] | None,
        _patience: int,
        _unbrush: int,
    ) -> Any:
        if revision is None:
            raise PreventUpdate
        if dash.ctx.triggered_id == "study-unbrush":
            brush = {}
        try:
            figure = tabs.draw(context, context.board(name), options["tab"], {**options, "brush": brush or {}})
        except UNREADABLE as error:
            figure = style.message(str(error))
        if figure is None:
            waiting = style.message(f"Computing {options['method']}; the figure appears when it is ready.")
            return style.themed(waiting, theme), False
        return style.themed(figure, theme), True

    app.clientside_callback(
        ClientsideFunction("atoll", "showControls"),
        *(Output(control.place, "style") for control in BESIDE_FIGURE),
        Input("study-tab", "value"),
        State("study-tabs", "data"),
    )


def _register_curves(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output(components.drawn("study-curves"), "data"),
        Input("study-chosen", "data"),
        Input("study-revision", "data"),
        Input("theme", "data"),
        State("study-name", "data"),
    )
    def _curves(chosen: list[Any] | None, _revision: str, theme: str, name: str) -> go.Figure | None:
        return style.themed(tabs.curves(context, context.board(name), chosen), theme) if chosen else None


def _register_brush(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output("study-brush", "data"),
        Input("study-figure", "restyleData"),
        Input("study-unbrush", "n_clicks"),
        State("study-brush", "data"),
        State("study-axes", "data"),
        prevent_initial_call=True,
    )
    def _brush(restyled: list[Any] | None, _clear: int, before: dict[str, Any], axes: list[Any] | None) -> Any:
        if dash.ctx.triggered_id == "study-unbrush":
            return {}
        if not restyled or not axes:
            raise PreventUpdate
        return parallel.brush(axes, before or {}, restyled[0])

    app.clientside_callback(
        ClientsideFunction("atoll", "axes"),
        Output("study-axes", "data"),
        Input(components.drawn("study-figure"), "data"),
    )

    @app.callback(Output("study-brushed", "children"), Input("study-brush", "data"), State("study-name", "data"))
    def _describe(brush: dict[str, Any] | None, name: str) -> str:
        if not brush:
            return ""
        metric = context.board(name).study.metric
        return f"The table shows the brushed trials: {parallel.describe(brush, metric)}"


def _register_table(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output("study-grid", "getRowsResponse"),
        Output("study-sort", "data"),
        Input("study-grid", "getRowsRequest"),
        State("study-brush", "data"),
        State("study-name", "data"),
        prevent_initial_call=True,
    )
    def _rows(request: dict[str, Any] | None, brush: dict[str, Any] | None, name: str) -> Any:
        if request is None:
            raise PreventUpdate
        sorting = [{"colId": order["colId"], "sort": order["sort"]} for order in request.get("sortModel") or []]
        try:
            return table.page(context, context.store.study(name), request, brush), sorting
        except UNREADABLE:
            return {"rowData": [], "rowCount": 0}, sorting

    @app.callback(
        Output("study-grid", "columnDefs"),
        Input("study-shown", "value"),
        State("study-name", "data"),
        State("study-sort", "data"),
        prevent_initial_call=True,
    )
    def _columns(shown: list[str], name: str, order: list[dict[str, str]]) -> Any:
        study = context.board(name).study
        return grid_columns(study, held_at_ends(context, study), shown or [], order)


def _register_selection(app: dash.Dash) -> None:
    """Trials that are selected in the table, and the table's other work in the browser."""
    app.clientside_callback(
        ClientsideFunction("atoll", "selected"),
        Output("study-chosen", "data"),
        Input("study-grid", "selectedRows"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("atoll", "exportLink"),
        Output("study-export", "href"),
        Input("study-chosen", "data"),
        State("study-export", "href"),
    )
    app.clientside_callback(
        ClientsideFunction("atoll", "choose"),
        Output("study-marked", "data"),
        Input("study-sort", "data"),  # arrives with every answer to the table
        State("study-marked", "data"),
        State("study-chosen", "data"),
        State("study-grid", "id"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("atoll", "hurry"),
        Output("study-hurried", "data"),
        Input("study-sort", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("atoll", "reload"),
        Output("study-reloaded", "data"),
        Input("study-revision", "data"),
        Input("study-brush", "data"),
        State("study-grid", "id"),
        State("study-reloaded", "data"),
        State("study-grid", "getRowsRequest"),
        prevent_initial_call=True,
    )


def _register_edits(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output("study-edited", "children"),
        Output("study-renamed", "data"),
        Input("study-rename", "n_clicks"),
        Input("study-archive", "n_clicks"),
        State("study-new-name", "value"),
        State("study-name", "data"),
        prevent_initial_call=True,
    )
    def _edit(_rename: int, _archive: int, new: str, name: str) -> Any:
        try:
            study = context.store.study(name)
            if dash.ctx.triggered_id == "study-rename":
                context.store.rename(study, new or "")
                return no_update, context.link("study", name=new)
            context.store.archive(study, not study.archived)
        except UNREADABLE as error:
            return components.alert("Not changed", str(error)), no_update
        return components.alert("Changed", "Restored." if study.archived else "Archived.", "green"), no_update

    app.clientside_callback(
        ClientsideFunction("atoll", "goTo"),
        Output("study-moved", "data"),
        Input("study-renamed", "data"),
        prevent_initial_call=True,
    )


def summary(board: Board, now: float, changes: Sequence[ChangeRow] = ()) -> list[Any]:
    """The study's true state, counts of trials, and changes."""
    study, counts = board.study, board.counts()
    state = true_state_of(study)
    num_ended = sum(counts.get(state, 0) for state in ("complete", "pruned", "failed"))
    budget = f" of {study.num_trials:,}" if study.num_trials is not None else ""
    spent = (study.finished or now) - study.started
    words = [
        f"{num_ended:,}{budget} {'trial' if (study.num_trials or num_ended) == 1 else 'trials'} ended",
        *(f"{n:,} {s}" for s, n in sorted(counts.items())),
    ]
    words += [f"{study.num_refused:,} infeasible, not trained"] if study.num_refused else []
    words += [f"{'took' if study.finished else 'for'} {duration(spent)}"]
    head = dmc.Group([badge(state), dmc.Text(" · ".join(words), size="sm", id="study-counts")], gap="sm")
    return [head, *_why(study, state), *map(_change, changes)]


def _change(row: ChangeRow) -> dmc.Text:
    """A change of the study by `atoll change`."""
    said = "; ".join(one["said"] for one in row.settings)
    outside = f" · {number:,} earlier results outside" if (number := sum(row.outside.values())) else ""
    return dmc.Text(f"From trial {row.first_trial} on: {said}{outside}", size="sm", c="dimmed")


def badge(state: str) -> dmc.Badge:
    """A study's state; a failed one stands out."""
    if state == "failed":
        return dmc.Badge(state, color="red.9", variant="filled")
    colors = {"running": "blue", "complete": "green", "stopped": "yellow", INTERRUPTED: "orange"}
    return dmc.Badge(state, color=colors.get(state, "gray"), variant="dot")


def _why(study: StudyRow, state: str) -> list[dmc.Alert]:
    """Why the study does not run."""
    if state == INTERRUPTED:
        words = (
            f"Its launcher has ended without a word. The search command with --resume continues it; `atoll stop "
            f"{study.name}` ends it."
        )
        return [components.alert("The study was interrupted", words, "orange")]
    color = {"failed": "red", "complete": "green"}.get(state, "yellow")
    return [components.alert("Why the study ended", study.reason, color)] if study.reason else []


def held_at_ends(context: Context, study: StudyRow) -> pd.DataFrame:
    """The hyperparameters of the first and the newest trials, as columns."""
    return pd.DataFrame(browse.sampled_ends(context.store, study.id))


def grid_columns(
    study: StudyRow, held: pd.DataFrame, shown: Sequence[str], order: Sequence[dict[str, str]] = ()
) -> list[dict[str, Any]]:
    """The leaderboard's columns."""
    return table.columns(study, shown, {name: style.is_number(held[name]) for name in shown if name in held}, order)


def layout(context: Context, study: StudyRow, query: dict[str, str]) -> dmc.Stack:
    """The page as its address asks for it, without the board, which takes a while to read if trials are many."""
    held = held_at_ends(context, study)
    view = View(query, list(held.columns), [objective["name"] for objective in study.all_objectives])
    filters, brush = table.checked(components.parsed(query.get("filter")), components.parsed(query.get("brush")))
    order = [entry for entry in components.parsed(query.get("sort"), []) if _is_order(entry)]
    return dmc.Stack(
        [
            *_stores(context, study, brush=brush, sort=order, chosen=components.parsed(query.get("trials"), [])),
            components.interval("study-interval"),
            dcc.Interval(id="study-patience", interval=components.INTERVAL_MILLISECONDS, disabled=True),
            components.heading(
                study.name,
                dcc.Link("Islands", href=context.link("islands", name=study.name)),
                dcc.Link("Export", id="study-export", href=context.link("export", name=study.name)),
                dcc.Link("Projection", href=context.link("projection", name=study.name)),
                below=f"{subject(study.method, study.workload)}: {_aim(study)}",
            ),
            html.Div(id="study-problem", role="alert"),
            html.Div(id="study-summary", style={"minHeight": 22}),
            *([_edits(study.name)] if context.allow_edit else []),
            _tabs(view),
            components.figure(
                "study-figure",
                "Trials",
                *controls.beside_figure(view),
                height=style.HEIGHT,  # the table below must not move when the figure comes
            ),
            dmc.Text(id="study-brushed", size="sm"),
            _leaderboard_heading(view),
            _leaderboard(grid_columns(study, held, view.shown, order), filters),
            components.figure(
                "study-curves",
                "Training curves of the selected trials",
                help=f"Select rows above (Ctrl for several); at most {drawing.MAX_CURVES} trials are drawn.",
                height=0,
            ),
        ],
        gap="sm",
    )


def _stores(context: Context, study: StudyRow, **chosen: Any) -> list[dcc.Store]:
    """What the callbacks keep in the browser; `chosen` is what the address asks for."""
    revision = context.boards.known(study)  # if it is known, figures need not wait for it
    content = {
        "name": study.name,
        "revision": revision,
        "tabs": [control.tabs for control in BESIDE_FIGURE],
        **chosen,
        "reloaded": revision,
        "hurried": None,
        "marked": False,
        "axes": None,
    }
    stores = [dcc.Store(id=f"study-{name}", data=data) for name, data in content.items()]
    # These two get no data: a store that is given None reports a change at once, which would leave the page.
    stores += [dcc.Store(id="study-renamed"), dcc.Store(id="study-moved")]
    return [*stores, *components.address_stores("study", ADDRESS)]


def _tabs(view: View) -> dmc.Tabs:
    return dmc.Tabs(
        [
            dmc.TabsList([dmc.TabsTab(title, value=name) for name, title in view.tabs.items()]),
            # All tabs share one figure; Mantine still wants a panel for each.
            *(dmc.TabsPanel([], value=name) for name in view.tabs),
        ],
        id="study-tab",
        value=view.tab,
    )


def _leaderboard_heading(view: View) -> dmc.Group:
    return dmc.Group(
        [
            dmc.Title("Leaderboard", order=2, size="h4"),
            dmc.MultiSelect(
                id="study-shown",
                data=list(view.hyperparameters),
                value=view.shown,
                searchable=True,
                hidePickedOptions=True,
                size="xs",
                maw=900,
                attributes={"input": {"aria-label": "Hyperparameters to show"}},
                placeholder="hyperparameters",
            ),
        ],
        align="start",
    )


def _leaderboard(columns: list[dict[str, Any]], filters: dict[str, Any]) -> html.Div:
    """The table, which asks the server for the rows that it shows."""
    selection = {"mode": "multiRow", "enableClickSelection": True, "checkboxes": False, "headerCheckbox": False}
    return components.grid(
        "study-grid",
        columns,
        rowModelType="infinite",
        filterModel=filters,
        dashGridOptions={
            "rowSelection": selection,
            "cacheBlockSize": 100,
            "maxConcurrentDatasourceRequests": 1,  # Dash answers only the last of several requests
            "maxBlocksInCache": 20,
            "infiniteInitialRowCount": 1,
            "rowBuffer": 20,
        },
    )


def _edits(name: str) -> dmc.Group:
    return dmc.Group(
        [
            dmc.TextInput(
                id="study-new-name", value=name, size="xs", w=260, attributes={"input": {"aria-label": "New name"}}
            ),
            dmc.Button("Rename", id="study-rename", size="compact-sm", variant="default"),
            dmc.Button("Archive or restore", id="study-archive", size="compact-sm", variant="default"),
            html.Div(id="study-edited", role="status"),
        ]
    )


def _aim(study: StudyRow) -> str:
    return ", ".join(f"{objective['direction']} {objective['name']}" for objective in study.all_objectives)


def _is_order(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("colId"), str) and entry.get("sort") in ("asc", "desc")
