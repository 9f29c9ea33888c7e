"""One study: what it has found so far, its trials, and what moves the objective."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, get_args

import dash
import dash_mantine_components as dmc
import pandas as pd
import plotly.graph_objects as go
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from atoll.analysis import importance
from atoll.analysis.formatting import duration
from atoll.dashboard import components, table, tabs
from atoll.dashboard.board import Board, objectives
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.figures import parallel, style
from atoll.dashboard.figures import study as figures
from atoll.storage import browse
from atoll.storage.models import StudyRow
from atoll.storage.store import StoreError

# What the address holds, in the order of the callback that writes it.
STATE = ["tab", "against", "method", "x", "y", "shown", "brush", "filter", "sort", "trials"]


def register(app: dash.Dash, context: Context) -> None:
    """Add the page and its callbacks to `app`."""

    def page(name: str | None = None, **query: str) -> Any:
        try:
            return layout(context, context.store.study(name), query)
        except UNREADABLE as error:
            return components.alert("No such study", str(error))

    dash.register_page(__name__, path="/study", name="Study", title="Study · atoll", layout=page)
    components.show_figures(app, "study-figure", "study-curves")
    _register_live(app, context)
    _register_figure(app, context)
    _register_table(app, context)
    if context.allow_edit:
        _register_edits(app, context)
    app.clientside_callback(
        ClientsideFunction("atoll", "address"),
        Output("study-address", "data"),
        Input("study-tab", "value"),
        Input("study-against", "value"),
        Input("study-method", "value"),
        Input("study-x", "value"),
        Input("study-y", "value"),
        Input("study-shown", "value"),
        Input("study-brush", "data"),
        Input("study-grid", "filterModel"),
        Input("study-sort", "data"),
        Input("study-chosen", "data"),
        State("study-state", "data"),
    )


def _register_live(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output("study-revision", "data"),
        Output("study-summary", "children"),
        Output("study-problem", "children"),
        Input("study-interval", "n_intervals"),
        Input("study-sort", "data"),  # comes with the table's rows: what takes longer begins when they are there
        State("study-name", "data"),
        State("study-revision", "data"),
        prevent_initial_call=True,
    )
    def _update(_count: int, _sort: list[Any], name: str, revision: str | None) -> Any:
        try:
            board = context.boards.of(name)
        except StoreError:
            return no_update, no_update, components.alert("This study is gone", f"{name} is not in the store any more.")
        except UNREADABLE as error:
            # Tables may have been told of no rows: whatever is read next is news.
            forgotten = no_update if revision is None else None
            return forgotten, no_update, components.alert("The store cannot be read", str(error))
        words = summary(board, time.time())
        return board.revision if board.revision != revision else no_update, words, None


def _register_figure(app: dash.Dash, context: Context) -> None:
    @app.callback(
        Output(components.drawn("study-figure"), "data"),
        Output("study-patience", "disabled"),
        Input("study-revision", "data"),
        Input("study-patience", "n_intervals"),
        Input("study-tab", "value"),
        Input("study-against", "value"),
        Input("study-method", "value"),
        Input("study-x", "value"),
        Input("study-y", "value"),
        Input("study-shown", "value"),
        Input("theme", "data"),
        Input("study-unbrush", "n_clicks"),
        State("study-name", "data"),
        State("study-brush", "data"),
    )
    def _draw(
        revision: str | None,
        _patience: int,
        tab: str,
        against: str,
        method: str,
        x: str,
        y: str,
        shown: list[str],
        theme: str,
        _unbrush: int,
        name: str,
        brush: dict[str, Any],
    ) -> Any:
        if revision is None:
            raise PreventUpdate
        if dash.ctx.triggered_id == "study-unbrush":
            brush = {}
        board = context.board(name)
        options = {"against": against, "method": method, "x": x, "y": y, "shown": shown, "brush": brush or {}}
        try:
            figure = tabs.draw(context, board, tab, options)
        except UNREADABLE as error:
            figure = style.message(str(error))
        if figure is None:
            waiting = style.message(f"{method} is being worked out; it appears here by itself.")
            return style.themed(waiting, theme), False
        return style.themed(figure, theme), True

    @app.callback(
        Output(components.drawn("study-curves"), "data"),
        Input("study-chosen", "data"),
        Input("study-revision", "data"),
        Input("theme", "data"),
        State("study-name", "data"),
    )
    def _curves(chosen: list[Any] | None, _revision: str, theme: str, name: str) -> go.Figure | None:
        return style.themed(tabs.curves(context, context.board(name), chosen), theme) if chosen else None

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
        "(figure) => figure?.layout?.meta?.axes ?? null",
        Output("study-axes", "data"),
        Input(components.drawn("study-figure"), "data"),
    )

    @app.callback(Output("study-brushed", "children"), Input("study-brush", "data"), State("study-name", "data"))
    def _describe(brush: dict[str, Any] | None, name: str) -> str:
        if not brush:
            return ""
        metric = context.board(name).study.metric
        return f"The table holds the trials that are brushed: {parallel.describe(brush, metric)}"

    app.clientside_callback(
        """(tab) => {
            const own = {best: 'against', importance: 'method', contour: 'xy', pareto: 'xy', parallel: 'brush'}[tab];
            return ['against', 'method', 'xy', 'brush'].map((which) => ({display: own === which ? 'flex' : 'none'}));
        }""",
        Output("study-against-control", "style"),
        Output("study-method-control", "style"),
        Output("study-xy-control", "style"),
        Output("study-brush-control", "style"),
        Input("study-tab", "value"),
    )


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
        sorting = [{"colId": one["colId"], "sort": one["sort"]} for one in request.get("sortModel") or []]
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

    app.clientside_callback(
        "(rows) => rows ? rows.map((row) => [row.number, row.attempt]) : dash_clientside.no_update",
        Output("study-chosen", "data"),
        Input("study-grid", "selectedRows"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        """(chosen, href) => {
            const address = new URL(href, window.location);
            address.searchParams.delete("trials");
            if (chosen && chosen.length) address.searchParams.set("trials", JSON.stringify(chosen));
            return address.pathname + address.search;
        }""",
        Output("study-export", "href"),
        Input("study-chosen", "data"),
        State("study-export", "href"),
    )
    app.clientside_callback(
        ClientsideFunction("atoll", "choose"),
        Output("study-marked", "data"),
        Input("study-sort", "data"),  # comes with every answer to the table
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
        return components.alert("Changed", "Listed again." if study.archived else "Archived.", "green"), no_update

    app.clientside_callback(
        "(address) => { window.location.assign(address); return address; }",
        Output("study-moved", "data"),
        Input("study-renamed", "data"),
        prevent_initial_call=True,
    )


def summary(board: Board, now: float) -> list[Any]:
    """State and counts, as badges."""
    study, counts = board.study, board.counts()
    num_ended = sum(counts.get(state, 0) for state in ("complete", "pruned", "failed"))
    color = {"running": "blue", "complete": "green", "stopped": "yellow", "failed": "red"}.get(study.state, "gray")
    budget = f" of {study.num_trials:,}" if study.num_trials is not None else ""
    spent = (study.finished or now) - study.started
    words = [f"{num_ended:,}{budget} trials ended", *(f"{n:,} {s}" for s, n in sorted(counts.items()))]
    words += [f"{study.num_refused:,} refused before training"] if study.num_refused else []
    words += [f"{'took' if study.finished else 'for'} {duration(spent)}"]
    badge = dmc.Badge(study.state, color=color, variant="dot")
    reason = [components.alert("Why it ended", study.reason, "yellow")] if study.reason else []
    return [dmc.Group([badge, dmc.Text(" · ".join(words), size="sm", id="study-counts")], gap="sm"), *reason]


def held_at_ends(context: Context, study: StudyRow) -> pd.DataFrame:
    """The hyperparameters as columns, of the first and the newest trials."""
    return pd.DataFrame(browse.held_at_ends(context.store, study.id))


def grid_columns(
    study: StudyRow, held: pd.DataFrame, shown: Sequence[str], order: Sequence[dict[str, str]] = ()
) -> list[dict[str, Any]]:
    """The leaderboard's columns."""
    return table.columns(study, shown, {name: style.is_number(held[name]) for name in shown if name in held}, order)


