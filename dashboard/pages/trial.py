"""One trial: curves, traffic, hyperparameters next to others', and the command to train it again."""

from __future__ import annotations

import reprlib
import shlex
from collections.abc import Mapping
from typing import Any

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from atoll.analysis.formatting import MISSING_ON_PAGES, origin, size
from atoll.dashboard import components, drawing, table
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.figures import style
from atoll.dashboard.figures import trial as figures
from atoll.dashboard.pages.studies import moment
from atoll.storage import browse
from atoll.storage.export import as_yaml
from atoll.storage.liveness import true_state_of, true_trial_state
from atoll.storage.models import HostRow, StudyRow, TrialRow
from atoll.storage.names import subject
from atoll.storage.store import StoreError


def page(
    context: Context, /, study: str | None = None, number: str = "0", attempt: str | None = None, **_query: str
) -> Any:
    """The page that an address asks for."""
    try:
        row = context.store.study(study)
        return layout(context, row, read(context, row, number, attempt))
    except UNREADABLE as error:
        return components.alert("No such trial", str(error))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""
    components.show_figures(app, "trial-curves", "trial-ledger")

    @app.callback(
        Output(components.drawn("trial-curves"), "data"),
        Output(components.drawn("trial-ledger"), "data"),
        Output("trial-facts", "children"),
        Output("trial-seen", "data"),
        Input("trial-interval", "n_intervals"),
        Input("theme", "data"),
        State("trial-id", "data"),
        State("trial-seen", "data"),
    )
    def _update(_count: int, theme: str, which: dict[str, Any], seen: list[Any] | None) -> Any:
        try:
            study, trial = again(context, which)
            newest = browse.newest_progress(context.store, [trial.id]).get(trial.id)
        except UNREADABLE as error:
            return no_update, no_update, components.alert("This trial cannot be read", str(error)), None
        now = [_state(study, trial), trial.note, newest, theme]
        if now == seen:
            raise PreventUpdate
        drawn = (style.themed(figure, theme) for figure in draw(context, study, trial))
        return *drawn, facts(context, study, trial), now

    @app.callback(
        Output("trial-download", "data"),
        Input("trial-save", "n_clicks"),
        State("trial-id", "data"),
        prevent_initial_call=True,
    )
    def _download(_clicks: int, which: dict[str, Any]) -> Any:
        try:
            study, trial = again(context, which)
        except UNREADABLE:
            raise PreventUpdate from None
        return {
            "content": as_yaml(study, [trial], context.store.provenances(study), alone=True),
            "filename": filename(study, trial),
            "type": "text/yaml",
        }

    if context.allow_edit:

        @app.callback(
            Output("trial-noted", "children"),
            Input("trial-keep", "n_clicks"),
            State("trial-note", "value"),
            State("trial-id", "data"),
            prevent_initial_call=True,
        )
        def _annotate(_clicks: int, note: str | None, which: dict[str, Any]) -> Any:
            try:
                _, trial = again(context, which)
                context.store.annotate(trial, (note or "").strip())
            except UNREADABLE as error:
                return f"not saved: {error}"
            return "saved"


def read(context: Context, study: StudyRow, number: str, attempt: str | None) -> TrialRow:
    """The trial in an address. Raises StoreError if it does not exist."""
    which, retry = components.whole(number), None if attempt is None else components.whole(attempt)
    if which is None or (attempt is not None and retry is None):
        raise StoreError(f"a trial is a number such as 12; got {reprlib.repr(number if which is None else attempt)}")
    return browse.trial(context.store, study.id, which, retry)


def again(context: Context, which: dict[str, Any]) -> tuple[StudyRow, TrialRow]:
    """The page's study and trial, read again. Raises StoreError if they are gone."""
    study = context.store.study(which["study"])
    return study, browse.trial(context.store, study.id, which["number"], which["attempt"])


def draw(context: Context, study: StudyRow, trial: TrialRow) -> tuple[go.Figure, go.Figure]:
    """Curves and ledger."""
    rows = context.store.progress([trial.id])
    metric = study.curve_metric or study.metric
    if rows:
        curves = figures.curves(figures.reports_frame(rows, {trial.id: trial.number}), metric, study.target)
    else:
        curves = style.message("This trial has not reported anything yet.")
    return curves, drawing.ledger_of(context.store, trial)


def _state(study: StudyRow, trial: TrialRow) -> str:
    return true_trial_state(trial.state, true_state_of(study))


def facts(context: Context, study: StudyRow, trial: TrialRow) -> list[Any]:
    """State, measurements, hosts, and the traceback of a failure."""
    proposal = trial.proposal or {}
    bred = origin(proposal)
    measured = [
        ("state", _state(study, trial) + (", on oversubscribed cores or a shared GPU" if trial.oversubscribed else "")),
        *((o["name"], table.shown(v)) for o, v in zip(study.objectives or (), trial.objectives or (), strict=False)),
        *([(study.metric, _value(trial.objective))] if not study.objectives else []),
        *((name.replace("_", " "), _value(value)) for name, value in (trial.metrics or {}).items()),
        ("seconds", _value(trial.seconds)),
        ("sent by all ranks", size(trial.wire_bytes, MISSING_ON_PAGES)),
        ("peak memory", size(trial.peak_memory, MISSING_ON_PAGES)),
        ("started (UTC)", moment(trial.started)),
        ("seed", str(trial.seed)),
        ("bred by", bred),
        *([("provenance", f"version {trial.provenance}")] if trial.provenance is not None else []),
        *([("reason", trial.reason)] if trial.reason else []),
        *([("note", trial.note)] if trial.note else []),
        *([("notes of the run", "\n".join(map(str, trial.notes)))] if trial.notes else []),
    ]
    parts: list[Any] = [components.table([], measured)]
    if trial.traceback:
        parts += [
            dmc.Title("Traceback", order=2, size="h5", mt="md"),
            dmc.Code(trial.traceback, block=True, className="traceback"),
        ]
    # A resumed study has several hosts per rank; the trial ran on one recorded before it started.
    own = (trial.island, trial.worker)
    hosts = [h for h in context.store.hosts(study) if (h.island, h.worker) == own and h.time <= trial.started]
    if hosts:
        parts += [dmc.Title("Hosts and devices", order=2, size="h5", mt="md"), _hosts(hosts)]
    return parts


