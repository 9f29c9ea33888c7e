"""The best configurations of a study as YAML, to read, copy or download."""

from __future__ import annotations

import reprlib
import shlex
from collections.abc import Sequence
from typing import Any

import dash
import dash_mantine_components as dmc
from dash import Input, Output, State, dcc, html

from atoll.dashboard import components
from atoll.dashboard.context import UNREADABLE, Context
from atoll.storage import browse
from atoll.storage.export import as_yaml, check_trained_here
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import StoreError

MAX_BEST = 100
MAX_SHOWN = 200
ADDRESS = {
    "name": Input("export-name", "value"),
    "best": Input("export-best", "value"),
    "pareto": Input("export-pareto", "checked"),
    "trials": Input("export-trials", "value"),
}


def page(
    context: Context, /, name: str | None = None, best: str = "1", pareto: str = "", trials: str = "[]", **_query: str
) -> Any:
    """The page that an address asks for."""
    try:
        chosen = [_spelled(trial) for trial in components.parsed(trials, [])]
        return layout(context, name, components.whole(best) or 1, pareto == "true", chosen)
    except UNREADABLE as error:
        return components.alert("Nothing to export", str(error))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""

    @app.callback(
        Output("export-yaml", "children"),
        Output("export-copy", "value"),
        Output("export-problem", "children"),
        Output("export-command", "children"),
        Output("export-pareto", "disabled"),
        *ADDRESS.values(),
    )
    def _show(name: str | None, best: int | str | None, pareto: bool, trials: list[str] | None) -> Any:
        try:
            study = context.store.study(name)
            number = None if pareto and study.objectives else _number(best)
            if trials:
                chosen = [_trial(context, study, trial) for trial in trials[:MAX_SHOWN]]
                text = as_yaml(study, chosen, context.store.provenances(study))
                return text, text, shortened(len(trials), "select fewer"), "", not study.objectives
            ids = context.boards.of(study.name).best(number)
            text = content(context, study, ids, alone=number == 1)
        except UNREADABLE as error:
            return "", "", components.alert("Nothing to export", str(error)), "", True
        problem = shortened(len(ids), "`atoll export` writes all of them")
        return text, text, problem, command(context, study, number), not study.objectives

    @app.callback(
        Output("export-download", "data"),
        Input("export-save", "n_clicks"),
        State("export-yaml", "children"),
        prevent_initial_call=True,
    )
    def _save(_clicks: int, text: str) -> Any:
        return {"content": text, "filename": "best.yaml", "type": "text/yaml"}

    components.keep_address(app, "export", ADDRESS)


def _number(best: int | str | None) -> int:
    number = components.whole(best)
    if number is None or not 1 <= number <= MAX_BEST:
        raise StoreError(f"choose 1 to {MAX_BEST} of the best trials; got {reprlib.repr(best)}")
    return number


def content(context: Context, study: StudyRow, ids: Sequence[int], alone: bool) -> str:
    """At most `MAX_SHOWN` trials' configurations, as `atoll export` writes them. Raises StoreError for no trials."""
    check_trained_here(study)
    if not ids:
        raise StoreError(f"{study.name} has no complete trial to export")
    trials = browse.trials(context.store, ids[:MAX_SHOWN])
    return as_yaml(study, trials, context.store.provenances(study), alone=alone)


def shortened(num: int, advice: str) -> dmc.Alert | None:
    """A note on more configurations than the page shows, with advice; None if it shows all."""
    if num <= MAX_SHOWN:
        return None
    return components.alert("Shortened", f"The first {MAX_SHOWN} of {num:,}; {advice}.", "yellow")


def _spelled(entry: Any) -> str:
    """A trial in an address, [number, attempt], as the field shows it."""
    number, attempt = entry if isinstance(entry, list) and len(entry) == 2 else (entry, 0)
    return f"{number}.{attempt}" if attempt else str(number)


def _trial(context: Context, study: StudyRow, text: str) -> TrialRow:
    before, _, after = text.partition(".")
    number, attempt = components.whole(before), components.whole(after) if after else None
    if number is None or (after and attempt is None):
        raise StoreError(f"a trial is a number such as 12, or 12.1 for its attempt 1; got {reprlib.repr(text)}")
    return browse.trial(context.store, study.id, number, attempt)


def command(context: Context, study: StudyRow, best: int | None) -> str:
    """The command that writes the same file."""
    which = "--pareto" if best is None else f"--best {best}"
    return f"atoll export {shlex.quote(study.name)} {which} -o best.yaml{context.store_option}"


def layout(context: Context, name: str | None, best: int, pareto: bool, trials: Sequence[str] = ()) -> dmc.Stack:
    """The page."""
    names = [s.study.name for s in context.store.studies() if not s.study.archived or s.study.name == name]
    chosen = name if name is not None else names[0] if names else None
    return dmc.Stack(
        [
            *components.address_stores("export", ADDRESS),
            dcc.Download(id="export-download"),
            components.heading("Export", below="Complete configurations, to train again with `atoll train`."),
            dmc.Group(
                [
                    dmc.Select(
                        id="export-name",
                        label="Study",
                        data=names,
                        value=chosen,
                        searchable=True,
                        w=320,
                        allowDeselect=False,
                    ),
                    dmc.NumberInput(
                        id="export-best",
                        label="Number of best trials",
                        value=best,
                        min=1,
                        max=MAX_BEST,
                        w=180,
                        debounce=300,
                    ),
                    dmc.TagsInput(
                        id="export-trials", label="or these trials", value=list(trials), w=260, placeholder="numbers"
                    ),
                    dmc.Switch(id="export-pareto", label="The whole Pareto front", checked=pareto),
                    dmc.Button("Download", id="export-save", variant="default"),
                    dmc.CopyButton(
                        id="export-copy", value="", children="Copy", copiedChildren="Copied", variant="default"
                    ),
                ],
                align="end",
            ),
            html.Div(id="export-problem", role="alert"),
            dmc.Text(id="export-command", ff="monospace", size="sm"),
            dmc.Code(id="export-yaml", children="", block=True),
        ]
    )
