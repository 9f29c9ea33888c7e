"""The curves of a benchmark's confirmations, with the median of each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from atoll.analysis.training_curves import AXES, MedianCurve, TrainingCurve, left_out, median_curve
from atoll.dashboard.figures import style
from atoll.dashboard.figures.comparison import add_targets, color_of, panels, styled
from atoll.dashboard.figures.style import plain

if TYPE_CHECKING:  # this needs the analysis extra
    from atoll.analysis.comparison import Comparison

TITLES = {
    "seconds": "Curves by seconds",
    "passes": "Curves by passes",
    "wire_bytes": "Curves by bytes",
    "step": "Curves by steps",
}
MEGABYTE = 1e6
WIDE = 10  # the longest training over the shortest one, above which the axis is logarithmic
DASHES = ("solid", "dash", "dot", "dashdot")  # colors alone do not tell lines apart
NO_SECONDS = "Ranks shared cores or a GPU, so seconds do not compare: see the curves against passes."
CAPTION = (
    "The median over confirmations, as a step from report to report, and their range; only while at least half of them "
    "have not ended. The dotted line is the target. Values named test_ are on test data, evaluated_train_loss on "
    "training data."
)


def caption(comparison: Comparison, trainings: Sequence[TrainingCurve], by: str) -> str:
    """What the curves are, and how many confirmations have none.

    Args:
        comparison, trainings, by: as `curves` takes them.
    """
    counts = left_out(comparison.confirmations, trainings, by)
    if not counts:
        return CAPTION
    return f"{CAPTION} Confirmations left out: {', '.join(f'{count} {reason}' for reason, count in counts.items())}."


def curves(comparison: Comparison, trainings: Sequence[TrainingCurve], by: str) -> go.Figure:
    """The compared value against what trainings have spent, a panel for each workload.

    Args:
        comparison: whose methods, workloads and targets.
        trainings: its confirmations that count.
        by: one of AXES. Trainings that shared cores have no curve against seconds.
    """
    if by == "seconds":
        kept = [one for one in trainings if not one.oversubscribed]
        if trainings and not kept:
            return style.message(NO_SECONDS)
        trainings = kept
    figure, places, height = panels(comparison.workloads)
    shown: set[str] = set()
    ranges: list[tuple[float, float]] = []
    for workload in comparison.workloads:
        for method in comparison.methods:
            own = [one for one in trainings if (one.method, one.workload) == (method, workload)]
            if (median := median_curve(own, by)) is not None:
                _add(figure, places[workload], comparison.methods, method, median, by, method not in shown)
                shown.add(method)
                ranges.append((float(median.spent[0]), float(median.spent[-1])))
        names = {one.value for one in trainings if one.workload == workload}
        figure.update_yaxes(title=plain(", ".join(sorted(names))), **places[workload])
    if not shown:
        return style.message("No confirmation has reported its curve yet.")
    add_targets(figure, comparison, places)
    first, last = min(low for low, _ in ranges), [high for _, high in ranges]
    is_log = first > 0 and max(last) > WIDE * min(last)
    figure.update_xaxes(title=AXES[by], **({"type": "log"} if is_log else {"rangemode": "tozero"}))
    return styled(figure, height)


def _add(
    figure: go.Figure,
    place: dict[str, int],
    methods: Sequence[str],
    method: str,
    median: MedianCurve,
    by: str,
    with_legend: bool,
) -> None:
    x = median.spent / MEGABYTE if by == "wire_bytes" else median.spent
    color, number = color_of(methods, method), list(methods).index(method)
    if median.num_trainings > 1:
        # There and back along the steps of both edges.
        figure.add_scatter(
            x=np.concatenate([np.repeat(x, 2)[1:], np.repeat(x, 2)[1:][::-1]]),
            y=np.concatenate([np.repeat(median.high, 2)[:-1], np.repeat(median.low, 2)[:-1][::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=color.replace("rgb(", "rgba(").replace(")", ", 0.15)"),
            legendgroup=method,
            showlegend=False,
            hoverinfo="skip",
            **place,
        )
    figure.add_scatter(
        x=x,
        y=median.median,
        mode="lines+markers" if len(x) < 60 else "lines",
        marker={"size": 4},
        line={"shape": "hv", "color": color, "dash": DASHES[number % len(DASHES)]},
        name=plain(method),
        legendgroup=method,
        showlegend=with_legend,
        hovertemplate=f"{plain(method)}: %{{x:.4g}}, %{{y:.4g}}<extra></extra>",
        **place,
    )
