"""Methods side by side: a benchmark's confirmations, or any studies' tuning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from atoll.analysis import training_curves
from atoll.dashboard import components
from atoll.dashboard.components import column
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.figures import comparison as figures
from atoll.dashboard.figures import several, style
from atoll.dashboard.figures import training_curves as drawn_curves
from atoll.dashboard.figures.several import Compared
from atoll.storage.models import BenchmarkRow

CONFIRMED = {
    "quality": "Quality",
    "seconds": "Time to target",
    "passes": "Passes to target",
    "steps": "Steps to target",
    **{f"curves_{axis}": title for axis, title in drawn_curves.TITLES.items()},
    "scores": "Scores",
    "profiles": "Performance profiles",
    "difference": "Critical difference",
    "mean": "Interquartile mean",
    "improvement": "Probability of improvement",
    "wire_bytes": "Against bytes",
    "seconds_in_all": "Against seconds",
    "tuning": "Tuning curves",
    "expected": "Tuning, expected",
}
TUNED = {
    "trials": "Best so far",
    "busy seconds": "By busy seconds",
    "wall seconds": "By wall seconds",
    "objectives": "Objectives",
    "wire_bytes": "Against bytes",
    "seconds": "Against seconds",
}
MAX_STUDIES = 12
UNFAIR = (
    "These are searches, not a benchmark: each study's best value comes from the validation data that selected it, and "
    "budgets may differ. `atoll benchmark` tunes with equal budgets and confirms on test data."
)
ADDRESS = {
    "benchmark": Input("compare-benchmark", "value"),
    "studies": Input("compare-studies", "value"),
    "figure": Input("compare-figures", "value"),
}


def page(
    context: Context, /, benchmark: str | None = None, studies: str = "[]", figure: str | None = None, **_query: str
) -> Any:
    """The page that an address asks for."""
    try:
        return layout(context, benchmark, [str(name) for name in components.parsed(studies, [])], figure)
    except UNREADABLE as error:
        return components.alert("Nothing to compare", str(error))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""
    components.show_figures(app, "compare-figure")

    @app.callback(
        Output(components.drawn("compare-figure"), "data"),
        Output("compare-figures", "data"),
        Output("compare-figures", "value"),
        Output("compare-notes", "children"),
        Output("compare-grid", "columnDefs"),
        Output("compare-grid", "rowData"),
        Output("compare-seen", "data"),
        Output("compare-benchmark", "value"),
        Input("compare-benchmark", "value"),
        Input("compare-studies", "value"),
        Input("compare-figures", "value"),
        Input("theme", "data"),
        Input("compare-interval", "n_intervals"),
        State("compare-seen", "data"),
    )
    def _update(
        benchmark: str | None, studies: list[str] | None, figure: str | None, theme: str, _count: int, seen: Any
    ) -> Any:
        if dash.ctx.triggered_id == "compare-studies" and studies:
            benchmark = None
        try:
            now = [_revision(context, benchmark, studies), benchmark, studies, figure, theme]
            if now == seen:
                raise PreventUpdate
            drawn = (
                of_benchmark(context, benchmark, figure) if benchmark else of_studies(context, studies or [], figure)
            )
        except UNREADABLE as error:
            return (
                *(no_update,) * 3,
                components.alert("Nothing to compare", str(error)),
                *(no_update,) * 2,
                None,
                no_update,
            )
        if drawn is None:
            waiting = style.themed(style.message("Comparing the methods; this takes a few seconds."), theme)
            return waiting, *(no_update,) * 5, None, no_update
        shown, kinds, chosen, notes, columns, rows = drawn
        choices = [{"value": key, "label": title} for key, title in kinds.items()]
        return style.themed(shown, theme), choices, chosen, notes, columns, rows, [*now[:3], chosen, theme], benchmark

    components.keep_address(app, "compare", ADDRESS)


def _revision(context: Context, benchmark: str | None, studies: list[str] | None) -> Any:
    if benchmark:
        return context.stamp(context.store.benchmark(benchmark))
    return [context.boards.of(name).revision for name in (studies or [])[:MAX_STUDIES]]


Drawn = tuple[go.Figure, dict[str, str], str, Any, list[dict[str, Any]], list[dict[str, Any]]]


def of_benchmark(context: Context, name: str, chosen: str | None) -> Drawn | None:
    """A benchmark's figure, choices of figures, chosen figure, notes, and table; None while it is being computed."""
    benchmark = context.store.benchmark(name)
    comparison = _compared(context, benchmark)
    if comparison is None:
        return None
    if isinstance(comparison, str):
        return style.message(comparison), CONFIRMED, chosen or "quality", None, [], []
    by = comparison.scored_by
    kind = chosen if chosen in CONFIRMED else "quality"
    axis = kind.removeprefix("curves_") if kind.startswith("curves_") else None
    trainings = training_curves.read(context.store, benchmark, comparison.confirmations) if axis else []
    drawers: dict[str, Callable[[], go.Figure]] = {
        "quality": lambda: figures.quality(comparison),
        "seconds": lambda: figures.times(comparison, "seconds"),
        "passes": lambda: figures.times(comparison, "passes"),
        "steps": lambda: figures.times(comparison, "steps"),
        **{f"curves_{one}": partial(drawn_curves.curves, comparison, trainings, one) for one in drawn_curves.TITLES},
        "scores": lambda: figures.scores(comparison, by),
        "profiles": lambda: figures.profiles(comparison, by),
        "difference": lambda: figures.critical_difference(comparison.separation, comparison.methods),
        "mean": lambda: figures.intervals(comparison.quality, comparison.methods, "share of the target"),
        "improvement": lambda: figures.improvement(comparison),
        "wire_bytes": lambda: figures.tradeoff(comparison, "wire_bytes"),
        "seconds_in_all": lambda: figures.tradeoff(comparison, "seconds_in_all"),
        "tuning": lambda: figures.tuning(comparison),
        "expected": lambda: figures.expected(comparison),
    }
    possible = comparison.separation is not None and comparison.separation.is_possible
    told = {
        "scores": bool(comparison.scores[by].rows),
        "profiles": bool(comparison.scores[by].rows),
        "difference": possible,
        "mean": bool(comparison.quality),
        "improvement": bool(comparison.quality),
    }
    if told.get(kind, True):
        shown = drawers[kind]().update_layout(uirevision=kind)
    else:
        why = comparison.verdict if kind in ("scores", "profiles") else "Too few workloads or targets to tell."
        shown = style.message(why)
    notes = [dmc.Text(f"{comparison.verdict}.", fw=600)]
    notes += [dmc.Text(note, size="sm") for note in comparison.notes]
    if axis:
        notes.append(dmc.Text(drawn_curves.caption(comparison, trainings, axis), size="sm"))
    from atoll.dashboard import report

    table = report.results(comparison)
    columns = [
        column(title, width=70 + 8 * max(map(len, (title, *cells))), **_right(title in table.numbers))
        for title, *cells in zip(table.columns, *table.rows, strict=True)
    ]
    rows = [{"key": str(n), **dict(zip(table.columns, row, strict=True))} for n, row in enumerate(table.rows)]
    return shown, CONFIRMED, kind, notes, columns, rows


