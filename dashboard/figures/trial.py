"""Figures of one trial, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from atoll.dashboard import thinning
from atoll.dashboard.figures import style
from atoll.dashboard.figures.style import COLORS, plain, styled

MAX_OBSERVED = 12  # panels of observed metrics
PASSES = "observed.passes"  # every training reports it, so it takes the place of no observed metric

Axis = Literal["epoch", "step", "seconds", "passes", "bytes"]
# The column of reports, and the words for it.
AXES: dict[Axis, tuple[str, str]] = {
    "epoch": ("epoch", "epoch"),
    "step": ("step", "step"),
    "seconds": ("seconds", "training time (s)"),
    "passes": (PASSES, "passes of the busiest rank (samples)"),
    "bytes": ("megabytes", "sent by all ranks (MB)"),
}


def curves(reports: pd.DataFrame, metric: str, target: float | None = None, against: Axis = "epoch") -> go.Figure:
    """Loss, metric, learning rate, traffic, passes and observed metrics; a color for each trial.

    If a trial has several reports in an epoch, or they are a function's, epochs are drawn by step. Panels without a
    value are left out, but the metric's. Reports that lack the horizontal value are not drawn.

    Args:
        reports: a row for each trial and report: trial, epoch, step, seconds, train_loss, validation_loss, metric,
            learning_rate, wire_bytes, and `observed.NAME`.
        metric: the workload's.
        target: the metric's, drawn as a line.
        against: the horizontal axis.
    """
    if not len(reports):
        return style.message("Select trials in the leaderboard to draw their curves.")
    reports = reports.assign(megabytes=reports["wire_bytes"].astype(float) / 1e6)
    columns = _panels(reports, metric)
    is_training = bool(reports["learning_rate"].notna().any())
    figure, places, height = style.panels(list(columns), columns=2 if len(columns) <= 4 else 3)
    if against == "epoch" and (not is_training or reports.duplicated(["trial", "epoch"]).any()):
        against = "step"
    x, x_title = AXES[against]
    if x not in reports or not (is_known := reports[x].notna()).any():
        return style.message(f"These trials do not report their {against}.")
    reports = reports[is_known]
    for index, (number, of_trial) in enumerate(reports.groupby("trial", sort=False)):
        color = COLORS[index % len(COLORS)]
        for place, (title, names) in zip(places, columns.items(), strict=True):
            for column in names:
                values = of_trial[column].to_numpy(dtype=float)
                if np.isnan(values).all() and column != "metric":
                    continue
                shown = thinning.extremes(values)
                words = column.replace("_", " ") if len(names) > 1 else title
                figure.add_scatter(
                    x=of_trial[x].to_numpy()[shown],
                    y=values[shown],
                    connectgaps=True,  # not every report comes with an evaluation
                    mode="lines+markers",
                    marker={"size": 4},
                    line={"color": color, "dash": "dash" if column == "train_loss" else "solid"},
                    name=f"trial {number}",
                    legendgroup=str(number),
                    showlegend=column == "metric",
                    customdata=of_trial["step"].to_numpy()[shown],
                    hovertemplate=f"trial {number}, step %{{customdata}}, {plain(words)}: %{{y:.4g}}<extra></extra>",
                    **place,
                )
    if target is not None:
        figure.add_hline(y=target, line_dash="dot", line_color=COLORS[6], **places[list(columns).index(metric)])
    for place in style.bottom(places):
        figure.update_xaxes(title=x_title, **place)
    figure = styled(figure, "curves", height)
    if len(columns.get("loss", ())) == 2:
        figure.layout.annotations[0].text = "loss (training dashed, validation solid)"
    return figure.update_layout(legend={"y": 1 + 40 / height}, margin={"t": 70})


def _panels(reports: pd.DataFrame, metric: str) -> dict[str, list[str]]:
    """The columns of each panel by its title."""
    known = [name for name in reports.columns if name.startswith("observed.") and reports[name].notna().any()]
    if has_passes := PASSES in known:
        known.remove(PASSES)
    observed = sorted(known, key=lambda name: "/" in name)  # metrics of one layer follow those of the whole model
    columns = {"loss": ["train_loss", "validation_loss"], metric: ["metric"], "learning rate": ["learning_rate"]}
    columns |= {"sent by all ranks (MB)": ["megabytes"]}
    # A function reports its objective only.
    has = reports.notna().any()
    columns = {title: names for title, names in columns.items() if title == metric or has[names].any()}
    columns |= {"passes of the busiest rank (samples)": [PASSES]} if has_passes else {}
    columns |= {name.removeprefix("observed."): [name] for name in observed[:MAX_OBSERVED]}
    return columns


def ledger(entries: pd.DataFrame, num_steps: int, num_ranks: int) -> go.Figure:
    """Mean bytes sent and seconds waited per rank and step, by operation and scope; without steps, per rank in total.

    Args:
        entries: operation, scope, overlapped, wire_bytes, seconds_waited; sums over ranks.
        num_steps, num_ranks: the trial's; a trial without reports has 0 steps.
    """
    if not len(entries):
        return style.message("This trial recorded no communication.")
    sums = entries.groupby(["operation", "scope", "overlapped"], as_index=False)[["wire_bytes", "seconds_waited"]].sum()
    per = max(1, num_steps) * max(1, num_ranks)
    labels = [
        f"{row.operation}, {row.scope}{', overlapped' if row.overlapped else ''}"
        for row in sums.itertuples(index=False)
    ]
    span = "per step" if num_steps else "in total"
    figure, places, _ = style.panels([f"sent {span} (kB)", f"waited {span} (ms)"], columns=2)
    for place, values, color in (
        (places[0], sums["wire_bytes"] / per / 1e3, COLORS[0]),
        (places[1], sums["seconds_waited"] / per * 1e3, COLORS[1]),
    ):
        figure.add_bar(
            x=values,
            y=labels,
            orientation="h",
            marker={"color": color},
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
            showlegend=False,
            **place,
        )
    figure.update_yaxes(autorange="reversed", automargin=True, type="category").update_xaxes(rangemode="tozero")
    figure.update_yaxes(showticklabels=False, row=1, col=2)
    return styled(figure, "ledger", 150 + 34 * len(labels))


def reports_frame(rows: Sequence[object], number_of: dict[int, int]) -> pd.DataFrame:
    """Reports in the form that `curves` takes; `number_of` gives the trials' numbers by id."""
    names = ["epoch", "step", "seconds", "train_loss", "validation_loss", "metric", "learning_rate", "wire_bytes"]
    content = [
        {"trial": number_of[row.trial_id]}  # type: ignore[attr-defined]
        | {name: getattr(row, name) for name in names}
        | {f"observed.{name}": value for name, value in (row.metrics or {}).items()}  # type: ignore[attr-defined]
        for row in rows
    ]
    return pd.DataFrame(content) if content else pd.DataFrame(columns=["trial", *names])
