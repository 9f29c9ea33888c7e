"""Figures that compare methods: from a comparison to figures, without a store or a browser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from atoll.analysis import pareto, score
from atoll.analysis.projection import Prediction
from atoll.analysis.resampling import LEVEL
from atoll.dashboard.figures.style import plain

if TYPE_CHECKING:  # these need the analysis extra
    from atoll.analysis.comparison import Comparison, TuningCurve
    from atoll.analysis.inference import Estimate, Separation

COLORS = (*qualitative.Safe, *qualitative.Vivid, *qualitative.Dark2)
COLUMNS = 3


def color_of(methods: Sequence[str], method: str) -> str:
    """The same color for a method in every figure."""
    return str(COLORS[list(methods).index(method) % len(COLORS)])


def styled(figure: go.Figure, height: int = 380, **more: object) -> go.Figure:
    """Set the common layout."""
    # Names of methods may be numbers.
    figure.update_xaxes(autotypenumbers="strict").update_yaxes(autotypenumbers="strict")
    layout = {"template": "plotly_white", "height": height, "margin": {"l": 70, "r": 20, "t": 50, "b": 60}}
    return figure.update_layout(**layout | more)


def panels(workloads: Sequence[str]) -> tuple[go.Figure, dict[str, dict[str, int]], int]:
    """A figure with a panel for each workload, the place of each, and its height."""
    columns = max(1, min(COLUMNS, len(workloads)))
    rows = max(1, math.ceil(len(workloads) / columns))
    figure = make_subplots(rows, columns, subplot_titles=list(map(plain, workloads)), vertical_spacing=0.3 / rows)
    places = {w: {"row": 1 + index // columns, "col": 1 + index % columns} for index, w in enumerate(workloads)}
    return figure, places, 80 + 320 * rows


def profiles(comparison: Comparison, by: str) -> go.Figure:
    """Performance profiles (Dolan and Moré 2002): the share of workloads within each ratio to the best time."""
    figure, tau = go.Figure(), np.linspace(1, score.LARGEST_RATIO, 301)
    for method, ratios in comparison.scores[by].ratios.items():
        share = score.profile(np.array(ratios), tau)
        figure.add_scatter(
            x=tau,
            y=share,
            name=plain(method),
            mode="lines",
            line={"shape": "hv", "color": color_of(comparison.methods, method)},
        )
    figure.update_xaxes(title=f"{by} to the target, over the best method's")
    figure.update_yaxes(title="share of workloads", range=[-0.02, 1.02])
    return styled(figure)


def scores(comparison: Comparison, by: str) -> go.Figure:
    """Scores with their intervals, the best first."""
    figure = go.Figure()
    for row in comparison.scores[by].rows:
        low, high = row.score_interval or (row.score, row.score)
        figure.add_bar(
            x=[row.method],
            y=[row.score],
            marker_color=color_of(comparison.methods, row.method),
            error_y={"type": "data", "symmetric": False, "array": [high - row.score], "arrayminus": [row.score - low]},
            showlegend=False,
        )
    figure.update_yaxes(title=f"score by {by} (95 %)", range=[0, 1.05])
    return styled(figure)


def quality(comparison: Comparison) -> go.Figure:
    """Every confirmation's quality, a panel for each workload; the line is the target."""
    figure, places, height = panels(comparison.workloads)
    for method in comparison.methods:
        for workload in comparison.workloads:
            rows = [r for r in comparison.confirmations if (r.method, r.workload) == (method, workload)]
            figure.add_box(
                y=[row.quality for row in rows],
                name=plain(method),
                boxpoints="all",
                pointpos=0,
                jitter=0.4,
                marker_color=color_of(comparison.methods, method),
                showlegend=False,
                **places[workload],
            )
    add_targets(figure, comparison, places)
    figure.update_yaxes(title=comparison.quality_title)
    return styled(figure, height)


def add_targets(figure: go.Figure, comparison: Comparison, places: dict[str, dict[str, int]]) -> None:
    """A line at each workload's target; to be called last, as Plotly draws none in a panel without data."""
    for workload, target in comparison.targets.items():
        figure.add_hline(y=target, line_dash="dot", line_color="#777", **places[workload])