def _right(numeric: bool) -> dict[str, str]:
    return {"type": "rightAligned"} if numeric else {}


def _compared(context: Context, benchmark: BenchmarkRow) -> Any:
    """The comparison, computed in the background once for each set of ended studies."""

    def work() -> Any:
        try:
            from atoll.analysis.comparison import compare

            return compare(context.store, benchmark)
        except ImportError as error:
            return f"A comparison needs the analysis extra, `pip install atoll[analysis]`: {error}"

    return context.background.get(("comparison", context.stamp(benchmark)), work, patience=0.3)


def of_studies(context: Context, names: list[str], chosen: str | None) -> Drawn:
    """The studies' figure, choices of figures, chosen figure, notes, and table."""
    kind = chosen if chosen in TUNED else "trials"
    studies = [_study(context, name) for name in names[:MAX_STUDIES]]
    columns = [
        column("study", minWidth=220),
        column("metric"),
        *(column(name, numeric=True, width=130) for name in ("best", "target")),
        *(
            column(name, f"{name} to target", numeric=True, width=190)
            for name in ("trials", "busy seconds", "wall seconds")
        ),
    ]
    if not studies:
        return style.message("Choose a benchmark or studies."), TUNED, kind, None, columns, []
    if kind == "objectives":
        shown = several.objectives(studies)
    elif kind in ("wire_bytes", "seconds"):
        shown = several.tradeoff(studies, kind)
    else:
        shown = several.best_so_far(studies, kind)  # type: ignore[arg-type]
    notes = [components.alert("Tuning only", UNFAIR, "yellow")]
    aims = {(study.metric, study.direction) for study in studies}
    if len(aims) > 1:
        words = ", ".join(sorted(f"{direction} {metric}" for metric, direction in aims))
        notes.append(components.alert("Different objectives", f"These cannot be compared: {words}.", "red"))
    rows = [{"key": str(row["study"]), **row} for row in several.times_to_target(studies)]
    return shown, TUNED, kind, notes, columns, rows


def _study(context: Context, name: str) -> Compared:
    board = context.boards.of(name)
    study = board.study
    return Compared(study.name, study.metric, study.direction, board.target, study.started, board.trials)


def layout(context: Context, benchmark: str | None, studies: list[str], figure: str | None) -> dmc.Stack:
    """The page."""
    names = [s.study.name for s in context.store.studies() if not s.study.archived or s.study.name in studies]
    benchmarks = [row.name for row in context.store.benchmarks()]
    if benchmark is None and not studies:
        benchmark = benchmarks[0] if benchmarks else None
    kinds = CONFIRMED if benchmark else TUNED
    return dmc.Stack(
        [
            dcc.Store(id="compare-seen"),
            *components.address_stores("compare", ADDRESS),
            components.interval("compare-interval"),
            components.heading("Compare methods"),
            dmc.Group(
                [
                    dmc.Select(
                        id="compare-benchmark",
                        label="Benchmark",
                        data=benchmarks,
                        value=benchmark,
                        clearable=True,
                        w=260,
                        placeholder="none",
                    ),
                    dmc.MultiSelect(
                        id="compare-studies",
                        label="or studies",
                        data=names,
                        value=[name for name in studies if name in names],
                        searchable=True,
                        hidePickedOptions=True,
                        maxValues=MAX_STUDIES,
                        w=640,
                        placeholder="any studies",
                    ),
                ],
                align="start",
            ),
            html.Div(id="compare-notes"),
            components.figure(
                "compare-figure",
                "Comparison",
                components.choice(
                    "compare-figures",
                    "figure",
                    [{"value": key, "label": title} for key, title in kinds.items()],
                    figure if figure in kinds else next(iter(kinds)),
                    width=230,
                ),
            ),
            components.grid("compare-grid", [], None, rowData=[], dashGridOptions={"domLayout": "autoHeight"}),
        ],
        gap="sm",
    )
