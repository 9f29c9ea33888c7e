"""Predictions for a cluster that is chosen or edited on the page; they are not stored."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dash
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, dcc, html, no_update

from atoll.analysis import clusters, projection
from atoll.analysis.cluster import Cluster
from atoll.analysis.projection import Prediction
from atoll.analysis.scaling import Scaling
from atoll.dashboard import components
from atoll.dashboard.components import column
from atoll.dashboard.context import UNREADABLE, Context
from atoll.dashboard.figures import comparison as figures
from atoll.dashboard.figures import style
from atoll.storage import yamlfile
from atoll.storage.export import plain
from atoll.storage.models import BenchmarkRow
from atoll.storage.yamlfile import FileError

DEFAULT_CLUSTER = "a100_hdr200"
MAX_TEXT = 20_000  # characters of a cluster's text
MAX_RANKS = 16_384  # a replay takes time and memory for every rank; `atoll project` has no such limit
DEFAULT_NODES = "1,2,4,8"  # more would make readers wait for the replay
VALUES = {"to_target": "Time to target", "exposed": "Exposed communication", "step": "Seconds per step"}
COLUMNS = [
    column("workload", width=160),
    column("method", width=140),
    column("num_nodes", "nodes", numeric=True),
    column("num_ranks", "ranks", numeric=True),
    column("step", "step (s)", numeric=True),
    column("compute", "computing (s)", numeric=True, width=165),
    column("exposed", "exposed (s)", numeric=True, width=175),
    column("epoch", "epoch (s)", numeric=True),
    column("to_target", "to the target (s)", numeric=True, width=175),
    column("num_trials", "trainings", numeric=True),
]
ADDRESS = {
    "name": Input("projection-name", "value"),
    "cluster": Input("projection-cluster", "value"),
    "text": Input("projection-text", "value"),
    "nodes": Input("projection-nodes", "value"),
    "scaling": Input("projection-scaling", "value"),
    "value": Input("projection-value", "value"),
}


def page(context: Context, /, name: str | None = None, **query: str) -> Any:
    """The page that an address asks for."""
    try:
        return layout(context, name, query)
    except UNREADABLE as error:
        return components.alert("Nothing to project", str(error))


def register(app: dash.Dash, context: Context) -> None:
    """Add the page's callbacks to `app`."""
    components.show_figures(app, "projection-figure")

    @app.callback(
        Output("projection-text", "value"),
        Input("projection-cluster", "value"),
        prevent_initial_call=True,
    )
    def _choose(cluster: str) -> Any:
        return text_of(cluster) if cluster in yamlfile.names(clusters.FOLDER) else no_update

    @app.callback(
        Output(components.drawn("projection-figure"), "data"),
        Output("projection-grid", "rowData"),
        Output("projection-notes", "children"),
        Output("projection-problem", "children"),
        Output("projection-interval", "disabled"),
        Input("projection-name", "value"),
        Input("projection-text", "value"),
        Input("projection-nodes", "value"),
        Input("projection-scaling", "value"),
        Input("projection-value", "value"),
        Input("theme", "data"),
        Input("projection-interval", "n_intervals"),
    )
    def _update(name: str | None, text: str, nodes: str, scaling: str, value: str, theme: str, _count: int) -> Any:
        try:
            result = predict(context, name, text, nodes, scaling)
        except (*UNREADABLE, FileError) as error:
            nothing = style.themed(style.message("Nothing to show."), theme)
            return nothing, [], None, components.alert("Not projected", str(error)), isinstance(error, FileError)
        if result is None:
            return (
                style.themed(style.message("Replaying the recorded traces; many ranks take a while."), theme),
                [],
                None,
                None,
                False,
            )
        predictions, left_out = result
        rows = [{"key": str(n), **plain(asdict(row))} for n, row in enumerate(predictions)]
        return (
            style.themed(draw(predictions, methods_of(context, name, predictions), value), theme),
            rows,
            notes(predictions, left_out),
            None,
            True,
        )

    components.keep_address(app, "projection", ADDRESS)


def text_of(cluster: str) -> str:
    """A bundled cluster's file."""
    return (clusters.FOLDER / f"{cluster}.yaml").read_text()


def read(text: str) -> Cluster:
    """The cluster that a text describes. Raises FileError with a line for each mistake."""
    if len(text or "") > MAX_TEXT:
        raise FileError(f"a cluster's text may have at most {MAX_TEXT} characters; got {len(text)}")
    content, node = yamlfile.parsed(text or "", "the cluster")
    if not isinstance(content, dict):
        raise FileError(f"a cluster must hold keys and values; valid keys are {', '.join(Cluster.model_fields)}")
    return yamlfile.validate(content, Cluster, source="the cluster", folder=Path(), node=node)