def times(comparison: Comparison, by: str) -> go.Figure:
    """Every confirmation's time to the target, a panel for each workload; crosses at the top missed it."""
    figure, places, height = panels(comparison.workloads)
    for workload in comparison.workloads:
        rows = [row for row in comparison.confirmations if row.workload == workload and row.is_reached]
        top = 1.15 * max((value for row in rows if not math.isnan(value := getattr(row, by))), default=1.0)
        for method in comparison.methods:
            rows = [r for r in comparison.confirmations if (r.method, r.workload) == (method, workload)]
            figure.add_scatter(
                x=[method] * len(rows),
                y=[getattr(row, by) if row.is_reached else top for row in rows],
                mode="markers",
                marker={
                    "color": color_of(comparison.methods, method),
                    "symbol": ["circle" if row.is_reached else "x" for row in rows],
                    "size": 9,
                },
                hovertext=["" if row.is_reached else "missed" for row in rows],
                showlegend=False,
                **places[workload],
            )
    figure.update_yaxes(title=f"{by} to the target", rangemode="tozero")
    return styled(figure, height)


TRADED = {
    "wire_bytes": ("sent by all ranks (MB)", 1e6),
    "seconds_in_all": ("seconds of training", 1.0),
}


def tradeoff(comparison: Comparison, against: str) -> go.Figure:
    """Median quality against median `wire_bytes` or `seconds_in_all`; a line joins the Pareto front."""
    title, unit = TRADED[against]
    figure, places, height = panels(comparison.workloads)
    shown: set[str] = set()
    for workload in comparison.workloads:
        points: dict[str, tuple[float, float]] = {}
        for method in comparison.methods:
            rows = [r for r in comparison.confirmations if (r.method, r.workload) == (method, workload)]
            known = [r for r in rows if r.is_chosen and math.isfinite(r.quality)]
            timed = [r for r in known if not r.oversubscribed] if against == "seconds_in_all" else known
            spent = [value for r in timed if math.isfinite(value := getattr(r, against))]
            if spent:
                points[method] = median(spent) / unit, median(r.quality for r in known)
        sign = -1.0 if comparison.directions.get(workload) == "maximize" else 1.0
        losses = [(x, sign * y) for x, y in points.values()]
        front = sorted(losses[index] for index in pareto.front(losses))
        figure.add_scatter(
            x=[x for x, _ in front],
            y=[sign * y for _, y in front],
            mode="lines",
            line={"color": "#777", "dash": "dot"},
            name="Pareto front",
            hoverinfo="skip",
            showlegend=False,
            **places[workload],
        )
        for method, (x, y) in points.items():
            figure.add_scatter(
                x=[x],
                y=[y],
                mode="markers",
                marker={"color": color_of(comparison.methods, method), "size": 12},
                name=plain(method),
                legendgroup=method,
                showlegend=method not in shown,
                hovertemplate=f"{plain(method)}: %{{x:.4g}}, %{{y:.4g}}<extra></extra>",
                **places[workload],
            )
            shown.add(method)
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title=f"{comparison.quality_title}, median")
    return styled(figure, height)


def predicted(predictions: Sequence[Prediction], methods: Sequence[str], value: str) -> go.Figure:
    """`to_target`, `step` or `exposed` (as a share of a step) predicted against nodes, a panel for each workload.

    Args:
        predictions: for one cluster and one kind of scaling.
        methods: all compared methods, which decides their colors.
        value: the quantity to draw.
    """
    titles = {
        "to_target": "predicted seconds to the target",
        "step": "predicted seconds per step",
        "exposed": "predicted share of a step spent waiting",
    }
    workloads = list(dict.fromkeys(row.workload for row in predictions))
    figure, places, height = panels(workloads)
    for index, workload in enumerate(workloads):
        for method in methods:
            rows = [row for row in predictions if (row.method, row.workload) == (method, workload)]
            shown = {p.num_nodes: p.exposed / p.step if value == "exposed" else getattr(p, value) for p in rows}
            figure.add_scatter(
                x=[nodes for nodes, y in shown.items() if math.isfinite(y)],
                y=[y for y in shown.values() if math.isfinite(y)],
                name=plain(method),
                legendgroup=method,
                showlegend=index == 0,
                mode="lines+markers",
                line={"color": color_of(methods, method), "dash": "dash"},
                **places[workload],
            )
    where = next((row.cluster for row in predictions), "")
    figure.update_xaxes(title=f"nodes of {plain(where)}", type="log", dtick=math.log10(2))
    figure.update_yaxes(title=titles[value], **({"rangemode": "tozero"} if value == "exposed" else {"type": "log"}))
    return styled(figure, height)


def tuning(comparison: Comparison, against: str = "trials") -> go.Figure:
    """The best objective so far, against trials or busy seconds: the results of smaller tuning budgets."""

    def points(curve: TuningCurve) -> tuple[list[float], list[float]]:
        numbers = [float(number) for number in range(1, len(curve.best) + 1)]
        return curve.busy_seconds if against == "busy seconds" else numbers, curve.best

    return _tuning(comparison, points, "hv", f"tuning budget ({against})", _objective(comparison.tuning))


