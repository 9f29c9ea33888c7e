"""The islands: populations, migrations, diversity, and the family tree of an individual."""

from __future__ import annotations

from typing import Any

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from atoll.dashboard import components, drawing, table
from atoll.dashboard.board import Board
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.drawing import MAX_RELATIVES
from atoll.dashboard.figures import islands as figures
from atoll.dashboard.figures import style
from atoll.dashboard.pages.trial import source_name
from atoll.storage import browse
from atoll.storage.models import TrialRow

ADDRESS = {"trial": Input("islands-trial", "value")}


def page(context: Context, /, name: str | None = None, trial: str | None = None, **_query: str) -> Any:
    """The page that an address asks for."""
    try:
        board = context.boards.of(name or context.store.study().name)
        return layout(context, board, components.whole(trial))
    except UNREADABLE as error:
        return components.alert("No such study", str(error))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""

    components.show_figures(app, "islands-populations", "islands-migrations", "islands-diversity", "islands-tree")

    @app.callback(
        Output(components.drawn("islands-populations"), "data"),
        Output(components.drawn("islands-migrations"), "data"),
        Output(components.drawn("islands-diversity"), "data"),
        Output("islands-problem", "children"),
        Output("islands-seen", "data"),
        Input("islands-interval", "n_intervals"),
        Input("theme", "data"),
        State("islands-name", "data"),
        State("islands-seen", "data"),
    )
    def _update(_count: int, theme: str, name: str, seen: list[Any] | None) -> Any:
        try:
            board = context.boards.of(name)
        except UNREADABLE as error:
            return no_update, no_update, no_update, components.alert("This study cannot be read", str(error)), None
        # Reports of running trials do not change this page.
        moved = browse.num_migrations(context.store, board.study.id)
        now = [len(board.trials), int(board.trials["finished"].notna().sum()), moved, theme]
        if now == seen:
            raise PreventUpdate
        return *(style.themed(figure, theme) for figure in draw(context, board)), None, now

    @app.callback(
        Output(components.drawn("islands-tree"), "data"),
        Output("islands-genes", "children"),
        Input("islands-trial", "value"),
        Input("theme", "data"),
        State("islands-name", "data"),
    )
    def _tree(typed: int | str | None, theme: str, name: str) -> Any:
        board = context.board(name)
        number = components.whole(typed)
        if number is None:
            return style.themed(style.message("Choose a trial by its number."), theme), None
        family = browse.ancestry(context.store, board.study.id, number, MAX_RELATIVES)
        figure = figures.family_tree(drawing.relatives(family), number, board.study.metric)
        return style.themed(figure, theme), genes(context, board, family.get(number), len(family))

    @app.callback(Output("islands-trial", "value"), Input("islands-tree", "clickData"), prevent_initial_call=True)
    def _choose(clicked: dict[str, Any] | None) -> Any:
        points = (clicked or {}).get("points") or []
        if not points or "customdata" not in points[0]:
            raise PreventUpdate
        return points[0]["customdata"][0]

    components.keep_address(app, "islands", ADDRESS)


def draw(context: Context, board: Board) -> tuple[go.Figure, go.Figure, go.Figure]:
    """Populations, migrations and diversity."""
    store = context.store
    return drawing.populations(store, board), drawing.migrations(store, board), drawing.diversity(store, board)


def genes(context: Context, board: Board, trial: TrialRow | None, num_shown: int) -> Any:
    """An individual's operator, and the source of each of its genes."""
    if trial is None:
        return None
    proposal = trial.proposal or {}
    sources = proposal.get("sources", {})
    shares = ", ".join(f"{count} from {source}" for source, count in figures.gene_sources(sources).most_common())
    words = (
        f"Trial {trial.number} was bred on island {trial.island} by {proposal.get('operator', 'an unknown operator')}"
    )
    words += f": {shares}." if shares else "."
    if num_shown >= MAX_RELATIVES:
        words += f" Only its {num_shown} nearest ancestors are drawn."
    rows = [
        [name, table.shown(value), _source(context, board, sources.get(name))]
        for name, value in trial.hyperparameters.items()
    ]
    number = dcc.Link(f"Trial {trial.number}", href=context.link("trial", study=board.study.name, number=trial.number))
    return dmc.Stack(
        [dmc.Text([words, " ", number], size="sm"), components.table(["gene", "value", "came from"], rows)]
    )


def _source(context: Context, board: Board, source: object) -> Any:
    if isinstance(source, int):
        return dcc.Link(f"trial {source}", href=context.link("islands", name=board.study.name, trial=source))
    return source_name(source)


def layout(context: Context, board: Board, number: int | None) -> dmc.Stack:
    """The page."""
    study = board.study
    best = board.trials.loc[board.trials["place"] == 1, "number"]
    first = number if number is not None else int(best.iloc[0]) if len(best) else 0
    num_islands = board.trials["island"].nunique()
    return dmc.Stack(
        [
            dcc.Store(id="islands-name", data=study.name),
            dcc.Store(id="islands-seen"),
            *components.address_stores("islands", ADDRESS),
            components.interval("islands-interval"),
            components.heading(
                "Islands",
                dcc.Link(study.name, href=context.link("study", name=study.name)),
                below=f"{num_islands} island{'' if num_islands == 1 else 's'}, {len(board.trials):,} individuals",
            ),
            html.Div(id="islands-problem", role="alert"),
            components.figure(
                "islands-populations",
                "Populations",
                help=f"Thick: an island's best individual so far. Thin: the median of its {figures.WINDOW} newest.",
            ),
            dmc.SimpleGrid(
                [
                    components.figure(
                        "islands-migrations", "Migrations", help="The number of individuals sent from island to island."
                    ),
                    components.figure(
                        "islands-diversity",
                        "Diversity",
                        help="Gower's distance, averaged over pairs of individuals: 0 if all are equal, at most 1.",
                    ),
                ],
                cols={"base": 1, "lg": 2},
            ),
            components.figure(
                "islands-tree",
                "Family tree",
                dmc.NumberInput(
                    id="islands-trial",
                    value=first,
                    min=0,
                    allowDecimal=False,
                    size="xs",
                    w=110,
                    debounce=300,
                    attributes={"input": {"aria-label": "Trial"}},
                ),
                help="An individual (star) and its ancestors, the founders on top; click one to see its ancestors.",
            ),
            html.Div(id="islands-genes"),
        ],
        gap="sm",
    )
