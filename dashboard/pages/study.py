"""One study: what it has found so far, its trials, and what moves the objective."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, get_args

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from atoll.analysis import importance
from atoll.analysis.importance import ImportanceError
from atoll.dashboard import components, table
from atoll.dashboard.board import Board
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.figures import parallel, style
from atoll.dashboard.figures import study as figures
from atoll.dashboard.figures import trial as trial_figures
from atoll.storage import browse
from atoll.storage.store import StoreError

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
PATIENCE = 0.3  # seconds for importance before the page says that it goes on
# What the address holds, in the order of the callback that writes it.
STATE = ["tab", "against", "method", "x", "y", "shown", "brush", "filter", "sort", "trials"]


def register(app: dash.Dash, context: Context) -> None:
    """Add the page and its callbacks to `app`."""

    def page(name: str | None = None, **query: str) -> Any:
        try:
            board = context.boards.of(name) if name else context.boards.of(context.store.study().name)
            return layout(context, board, query)
        except UNREADABLE as error:
            return components.alert("No such study", str(error))

    dash.register_page(__name__, path="/study", name="Study", title="Study · atoll", layout=page)
    components.keep_views(app, "study-figure", "study-curves")
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
        State("study-name", "data"),
        State("study-revision", "data"),
    )
    def _update(_count: int, name: str, revision: str | None) -> Any:
        try:
            board = context.boards.of(name)
        except StoreError:
            return no_update, no_update, components.alert("This study is gone", f"{name} is not in the store any more.")
        except UNREADABLE as error:
            return no_update, no_update, components.alert("The store cannot be read", str(error))
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
            figure = draw(context, board, tab, options)
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
    def _curves(chosen: list[Any] | None, _revision: str, theme: str, name: str) -> go.Figure:
        board = context.board(name)
        return style.themed(curves(context, board, chosen or []), theme)

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
            return table.page(context, context.board(name), request, brush), sorting
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
        return grid_columns(context.board(name), shown or [], order)

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
        ClientsideFunction("atoll", "reload"),
        Output("study-reloaded", "data"),
        Input("study-revision", "data"),
        Input("study-brush", "data"),
        State("study-grid", "id"),
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


def draw(context: Context, board: Board, tab: str, options: dict[str, Any]) -> go.Figure | None:
    """The figure of a tab; None while it is worked out."""
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
    """Of two objectives, the chosen ones or the first two."""
    names = [objective["name"] for objective in board.objectives]
    if len(names) < 2:
        return style.message(f"This study has one objective, {names[0]}; a Pareto front takes several.")
    first, second = (x, y) if x in names and y in names and x != y else names[:2]
    return figures.pareto(board.trials, board.objectives, first, second)


def importance_figure(context: Context, board: Board, method: importance.Method) -> go.Figure | None:
    """Importance, kept until a tenth more trials are complete; None while it is worked out in the background."""
    num_complete = int(board.trials["place"].notna().sum())
    # It changes little with one trial more.
    grown = int(math.log(max(1, num_complete), 1.1))

    def work() -> tuple[dict[str, float], int]:
        complete = board.trials[board.trials["place"].notna()]
        some = complete.sample(min(len(complete), importance.MAX_TRIALS), random_state=0)
        held = browse.held(context.store, some["id"].tolist())
        rows = [held.get(int(id_), {}) for id_ in some["id"]]
        shares = importance.importance(rows, some["objective"].tolist(), board.study.direction, method)
        return shares, len(some)

    try:
        found = context.background.get((board.study.id, board.study.started, method, grown), work, PATIENCE)
    except ImportanceError as error:
        return style.message(str(error))
    if found is None:
        return None
    shares, used = found
    return figures.importance(shares, method, used)


def curves(context: Context, board: Board, chosen: Sequence[Any]) -> go.Figure:
    """Training curves of trials by [number, attempt]."""
    wanted = [tuple(pair) for pair in chosen if isinstance(pair, list)][:MAX_CURVES]
    keys = zip(board.trials["number"], board.trials["attempt"], board.trials["id"], strict=True)
    number_of = {int(id_): int(number) for number, attempt, id_ in keys if (number, attempt) in wanted}
    reports = trial_figures.reports_frame(context.store.progress(number_of), number_of)
    return trial_figures.curves(reports, board.study.curve_metric or board.study.metric, board.study.target)


def summary(board: Board, now: float) -> list[Any]:
    """State and counts, as badges."""
    study, counts = board.study, board.counts()
    num_ended = sum(counts.get(state, 0) for state in ("complete", "pruned", "failed"))
    color = {"running": "blue", "complete": "green", "stopped": "yellow", "failed": "red"}.get(study.state, "gray")
    budget = f" of {study.num_trials:,}" if study.num_trials is not None else ""
    spent = (study.finished or now) - study.started
    words = [f"{num_ended:,}{budget} trials ended", *(f"{n:,} {s}" for s, n in sorted(counts.items()))]
    words += [f"{study.num_refused:,} refused before training"] if study.num_refused else []
    words += [f"{'took' if study.finished else 'for'} {components.duration(spent)}"]
    badge = dmc.Badge(study.state, color=color, variant="dot")
    reason = [components.alert("Why it ended", study.reason, "yellow")] if study.reason else []
    return [dmc.Group([badge, dmc.Text(" · ".join(words), size="sm", id="study-counts")], gap="sm"), *reason]


def grid_columns(board: Board, shown: Sequence[str], order: Sequence[dict[str, str]] = ()) -> list[dict[str, Any]]:
    """The leaderboard's columns."""
    held = board.held(board.trials["id"].to_numpy()[-200:])
    return table.columns(board, shown, {name: style.is_number(held[name]) for name in shown if name in held}, order)


