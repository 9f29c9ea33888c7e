"""Figures of several studies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import qualitative

from atoll.analysis import pareto
from atoll.dashboard import thinning
from atoll.dashboard.figures import style
from atoll.dashboard.figures.study import AXES, Axis, progress_axis
from atoll.dashboard.figures.style import plain, styled

COLORS = (*qualitative.Safe, *qualitative.Vivid)


@dataclass(frozen=True)
class Compared:
    """What the figures need of a study: its name, objective, target, start and trials."""

    name: str
    metric: str
    direction: str
    target: float | None
    started: float
    trials: pd.DataFrame

    @property
    def complete(self) -> pd.DataFrame:
        """Complete trials, in the order in which they ended."""
        complete: pd.DataFrame = self.trials[
            self.trials["state"].eq("complete") & self.trials["objective"].notna()
        ].sort_values("finished", kind="stable")
        return complete

    @property
    def best(self) -> NDArray[np.float64]:
        """The best objective after each complete trial."""
        objective = self.complete["objective"].to_numpy(dtype=float)
        best: NDArray[np.float64] = (np.maximum if self.direction == "maximize" else np.minimum).accumulate(objective)
        return best


def best_so_far(studies: Sequence[Compared], against: Axis) -> go.Figure:
    """The best objective of every study so far."""
    figure = go.Figure()
    for index, study in enumerate(studies):
        if not len(study.complete):
            continue
        best = study.best
        x = progress_axis(study.trials, against, study.started).reindex(study.complete.index).to_numpy()
        shown = thinning.changes(best)
        figure.add_scatter(
            x=x[shown],
            y=best[shown],
            mode="lines",
            line={"shape": "hv", "color": COLORS[index % len(COLORS)], "width": 2},
            name=plain(study.name),
        )
    if not figure.data:
        return style.message("None of these studies has a complete trial.")
    figure.update_xaxes(title=AXES[against])
    figure.update_yaxes(title=plain(metric_of(studies)))
    return styled(figure, f"several {against}")


def objectives(studies: Sequence[Compared]) -> go.Figure:
    """The distribution of complete trials' objectives: median, quartiles and extremes of each study."""
    figure = go.Figure()
    for index, study in enumerate(studies):
        values = study.complete["objective"].to_numpy(dtype=float)
        if len(values):
            low, first, median, third, high = np.percentile(values, [0, 25, 50, 75, 100])
            figure.add_box(
                name=plain(study.name),
                lowerfence=[low],
                q1=[first],
                median=[median],
                q3=[third],
                upperfence=[high],
                marker_color=COLORS[index % len(COLORS)],
                showlegend=False,
            )
    if not figure.data:
        return style.message("None of these studies has a complete trial.")
    figure.update_yaxes(title=plain(metric_of(studies)))
    return styled(figure, "several objectives")


def tradeoff(studies: Sequence[Compared], against: str) -> go.Figure:
    """Trials on each study's front of the objective and `wire_bytes` or `seconds`."""
    unit, title = (1e6, "sent by all ranks (MB)") if against == "wire_bytes" else (1.0, "seconds of the trial")
    figure = go.Figure()
    for index, study in enumerate(studies):
        complete = study.complete.dropna(subset=[against])
        if not len(complete):
            continue
        x, y = complete[against].to_numpy() / unit, complete["objective"].to_numpy(dtype=float)
        losses = -y if study.direction == "maximize" else y
        front = np.array(pareto.front(np.stack([x, losses], axis=1).tolist()))
        front = front[np.argsort(x[front], kind="stable")]
        figure.add_scatter(
            x=x[front],
            y=y[front],
            mode="lines+markers",
            line={"color": COLORS[index % len(COLORS)], "shape": "hv"},
            name=plain(study.name),
            customdata=complete["number"].to_numpy()[front],
            hovertemplate="trial %{customdata}: %{x:.4g}, %{y:.4g}<extra></extra>",
        )
    if not figure.data:
        return style.message("None of these studies has a complete trial.")
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title=plain(metric_of(studies)))
    return styled(figure, f"several {against}")


def times_to_target(studies: Sequence[Compared]) -> list[dict[str, object]]:
    """Trials, busy and wall seconds until each study met its target; None if it did not."""
    rows: list[dict[str, object]] = []
    for study in studies:
        best = study.best
        met = np.zeros(len(best), bool)
        if study.target is not None:
            met = best >= study.target if study.direction == "maximize" else best <= study.target
        first = study.complete.index[int(np.argmax(met))] if met.any() else None
        spent: dict[str, object] = {
            axis: None if first is None else float(progress_axis(study.trials, axis, study.started)[first])
            for axis in AXES
        }
        best_value = float(best[-1]) if len(best) else None
        rows.append({"study": study.name, "metric": study.metric, "best": best_value, "target": study.target} | spent)
    return rows


def metric_of(studies: Sequence[Compared]) -> str:
    """The objective's name; all names if they differ."""
    return " / ".join(dict.fromkeys(study.metric for study in studies))
