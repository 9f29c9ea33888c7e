"""All studies and benchmarks: their progress and best results."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import dash
import dash_mantine_components as dmc
import pandas as pd
from dash import Input, Output, State, dcc, no_update

from atoll.analysis.formatting import duration
from atoll.dashboard import components
from atoll.dashboard.components import column, link_column
from atoll.dashboard.context import UNREADABLE, Context
from atoll.storage.models import BenchmarkRow, StudyRow
from atoll.storage.store import StudySummary

COLUMNS = [
    link_column("study", "study", minWidth=280, flex=2),
    column("state", width=125, cellRenderer="AtollState"),
    column("progress", "ended", width=115, filter=False, comparator={"function": "atollProgress"}),
    column("best", numeric=True, width=105),
    column("metric", width=125),
    column("running", "busy", numeric=True, width=75, filter=False, headerTooltip="Workers that are training a trial"),
    column("failed", numeric=True, width=80, filter=False),
    column("left", "time left", width=105, filter=False),
    column("method", width=120),
    column("workload", width=140),
    column("benchmark", width=140),
    column("started", "started (UTC)", width=185, sort="desc"),
]
BENCHMARK_COLUMNS = [
    link_column("benchmark", "benchmark", minWidth=180, flex=2),
    column("progress", "studies ended", width=160),
    column("methods", minWidth=200, flex=2),
    column("workloads", minWidth=200, flex=2),
    column("started", "started (UTC)", width=185),
]
ADDRESS = {
    "search": Input("studies-search", "value"),
    "archived": Input("studies-archived", "checked"),
    "filter": Input("studies-grid", "filterModel"),
}


def page(_context: Context, /, search: str = "", archived: str = "", filter: str = "", **_query: str) -> Any:
    """The page that an address asks for."""
    return layout(search, archived == "true", components.parsed(filter))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""

    @app.callback(
        Output("studies-grid", "rowData"),
        Output("studies-benchmarks", "rowData"),
        Output("studies-summary", "children"),
        Output("studies-seen", "data"),
        Input("studies-interval", "n_intervals"),
        Input("studies-archived", "checked"),
        State("studies-seen", "data"),
    )
    def _update(_count: int, archived: bool, seen: str | None) -> Any:
        try:
            summaries, benchmarks = context.studies(), context.store.benchmarks()
        except UNREADABLE as error:
            return no_update, no_update, f"The store cannot be read: {error}", None
        shown = rows(context, summaries, benchmarks, archived)
        of_benchmarks = benchmark_rows(context, summaries, benchmarks)
        words = summary(summaries, archived)
        now = hashlib.sha256(repr((shown, of_benchmarks, words)).encode()).hexdigest()
        if seen == now:
            return (no_update,) * 4
        return shown, of_benchmarks, words, now

    app.clientside_callback(
        dash.ClientsideFunction("atoll", "search"),
        Output("studies-grid", "dashGridOptions"),
        Input("studies-search", "value"),
        State("studies-grid", "dashGridOptions"),
    )
    components.keep_address(app, "studies", ADDRESS)


def layout(search: str = "", archived: bool = False, filters: dict[str, Any] | None = None) -> dmc.Stack:
    """The page; filters of unknown columns are dropped."""
    filtered = {entry["field"] for entry in COLUMNS if entry.get("filter", True)}
    kept = {name: model for name, model in (filters or {}).items() if name in filtered and isinstance(model, dict)}
    return dmc.Stack(
        [
            components.heading("Studies"),
            dmc.Group(
                [
                    dmc.TextInput(
                        id="studies-search",
                        value=search,
                        placeholder="Search names, methods, workloads, …",
                        w=360,
                        attributes={"input": {"aria-label": "Search studies"}},
                    ),
                    dmc.Switch(id="studies-archived", label="Show archived studies", checked=archived),
                    dmc.Text(id="studies-summary", size="sm"),
                ]
            ),
            components.grid(
                "studies-grid",
                COLUMNS,
                None,
                rowData=[],
                filterModel=kept,
                dashGridOptions={"domLayout": "autoHeight", "pagination": True, "paginationPageSize": 20},
            ),
            dmc.Title("Benchmarks", order=2, size="h4"),
            components.grid(
                "studies-benchmarks", BENCHMARK_COLUMNS, None, rowData=[], dashGridOptions={"domLayout": "autoHeight"}
            ),
            dcc.Store(id="studies-seen"),
            *components.address_stores("studies", ADDRESS),
            components.interval("studies-interval"),
        ]
    )


def rows(
    context: Context, summaries: list[StudySummary], benchmarks: list[BenchmarkRow], archived: bool
) -> list[dict[str, Any]]:
    """The table of studies."""
    names = {benchmark.id: benchmark.name for benchmark in benchmarks}
    return [
        {
            "key": str(s.study.id),
            "href": context.link("study", name=s.study.name),
            "study": s.study.name,
            "state": f"{s.study.state}{', archived' if s.study.archived else ''}",
            "progress": progress(s.num_ended, s.study.num_trials),
            "best": s.best if s.best is not None and math.isfinite(s.best) else None,
            "metric": s.study.metric,
            "running": s.counts.get("running", 0) if s.study.state == "running" else 0,
            "failed": s.counts.get("failed", 0),
            "left": time_left(s.study, s.num_ended, time.time()),
            "method": s.study.method,
            "workload": s.study.workload,
            "benchmark": names.get(s.study.benchmark_id or 0, ""),
            "started": moment(s.study.started),
        }
        for s in summaries
        if archived or not s.study.archived
    ]


def benchmark_rows(
    context: Context, summaries: list[StudySummary], benchmarks: list[BenchmarkRow]
) -> list[dict[str, Any]]:
    """The table of benchmarks."""
    ended = pd.Series(
        [s.study.benchmark_id for s in summaries if s.study.benchmark_id and s.study.state == "complete"], dtype=float
    ).value_counts()
    return [
        {
            "key": str(b.id),
            "href": context.link("compare", benchmark=b.name),
            "benchmark": b.name,
            "progress": progress(int(ended.get(b.id, 0)), b.num_studies),
            "methods": ", ".join(entry["name"] for entry in b.definition.get("methods", ())),
            "workloads": ", ".join(entry["name"] for entry in b.definition.get("workloads", ())),
            "started": moment(b.started),
        }
        for b in benchmarks
    ]


def summary(summaries: list[StudySummary], archived: bool) -> str:
    """The number of studies, in words."""
    if not summaries:
        return "This store has no studies yet: start one with `atoll quickstart`."
    running = sum(s.study.state == "running" for s in summaries)
    hidden = 0 if archived else sum(s.study.archived for s in summaries)
    words = f"{len(summaries)} {'study' if len(summaries) == 1 else 'studies'}, {running} running"
    return f"{words}, {hidden} archived" if hidden else words


def progress(num_ended: int, budget: int | None) -> str:
    """The number of ended trials, of those budgeted if that is known."""
    return f"{num_ended:,}" if budget is None else f"{num_ended:,} of {budget:,}"


def time_left(study: StudyRow, num_ended: int, now: float) -> str:
    """How long a running study has left: at its pace so far, or until its time budget ends."""
    if study.state != "running":
        return ""
    if (seconds := study.definition.get("seconds")) is not None:
        return f"≤ {duration(max(0.0, study.started + seconds - now))}"
    if study.num_trials is None or not num_ended:
        return "unknown"
    return f"≈ {duration((now - study.started) / num_ended * max(0, study.num_trials - num_ended))}"


def moment(seconds: float) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