def layout(context: Context, study: StudyRow, query: dict[str, str]) -> dmc.Stack:
    """The page, as its address says; without the board, which takes a while to read where trials are many."""
    held = held_at_ends(context, study)
    names, aims = list(held.columns), [objective["name"] for objective in objectives(study)]
    asked = [str(name) for name in components.parsed(query.get("shown"), [])]
    shown = [name for name in asked if name in names] or names[: table.MAX_SHOWN]
    titles = {key: title for key, title in tabs.TABS.items() if key != "pareto" or len(aims) > 1}
    axes = [{"group": "hyperparameters", "items": names}]
    axes += [{"group": "objectives", "items": [n for n in aims if n not in names]}] if len(aims) > 1 else []
    defaults = ([*names, None, None] if len(aims) < 2 else aims)[:2]
    filters, brush = table.checked(components.parsed(query.get("filter")), components.parsed(query.get("brush")))
    order = [one for one in components.parsed(query.get("sort"), []) if _is_order(one)]
    revision = context.boards.known(study)  # where it is known, figures need not wait for it
    tab = query.get("tab", "best")
    against, method = query.get("against"), query.get("method")
    return dmc.Stack(
        [
            *(
                dcc.Store(id=f"study-{name}", data=data)
                for name, data in {
                    "name": study.name,
                    "revision": revision,
                    "state": STATE,
                    "address": None,
                    "brush": brush,
                    "sort": order,
                    "chosen": components.parsed(query.get("trials"), []),
                    "reloaded": revision,
                    "hurried": None,
                    "marked": False,
                    "axes": None,
                }.items()
            ),
            dcc.Store(id="study-renamed"),
            dcc.Store(id="study-moved"),
            components.interval("study-interval"),
            dcc.Interval(id="study-patience", interval=components.INTERVAL_MILLISECONDS, disabled=True),
            components.heading(
                study.name,
                dcc.Link("Islands", href=context.link("islands", name=study.name)),
                dcc.Link("Export", id="study-export", href=context.link("export", name=study.name)),
                dcc.Link("Projection", href=context.link("projection", name=study.name)),
                below=f"{study.method} on {study.workload}: {_aim(study)}",
            ),
            html.Div(id="study-problem", role="alert"),
            html.Div(id="study-summary", style={"minHeight": 22}),
            *([_edits(study.name)] if context.allow_edit else []),
            dmc.Tabs(
                [
                    dmc.TabsList([dmc.TabsTab(title, value=key) for key, title in titles.items()]),
                    # One figure serves all; a tab still has to name a panel.
                    *(dmc.TabsPanel([], value=key) for key in titles),
                ],
                id="study-tab",
                value=tab if tab in titles else "best",
            ),
            components.figure(
                "study-figure",
                "Trials",
                _control(
                    "against",
                    components.choice(
                        "study-against", "against", list(figures.AXES), against if against in figures.AXES else "trials"
                    ),
                ),
                _control(
                    "method",
                    components.choice(
                        "study-method",
                        "importance by",
                        get_args(importance.Method),
                        method if method in get_args(importance.Method) else "PED-ANOVA",
                    ),
                ),
                _control(
                    "xy",
                    components.choice("study-x", "horizontal", axes, query.get("x") or defaults[0], searchable=True),
                    components.choice("study-y", "vertical", axes, query.get("y") or defaults[1], searchable=True),
                ),
                _control(
                    "brush", dmc.Button("Clear brushes", id="study-unbrush", size="compact-xs", variant="default")
                ),
                height=style.HEIGHT,  # the table below must not move when the figure comes
            ),
            dmc.Text(id="study-brushed", size="sm"),
            dmc.Group(
                [
                    dmc.Title("Leaderboard", order=2, size="h4"),
                    dmc.MultiSelect(
                        id="study-shown",
                        data=names,
                        value=shown,
                        searchable=True,
                        hidePickedOptions=True,
                        size="xs",
                        maw=900,
                        attributes={"input": {"aria-label": "Hyperparameters to show"}},
                        placeholder="hyperparameters",
                    ),
                ],
                align="start",
            ),
            components.grid(
                "study-grid",
                grid_columns(study, held, shown, order),
                rowModelType="infinite",
                filterModel=filters,
                dashGridOptions={
                    "rowSelection": {
                        "mode": "multiRow",
                        "enableClickSelection": True,
                        "checkboxes": False,
                        "headerCheckbox": False,
                    },
                    "cacheBlockSize": 100,
                    "maxConcurrentDatasourceRequests": 1,  # Dash answers the last of several requests only
                    "maxBlocksInCache": 20,
                    "infiniteInitialRowCount": 1,
                    "rowBuffer": 20,
                },
            ),
            components.figure(
                "study-curves",
                "Training curves of the selected trials",
                help=f"Select rows above, several with Ctrl; at most {tabs.MAX_CURVES} are drawn.",
                height=0,
            ),
        ],
        gap="sm",
    )


def _control(name: str, *content: Any) -> html.Div:
    return html.Div(list(content), id=f"study-{name}-control", className="control")


def _edits(name: str) -> dmc.Group:
    return dmc.Group(
        [
            dmc.TextInput(
                id="study-new-name", value=name, size="xs", w=260, attributes={"input": {"aria-label": "New name"}}
            ),
            dmc.Button("Rename", id="study-rename", size="compact-sm", variant="default"),
            dmc.Button("Archive or list again", id="study-archive", size="compact-sm", variant="default"),
            html.Div(id="study-edited", role="status"),
        ]
    )


def _aim(study: StudyRow) -> str:
    return ", ".join(f"{objective['direction']} {objective['name']}" for objective in objectives(study))


def _is_order(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("colId"), str) and one.get("sort") in ("asc", "desc")
