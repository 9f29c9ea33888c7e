"""From data frames to figures, without a store or a browser."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")  # Paul Tol's bright scheme
HEIGHT = 360


def _layout(figure: go.Figure, key: str) -> go.Figure:
    # An equal uirevision keeps zoom and hidden traces when new data arrive.
    return figure.update_layout(
        template="plotly_white", height=HEIGHT, margin={"l": 60, "r": 20, "t": 30, "b": 50}, uirevision=key
    )


def best_so_far(incumbents: pd.DataFrame, metric: str, target: float | None) -> go.Figure:
    """Every trial's objective, and the best so far, against complete trials.

    Args:
        incumbents: columns complete, trial, objective, best.
        metric: the objective's name.
        target: the workload's target, drawn as a line.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=incumbents["complete"],
        y=incumbents["objective"],
        mode="markers",
        name="trial",
        marker={"color": COLORS[4], "size": 6},
        customdata=incumbents["trial"],
        hovertemplate="trial %{customdata}: %{y:.4g}<extra></extra>",
    )
    figure.add_scatter(
        x=incumbents["complete"],
        y=incumbents["best"],
        mode="lines",
        line={"shape": "hv", "color": COLORS[0], "width": 2},
        name="best so far",
    )
    if target is not None:
        figure.add_hline(y=target, line_dash="dot", line_color=COLORS[6], annotation_text="target")
    figure.update_xaxes(title="complete trials")
    figure.update_yaxes(title=metric)
    return _layout(figure, "best-so-far")


def training_curves(curves: pd.DataFrame, metric: str) -> go.Figure:
    """Losses and metric of chosen trials against epochs; one color per trial.

    Args:
        curves: columns trial, epoch, training loss, validation loss, metric.
        metric: the metric's name.
    """
    figure = make_subplots(1, 2, subplot_titles=("loss (dashed: training)", metric), horizontal_spacing=0.1)
    for index, (number, curve) in enumerate(curves.groupby("trial")):
        color = COLORS[index % len(COLORS)]
        for column, panel, dash in (
            ("training loss", 1, "dash"),
            ("validation loss", 1, "solid"),
            ("metric", 2, "solid"),
        ):
            figure.add_scatter(
                x=curve["epoch"],
                y=curve[column],
                mode="lines+markers",
                marker={"size": 4},
                line={"color": color, "dash": dash},
                name=f"trial {number}",
                legendgroup=str(number),
                showlegend=column == "metric",
                hovertemplate=f"trial {number}, {column if panel == 1 else metric}: %{{y:.4g}}<extra></extra>",
                row=1,
                col=panel,
            )
    figure.update_xaxes(title="epoch")
    return _layout(figure, "training-curves")