def predict(
    context: Context, name: str | None, text: str, nodes: str, scaling: str
) -> tuple[list[Prediction], list[str]] | None:
    """Predictions, and the reasons for omissions; None while they are being computed.

    Raises:
        FileError: for an invalid cluster or number of nodes.
        StoreError: for a study or benchmark that cannot be projected.
    """
    cluster, scales = read(text), clusters.nodes(nodes or "")
    if (ranks := cluster.ranks_per_node * max(scales)) > MAX_RANKS:
        raise FileError(
            f"this page projects to at most {MAX_RANKS} ranks, ranks_per_node times nodes; got {ranks}; `atoll "
            "project` has no such limit"
        )
    way: Scaling = "strong" if scaling == "strong" else "weak"
    subject = context.store.subject(name) if name else context.store.study()
    key = ("projection", context.stamp(subject), cluster.model_dump_json(), tuple(scales), way)

    def work() -> tuple[list[Prediction], list[str]]:
        projected = projection.project_all(context.store, subject, cluster, scales, way)
        return projection.predictions(context.store, subject, projected.rows), projected.left_out

    result: tuple[list[Prediction], list[str]] | None = context.background.get(key, work, patience=0.4)
    return result


def methods_of(context: Context, name: str | None, predictions: list[Prediction]) -> list[str]:
    """The methods in the order that gives them the same colors as on the page "Compare methods"."""
    subject = context.store.subject(name) if name else context.store.study()
    listed = [str(e["name"]) for e in subject.definition["methods"]] if isinstance(subject, BenchmarkRow) else []
    return list(dict.fromkeys([*listed, *(row.method for row in predictions)]))


def draw(predictions: list[Prediction], methods: list[str], value: str) -> go.Figure:
    """The predictions against nodes; the order of `methods` decides their colors."""
    if not predictions:
        return style.message("Nothing can be predicted; see the notes.")
    figure = figures.predicted(predictions, methods, value if value in VALUES else "to_target")
    return figure.update_layout(uirevision=value, title={"text": "Predictions, not measurements", "font": {"size": 13}})


def notes(predictions: list[Prediction], left_out: list[str]) -> list[Any]:
    """The predictions' assumptions, and what was left out."""
    assumed = list(dict.fromkeys(words for row in predictions for words in row.assumptions))
    alerts: list[Any] = []
    if assumed:
        alerts.append(components.alert("Predictions, not measurements", f"They assume: {'; '.join(assumed)}.", "blue"))
    if left_out:
        alerts.append(components.alert("Left out", "; ".join(left_out), "yellow"))
    return alerts


def layout(context: Context, name: str | None, query: dict[str, str]) -> dmc.Stack:
    """The page."""
    benchmarks = [row.name for row in context.store.benchmarks()]
    studies = [s.study.name for s in context.store.studies() if not s.study.archived or s.study.name == name]
    names = [*benchmarks, *(study for study in studies if study not in benchmarks)]
    bundled = yamlfile.names(clusters.FOLDER)
    cluster, value = query.get("cluster", DEFAULT_CLUSTER), query.get("value", "to_target")
    cluster, value = cluster if cluster in bundled else DEFAULT_CLUSTER, value if value in VALUES else "to_target"
    return dmc.Stack(
        [
            *components.address_stores("projection", ADDRESS),
            dcc.Interval(id="projection-interval", interval=components.INTERVAL_MILLISECONDS, disabled=True),
            components.heading(
                "Projection",
                below="Recorded traces, replayed on a described cluster: predictions, not measurements. This page "
                "stores nothing; `atoll project` stores predictions.",
            ),
            _choices(name if name in names else names[0] if names else None, names, cluster, query),
            html.Div(id="projection-problem", role="alert"),
            dmc.Grid([_figure(value), _cluster_text(query.get("text") or text_of(cluster))]),
            html.Div(id="projection-notes"),
            components.grid("projection-grid", COLUMNS, "420px", rowData=[]),
        ],
        gap="sm",
    )


def _choices(name: str | None, names: list[str], cluster: str, query: dict[str, str]) -> dmc.Group:
    return dmc.Group(
        [
            dmc.Select(
                id="projection-name",
                label="Benchmark or study",
                data=names,
                value=name,
                searchable=True,
                allowDeselect=False,
                w=280,
            ),
            dmc.Select(
                id="projection-cluster",
                label="Cluster",
                data=yamlfile.names(clusters.FOLDER),
                value=cluster,
                allowDeselect=False,
                w=200,
            ),
            dmc.TextInput(
                id="projection-nodes", label="Nodes", value=query.get("nodes", DEFAULT_NODES), w=200, debounce=400
            ),
            dmc.Select(
                id="projection-scaling",
                label="Scaling",
                data=["weak", "strong"],
                value="strong" if query.get("scaling") == "strong" else "weak",
                allowDeselect=False,
                w=120,
            ),
        ],
        align="end",
    )


def _figure(value: str) -> dmc.GridCol:
    values = [{"value": key, "label": title} for key, title in VALUES.items()]
    choice = components.choice("projection-value", "figure", values, value, width=210)
    return dmc.GridCol(components.figure("projection-figure", "Predicted", choice), span={"base": 12, "lg": 8})


def _cluster_text(text: str) -> dmc.GridCol:
    area = dmc.Textarea(
        id="projection-text",
        label="Cluster file (editable)",
        value=text,
        autosize=True,
        minRows=12,
        maxRows=24,
        debounce=500,
        styles={"input": {"fontFamily": "monospace", "fontSize": 12}},
    )
    return dmc.GridCol(area, span={"base": 12, "lg": 4})