def expected(comparison: Comparison) -> go.Figure:
    """The expected best of k random complete trials: the tuning curve without the luck of their order."""

    def points(curve: TuningCurve) -> tuple[list[float], list[float]]:
        return [float(number) for number in range(1, len(curve.expected) + 1)], curve.expected

    return _tuning(comparison, points, "linear", "complete trials, k", f"expected {_objective(comparison.tuning)}")


def _tuning(
    comparison: Comparison,
    points: Callable[[TuningCurve], tuple[list[float], list[float]]],
    shape: str,
    x_title: str,
    y_title: str,
) -> go.Figure:
    """A line for each tuning, a panel for each workload."""
    figure, places, height = panels(comparison.workloads)
    shown = set()
    for curve in comparison.tuning:
        x, y = points(curve)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"shape": shape, "color": color_of(comparison.methods, curve.method)},
            name=plain(curve.method),
            legendgroup=curve.method,
            showlegend=curve.method not in shown,
            **places[curve.workload],
        )
        shown.add(curve.method)
    figure.update_xaxes(title=x_title)
    figure.update_yaxes(title=y_title)
    return styled(figure, height)


def _objective(curves: Sequence[TuningCurve]) -> str:
    names = list(dict.fromkeys(curve.objective for curve in curves))
    return names[0] if len(names) == 1 else "objective"


def intervals(estimates: dict[str, Estimate], methods: Sequence[str], title: str) -> go.Figure:
    """A point and a 95 % interval for each method."""
    figure = go.Figure()
    for method, estimate in estimates.items():
        low, high = estimate.interval or (estimate.value, estimate.value)
        figure.add_scatter(
            x=[estimate.value],
            y=[method],
            mode="markers",
            marker={"size": 11, "color": color_of(methods, method)},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - estimate.value],
                "arrayminus": [estimate.value - low],
            },
            showlegend=False,
        )
    figure.update_xaxes(title=title)
    figure.update_yaxes(autorange="reversed")
    return styled(figure, 120 + 40 * len(estimates))


def improvement(comparison: Comparison) -> go.Figure:
    """The probability that a seed of the row's method beats one of the column's."""
    methods = comparison.methods
    known = {(ours, theirs): e.value for ours, row in comparison.improvement.items() for theirs, e in row.items()}
    values = [[known.get((ours, theirs), math.nan) for theirs in methods] for ours in methods]
    text = [["" if math.isnan(value) else f"{value:.2f}" for value in row] for row in values]
    figure = go.Figure(
        go.Heatmap(x=methods, y=methods, z=values, zmin=0, zmax=1, colorscale="RdBu", text=text, texttemplate="%{text}")
    )
    figure.update_xaxes(title="beats")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, 160 + 40 * len(methods))


def groups(separation: Separation) -> list[list[str]]:
    """The largest sets of methods, ordered by mean rank, in which no pair is separated."""
    order = sorted(separation.ranks, key=lambda method: separation.ranks[method])
    p = separation.p | {(b, a): value for (a, b), value in separation.p.items()}
    largest: list[list[str]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and all(p[other, order[end]] > 1 - LEVEL for other in order[start:end]):
            end += 1
        if end - start > 1 and not (largest and order[end - 1] in largest[-1]):
            largest.append(order[start:end])
    return largest


def critical_difference(separation: Separation, methods: Sequence[str]) -> go.Figure:
    """Mean ranks over workloads; bars join methods that Wilcoxon's test with Holm's correction does not separate."""
    figure = go.Figure()
    order = sorted(separation.ranks, key=lambda method: separation.ranks[method])
    for place, method in enumerate(order):
        rank = separation.ranks[method]
        figure.add_scatter(
            x=[rank, rank],
            y=[0, -1 - place],
            mode="lines+markers+text",
            text=["", f"{method} ({rank:.2f})"],
            textposition="middle right",
            marker={"size": [8, 1]},
            line={"color": color_of(methods, method)},
            showlegend=False,
        )
    for place, group in enumerate(groups(separation)):
        ends = [separation.ranks[group[0]] - 0.03, separation.ranks[group[-1]] + 0.03]
        height = [-0.25 - 0.2 * place] * 2
        figure.add_scatter(x=ends, y=height, mode="lines", line={"width": 6, "color": "#333"}, showlegend=False)
    figure.update_xaxes(title="mean rank (1 is the best)", side="top", range=[0.8, len(order) + 0.8])
    figure.update_yaxes(visible=False)
    return styled(figure, 160 + 35 * len(order))