def layout(context: Context, board: Board, query: dict[str, str]) -> dmc.Stack:
    """The page, as its address says."""
    study = board.study
    names, objectives = board.names(), [objective["name"] for objective in board.objectives]
    asked = [str(name) for name in components.parsed(query.get("shown"), [])]
    shown = [name for name in asked if name in names] or names[: table.MAX_SHOWN]
    tabs = {key: title for key, title in TABS.items() if key != "pareto" or len(objectives) > 1}
    axes = [{"group": "hyperparameters", "items": names}]
    axes += [{"group": "objectives", "items": [n for n in objectives if n not in names]}] if len(objectives) > 1 else []
    defaults = ([*names, None, None] if len(objectives) < 2 else objectives)[:2]
    filters, brush = table.checked(components.parsed(query.get("filter")), components.parsed(query.get("brush")))
    order = [one for one in components.parsed(query.get("sort"), []) if _is_order(one)]
    tab = query.get("tab", "best")
    against, method = query.get("against"), query.get("method")
    return dmc.Stack(
        [
            *(
                dcc.Store(id=f"study-{name}", data=data)
                for name, data in {
                    "name": study.name,
                    "revision": board.revision,
                    "state": STATE,
                    "address": None,
                    "brush": brush,
                    "sort": order,
                    "chosen": components.parsed(query.get("trials"), []),
                    "reloaded": None,
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
                below=f"{study.method} on {study.workload}: {_aim(board)}",
            ),
            html.Div(id="study-problem", role="alert"),
            html.Div(id="study-summary"),
            *([_edits(study.name)] if context.allow_edit else []),
            dmc.Tabs(
                [
                    dmc.TabsList([dmc.TabsTab(title, value=key) for key, title in tabs.items()]),
                    # One figure serves all; a tab still has to name a panel.
                    *(dmc.TabsPanel([], value=key) for key in tabs),
                ],
                id="study-tab",
                value=tab if tab in tabs else "best",
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
                grid_columns(board, shown, order),
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
                    "maxBlocksInCache": 20,
                    "infiniteInitialRowCount": 1,
                    "rowBuffer": 20,
                },
            ),
            components.figure(
                "study-curves",
                "Training curves of the selected trials",
                help=f"Select rows above, several with Ctrl; at most {MAX_CURVES} are drawn.",
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


def _aim(board: Board) -> str:
    return ", ".join(f"{objective['direction']} {objective['name']}" for objective in board.objectives)


def _is_order(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("colId"), str) and one.get("sort") in ("asc", "desc")