def _hosts(hosts: list[HostRow]) -> dmc.Box:
    newest = {host.rank: host for host in hosts}
    rows = [
        [str(r), h.hostname, h.device, h.node, h.processor or MISSING_ON_PAGES, h.threads]
        for r, h in sorted(newest.items())
    ]
    return components.table(["rank", "host", "device", "node", "processor", "threads"], rows)


def hyperparameters(context: Context, study: StudyRow, trial: TrialRow) -> dmc.Box:
    """Hyperparameters next to those of the default configuration and the incumbent, if known; differences are bold."""
    board = context.boards.of(study.name)
    best = board.trials[board.trials["place"] == 1]
    first = board.trials[board.trials["number"] == 0]
    ids = [int(id_) for some in (best, first) for id_ in some["id"]]
    others = {row.id: row for row in browse.trials(context.store, ids)}
    incumbent = others.get(int(best["id"].iloc[0])) if len(best) else None
    starts = [row for row in others.values() if (row.proposal or {}).get("operator") == "default"]
    compared: dict[str, Mapping[str, Any]] = {f"trial {trial.number}": trial.hyperparameters}
    if starts:
        compared["default"] = starts[0].hyperparameters
    if incumbent is not None:
        compared[f"incumbent (trial {incumbent.number})"] = incumbent.hyperparameters
    sources = (trial.proposal or {}).get("sources", {})
    rows = []
    for name, own in trial.hyperparameters.items():
        cells: list[Any] = [name, table.shown(own)]
        for values in list(compared.values())[1:]:
            value = table.shown(values[name]) if name in values else MISSING_ON_PAGES
            cells.append(value if name in values and values[name] == own else html.Strong(value))
        cells.append(source_name(sources.get(name)))
        rows.append(cells)
    return components.table(["hyperparameter", *compared, "gene from"], rows)


def source_name(source: object) -> str:
    """The source of a gene, in words."""
    return f"trial {source}" if isinstance(source, int) else str(source or "").replace("_", " ")


def filename(study: StudyRow, trial: TrialRow) -> str:
    """The name of the downloaded configuration."""
    safe = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in study.name)
    return f"{safe}-trial-{trial.number}.yaml"


def command(context: Context, study: StudyRow, trial: TrialRow) -> str:
    """The command that exports this trial and trains it again."""
    file = filename(study, trial)
    which = f"--trial {trial.number}" + (f" --attempt {trial.attempt}" if trial.attempt else "")
    names_code = any(":" in str(trial.configuration.get(part)) for part in ("workload", "method"))
    train = f"atoll train {file}{' --outside' if names_code else ''}"
    return f"atoll export {shlex.quote(study.name)} {which} -o {file}{context.store_option} && {train}"


def layout(context: Context, study: StudyRow, trial: TrialRow) -> dmc.Stack:
    """The page."""
    which = {"study": study.name, "number": trial.number, "attempt": trial.attempt}
    note = dmc.Group(
        [
            dmc.TextInput(
                id="trial-note",
                value=trial.note or "",
                placeholder="A note on this trial",
                w=420,
                attributes={"input": {"aria-label": "Note"}},
            ),
            dmc.Button("Save note", id="trial-keep", size="compact-sm", variant="default"),
            html.Span(id="trial-noted", role="status"),
        ]
    )
    attempt = f", attempt {trial.attempt}" if trial.attempt else ""
    return dmc.Stack(
        [
            dcc.Store(id="trial-id", data=which),
            dcc.Store(id="trial-seen"),
            dcc.Download(id="trial-download"),
            components.interval("trial-interval"),
            components.heading(
                f"Trial {trial.number}{attempt}",
                dcc.Link(study.name, href=context.link("study", name=study.name)),
                dcc.Link("Family tree", href=context.link("islands", name=study.name, trial=trial.number)),
                dmc.Button("Download configuration", id="trial-save", size="compact-sm", variant="default"),
                dmc.CopyButton(
                    value=command(context, study, trial),
                    children="Copy command",
                    copiedChildren="Copied",
                    size="compact-sm",
                    variant="default",
                    id="trial-copy",
                ),
                below=f"{subject(trial.configuration.get('method', study.method), study.workload)}, "
                f"island {trial.island}, worker {trial.worker}",
            ),
            dmc.Code(command(context, study, trial), block=True),
            *([note] if context.allow_edit else []),
            components.figure("trial-curves", "Curves"),
            dmc.SimpleGrid(
                [
                    dmc.Stack(
                        [
                            dmc.Title("Hyperparameters", order=2, size="h5"),
                            hyperparameters(context, study, trial),
                            components.figure("trial-ledger", "Communication per rank"),
                        ]
                    ),
                    html.Div(id="trial-facts"),
                ],
                cols={"base": 1, "lg": 2},
            ),
        ],
        gap="sm",
    )


def _value(value: Any) -> str:
    return MISSING_ON_PAGES if value is None else table.shown(value)
