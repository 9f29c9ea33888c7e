"""Components that several pages share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, State, dcc, html

from atoll.storage.browse import MAX_NUMBER

INTERVAL_MILLISECONDS = 1000
NUMBER = {"function": "params.value == null ? '' : d3.format('.4~g')(params.value)"}
BYTES = {"function": "params.value == null ? '' : d3.format('.3~s')(params.value) + 'B'"}


def heading(title: str, *beside: Any, below: str | None = None) -> dmc.Stack:
    """A page's title with links and buttons next to it, and a line below."""
    words = [dmc.Text(below, size="sm", className="dimmed")] if below else []
    return dmc.Stack([dmc.Group([dmc.Title(title, order=1, size="h2", className="title"), *beside]), *words], gap=4)


def figure(name: str, title: str, *controls: Any, help: str | None = None, height: int = 200) -> dmc.Card:
    """A figure, `height` pixels high or more, with its title, controls, and downloads (PNG, SVG, its data as CSV)."""
    return dmc.Card(
        [
            dmc.Group(
                [dmc.Title(title, order=2, size="h5"), dmc.Group([*controls, downloads(name)], gap="xs")],
                justify="space-between",
                mb=4,
            ),
            *([dmc.Text(help, size="xs", className="dimmed")] if help else []),
            html.Div(id=f"{name}-place", style={"minHeight": height}),
            dcc.Store(id=drawn(name)),
        ],
        withBorder=True,
        padding="sm",
        radius="md",
    )


def drawn(name: str) -> str:
    """The store where a callback puts a figure; `show_figures` displays it."""
    return f"{name}-drawn"


def show_figures(app: dash.Dash, *names: str) -> None:
    """Display figures, and keep the reader's zoom and hidden traces when a figure changes.

    A graph is added with its first figure: plotly.js takes long to load, and tables need not wait for it. Plotly's own
    `uirevision` would lose the zoom: Dash writes it into the figure, and Plotly then takes it for ours.
    """
    for name in names:
        app.clientside_callback(
            ClientsideFunction("atoll", "show"),
            Output(f"{name}-place", "children"),
            Input(drawn(name), "data"),
            State(f"{name}-place", "id"),
            prevent_initial_call=True,
        )


def keep_address(app: dash.Dash, page: str, address: Mapping[str, Input]) -> None:
    """Have the browser's address hold what a reader chooses, so that it can be kept and sent.

    Args:
        app: of the page.
        page: its name, with which the ids of its components begin.
        address: the property that holds the value of each key of the query.
    """
    app.clientside_callback(
        ClientsideFunction("atoll", "address"),
        Output(f"{page}-address", "data"),
        *address.values(),
        State(f"{page}-state", "data"),
    )


def address_stores(page: str, address: Mapping[str, Input]) -> list[dcc.Store]:
    """What the layout of a page needs for `keep_address`."""
    return [dcc.Store(id=f"{page}-state", data=list(address)), dcc.Store(id=f"{page}-address")]


def downloads(name: str) -> dmc.ButtonGroup:
    """Buttons that download a figure; `assets/atoll.js` handles them."""
    return dmc.ButtonGroup(
        [
            dmc.Button(
                kind.upper(),
                id={"type": "download", "figure": name, "format": kind},
                size="compact-xs",
                variant="default",
                attributes={"root": {"title": f"Download as {kind.upper()}"}},
            )
            for kind in ("png", "svg", "csv")
        ]
    )


def grid(name: str, columns: Sequence[dict[str, Any]], height: str | None = "600px", **options: Any) -> html.Div:
    """A table; rows carry their `key`."""
    more = options.pop("dashGridOptions", {})
    table = dag.AgGrid(
        id=name,
        columnDefs=list(columns),
        getRowId="params.data.key",
        # Without the guess at a column's type from its first rows, which drops the filters set before they arrive.
        defaultColDef={"sortable": True, "filter": True, "resizable": True, "minWidth": 90, "cellDataType": False},
        dashGridOptions={
            "animateRows": False,
            "suppressFieldDotNotation": True,
            "enableCellTextSelection": True,
            "theme": {"function": "themeQuartz.withPart(colorSchemeVariable)"},
            **more,
        },
        className="",
        style={"height": height, "width": "100%"},
        **options,
    )
    # Reserves the table's place while its program loads; `show` in assets/atoll.js waits for its rows.
    return html.Div(table, className="table", style={"minHeight": height})


def column(field: str, header: str | None = None, **more: Any) -> dict[str, Any]:
    """A column; `numeric=True` for numbers to four digits, with a filter for numbers."""
    definition: dict[str, Any] = {"field": field, "headerName": header or field}
    if more.pop("numeric", False):
        definition |= {"valueFormatter": NUMBER, "filter": "agNumberColumnFilter", "type": "numericColumn"}
    return definition | more


def link_column(field: str, header: str, **more: Any) -> dict[str, Any]:
    """A column of links to the row's `href`."""
    return column(field, header, cellRenderer="AtollLink", **more)


def choice(name: str, label: str, data: Sequence[Any], value: Any, width: int = 180, **more: Any) -> dmc.Select:
    """A selection of one value, labeled for screen readers."""
    labelled = {"input": {"aria-label": label}}
    return dmc.Select(
        id=name, data=list(data), value=value, allowDeselect=False, w=width, size="xs", attributes=labelled, **more
    )


def alert(title: str, words: str, color: str = "red") -> dmc.Alert:
    """A warning or an error."""
    return dmc.Alert(words, title=title, color=color, variant="light", className="alert")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> dmc.Box:
    """A small table; the first cell of a row names it."""
    titles = [dmc.TableThead(dmc.TableTr([dmc.TableTh(title) for title in head]))] if head else []
    body = [
        dmc.TableTr([html.Th(row[0], scope="row", className="name"), *(dmc.TableTd(value) for value in row[1:])])
        for row in rows
    ]
    content = dmc.Table([*titles, dmc.TableTbody(body)], withTableBorder=True, className="pairs", verticalSpacing=5)
    return dmc.Box(content, className="scroll")


def interval(name: str) -> dcc.Interval:
    """The timer of a page that updates itself."""
    return dcc.Interval(id=name, interval=INTERVAL_MILLISECONDS)


def whole(text: object) -> int | None:
    """A whole number from an address or a field, of a size that trials have; None for anything else."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text if 0 <= text <= MAX_NUMBER else None
    if not isinstance(text, str) or not text.isdecimal() or len(text) > len(str(MAX_NUMBER)):
        return None
    return int(text) if int(text) <= MAX_NUMBER else None


def parsed(text: str | None, default: Any = None) -> Any:
    """JSON from an address; the default if it is invalid or of another type. Default: {}."""
    default = {} if default is None else default
    try:
        content = json.loads(text) if text else default
    except (ValueError, TypeError, RecursionError):
        return default
    return content if isinstance(content, type(default)) else default
