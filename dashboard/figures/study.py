"""Figures of one study."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from atoll.analysis.formatting import counted
from atoll.analysis.pareto import front as pareto_front
from atoll.dashboard import thinning
from atoll.dashboard.figures import style
from atoll.dashboard.figures.style import COLORS, SCALE, STATES, plain, styled

Axis = Literal["trials", "busy seconds", "wall seconds"]
AXES: dict[Axis, str] = {
    "trials": "trials ended",
    "busy seconds": "busy seconds, summed over workers",
    "wall seconds": "seconds since the study started",
}
NUM_BINS = 24
MAX_BARS = 3000
MAX_MARKERS = 1000  # browsers draw each one slowly, and readers wait for this figure first
NOTHING = "No trial is complete yet."


def best_so_far(
    trials: pd.DataFrame,
    metric: str,
    direction: str,
    target: float | None,
    against: Axis = "trials",
    started: float = 0,
) -> go.Figure:
    """Every complete trial's objective, and the best so far.

    Args:
        trials: columns number, state, objective, seconds, finished.
        metric, direction: of the objective.
        target: drawn as a line.
        against: trials ended, seconds in trials summed over workers, or seconds since the study started.
        started: the study's start, seconds since the epoch.
    """
    axis = progress_axis(trials, against, started)
    complete = trials.loc[axis.index][lambda frame: frame["state"].eq("complete") & frame["objective"].notna()]
    if not len(complete):
        return style.message(NOTHING)
    x = axis[complete.index].to_numpy()
    objective = complete["objective"].to_numpy(dtype=float)
    best = np.maximum.accumulate(objective) if direction == "maximize" else np.minimum.accumulate(objective)
    shown, steps = thinning.extremes(objective, MAX_MARKERS), thinning.changes(best)
    figure = go.Figure()
    figure.add_scatter(
        x=x[shown],
        y=objective[shown],
        mode="markers",
        name="trial" if len(shown) == len(complete) else f"trial ({len(shown):,} of {len(complete):,} drawn)",
        marker={"color": COLORS[4], "size": 6, "opacity": 0.7},
        customdata=complete["number"].to_numpy()[shown],
        hovertemplate="trial %{customdata}: %{y:.4g}<extra></extra>",
    )
    figure.add_scatter(
        x=x[steps],
        y=best[steps],
        mode="lines",
        line={"shape": "hv", "color": COLORS[1], "width": 2},
        name="best so far",
    )
    if target is not None:
        figure.add_hline(y=target, line_dash="dot", line_color=COLORS[6], annotation_text="target")
    figure.update_xaxes(title=AXES[against])
    figure.update_yaxes(title=plain(metric))
    return styled(figure, f"best {against}")


def progress_axis(trials: pd.DataFrame, against: Axis, started: float) -> pd.Series:
    """What had been spent when each trial ended, in the order in which they ended."""
    ended = trials[trials["finished"].notna()].sort_values("finished", kind="stable")
    if against == "trials":
        return pd.Series(np.arange(1, len(ended) + 1), index=ended.index)
    return ended["seconds"].fillna(0).cumsum() if against == "busy seconds" else ended["finished"] - started


def slices(trials: pd.DataFrame, hyperparameters: pd.DataFrame, names: Sequence[str], metric: str) -> go.Figure:
    """The objective against each hyperparameter; later trials are darker."""
    if not len(trials) or not names:
        return style.message(NOTHING if not len(trials) else "Choose hyperparameters to draw.")
    figure, places, height = style.panels(names)
    for index, (name, place) in enumerate(zip(names, places, strict=True)):
        values = hyperparameters[name]
        numeric = style.is_number(values)
        figure.add_scattergl(
            x=values if numeric else style.labels(values),
            y=trials["objective"],
            mode="markers",
            marker={
                "color": trials["number"],
                "colorscale": SCALE,
                "reversescale": True,
                "size": 5,
                "opacity": 0.7,
                "showscale": index == 0,
                "colorbar": {"title": "trial"},
            },
            name=name,
            customdata=trials["number"],
            hovertemplate="trial %{customdata}<br>%{x}: %{y:.4g}<extra></extra>",
            showlegend=False,
            **place,
        )
        if numeric and style.is_log(values):
            figure.update_xaxes(type="log", **place)
        elif not numeric:
            figure.update_xaxes(type="category", **place)
        if place["col"] == 1:
            figure.update_yaxes(title=plain(metric), **place)
    return styled(figure, "slices", height)


def contour(
    trials: pd.DataFrame, hyperparameters: pd.DataFrame, x: str, y: str, metric: str, direction: str
) -> go.Figure:
    """The best objective in each cell of the plane of two hyperparameters, and the trials themselves."""
    if not len(trials):
        return style.message(NOTHING)
    if x == y:
        return style.message("Choose two different hyperparameters.")
    objective = trials["objective"].to_numpy(dtype=float)
    across, along = _Places(hyperparameters[x]), _Places(hyperparameters[y])
    cells = pd.DataFrame({"x": across.bins, "y": along.bins, "z": objective}).dropna()
    best = cells.groupby(["y", "x"])["z"].agg("max" if direction == "maximize" else "min").unstack()
    figure = go.Figure()
    if min(best.shape) < 2:
        return style.message("A contour needs at least two values of each hyperparameter.")
    figure.add_contour(
        x=[across.centers[int(i)] for i in best.columns],
        y=[along.centers[int(i)] for i in best.index],
        z=best.to_numpy(),
        colorscale=SCALE,
        reversescale=direction == "minimize",
        connectgaps=True,
        colorbar={"title": plain(metric)},
        hovertemplate="%{z:.4g}<extra></extra>",
        contours={"coloring": "heatmap"},
        line={"width": 0.5},
        name="best in cell",
    )
    figure.add_scattergl(
        x=across.shown,
        y=along.shown,
        mode="markers",
        marker={"color": "white", "size": 5, "line": {"color": "black", "width": 1}, "opacity": 0.7},
        customdata=np.stack([trials["number"], objective], axis=1),
        hovertemplate="trial %{customdata[0]}: %{customdata[1]:.4g}<extra></extra>",
        name="trial",
        showlegend=False,
    )
    figure.update_xaxes(title=plain(x), **across.axis)
    figure.update_yaxes(title=plain(y), **along.axis)
    return styled(figure, f"contour {x} {y}", 520)


class _Places:
    """A hyperparameter's values on an axis, their bins (at most `NUM_BINS`), and the bins' centers."""

    def __init__(self, values: pd.Series) -> None:
        if style.is_number(values):
            log = style.is_log(values)
            numbers = pd.to_numeric(values).astype(float)
            scaled = np.log10(numbers.to_numpy()) if log else numbers.to_numpy()
            low = np.nanmin(scaled)
            extent = float(np.nanmax(scaled) - low) or 1.0
            bins = np.minimum(np.floor((scaled - low) / extent * NUM_BINS), NUM_BINS - 1)
            centers = low + (np.arange(NUM_BINS) + 0.5) * extent / NUM_BINS
            self.shown, self.bins = numbers.to_numpy(), bins
            self.centers = (10**centers if log else centers).tolist()
            self.axis: dict[str, object] = {"type": "log"} if log else {}
        else:
            spelled = style.labels(values)
            choices = sorted(spelled.dropna().unique())
            self.shown = spelled.to_numpy()
            self.bins = spelled.map({choice: place for place, choice in enumerate(choices)}).to_numpy(dtype=float)
            self.centers = choices
            self.axis = {"type": "category", "categoryorder": "array", "categoryarray": choices}


def timeline(trials: pd.DataFrame, started: float, now: float) -> go.Figure:
    """Each worker's time: training by outcome, waiting between trials, and lost trials.

    With more trials than a screen can tell apart, all outcomes but "lost" are drawn as training.

    Args:
        trials: columns worker, island, state, started, finished; times are seconds since the epoch.
        started, now: the study's start and the present, at which running trials end in the figure.
    """
    if not len(trials):
        return style.message("No trial has started yet.")
    ends = trials["finished"].fillna(now)
    crowded = len(trials) > MAX_BARS
    places = trials.groupby(["island", "worker"])
    names = [f"island {island}, worker {worker}" for island, worker in places.size().index]
    order = places.ngroup()
    spans = pd.DataFrame(
        {
            "worker": order.map(dict(enumerate(names))),
            "order": order,
            "state": trials["state"],
            "start": trials["started"] - started,
            "end": ends - started,
            "what": "" if crowded else [f"trial {number}" for number in trials["number"]],
        }
    ).sort_values(["order", "start"])
    finest = float(spans["end"].max()) / thinning.MAX_POINTS
    if crowded:  # a screen cannot show how each of them ended
        spans["state"] = spans["state"].where(spans["state"] == "lost", "training")
    figure = go.Figure()
    waiting = _waiting(spans, finest)
    for state, color in STATES.items():
        bars = waiting if state == "waiting" else spans[spans["state"] == state]
        if crowded and state != "waiting":
            bars = _merged(bars, finest)
        if not len(bars):
            continue
        figure.add_bar(
            base=bars["start"],
            x=bars["end"] - bars["start"],
            y=bars["worker"],
            orientation="h",
            name=f"training, {state}" if state in ("complete", "pruned", "failed", "continued") else state,
            marker={"color": color, "line": {"width": 0 if crowded else 1, "color": "rgba(255,255,255,0.7)"}},
            customdata=np.stack([bars["start"], bars["end"], bars["what"]], axis=1),
            hovertemplate=f"%{{y}}: {state}, %{{customdata[2]}}<br>"
            "%{customdata[0]:.1f} to %{customdata[1]:.1f} s<extra></extra>",
        )
    workers = list(dict.fromkeys(spans["worker"]))
    figure.update_xaxes(title="seconds since the study started")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=workers[::-1], automargin=True)
    return styled(
        figure, "timeline", max(260, 130 + 24 * len(workers)), barmode="overlay", bargap=0.25, showlegend=True
    )


def _merged(spans: pd.DataFrame, finest: float) -> pd.DataFrame:
    """Join a worker's spans with gaps below `finest`, which a screen cannot show."""
    if not len(spans):
        return spans
    ends = spans.groupby("order")["end"].cummax()
    gap = spans["start"] - ends.shift()
    begins = (gap > finest) | (spans["order"] != spans["order"].shift())
    merged = spans.groupby(begins.cumsum()).agg(
        worker=("worker", "first"), start=("start", "min"), end=("end", "max"), count=("start", "size")
    )
    merged["what"] = [counted(count, "trial") for count in merged.pop("count")]
    # A span too short for a screen is drawn at the shortest length that is visible.
    return merged.assign(end=np.maximum(merged["end"], merged["start"] + finest))


def _waiting(spans: pd.DataFrame, finest: float) -> pd.DataFrame:
    ends = spans.groupby("order")["end"].cummax()
    before = ends.shift().where(spans["order"] == spans["order"].shift())
    gaps = pd.DataFrame({"worker": spans["worker"], "start": before, "end": spans["start"], "what": ""})
    return gaps[gaps["end"] - gaps["start"] > finest]


def failures(reasons: Sequence[tuple[str, int, int]], max_reasons: int = 15) -> go.Figure:
    """The number of trials that failed or were lost, by reason, the most frequent on top."""
    if not reasons:
        return style.message("No trial has failed or been lost.")
    shown = list(itertools.islice(reasons, max_reasons))
    labels = [_short(reason or "no reason given") for reason, _, _ in shown]
    # Reasons with equal labels still get a bar each.
    keys = [f"{place}" for place in range(len(shown))]
    figure = go.Figure(
        go.Bar(
            x=[count for _, count, _ in shown],
            y=keys,
            orientation="h",
            marker={"color": STATES["failed"]},
            customdata=[[plain(reason), newest] for reason, _, newest in shown],
            hovertemplate="%{x} trials, the newest is trial %{customdata[1]}<br>%{customdata[0]}<extra></extra>",
        )
    )
    figure.update_xaxes(title="trials", rangemode="tozero")
    figure.update_yaxes(type="category", autorange="reversed", automargin=True, tickvals=keys, ticktext=labels)
    return styled(figure, "failures", 120 + 34 * len(shown))


def _short(words: str, length: int = 70) -> str:
    line = words.splitlines()[0] if words else words
    return plain(line if len(line) <= length else f"{line[: length - 1]}…")


def importance(shares: Mapping[str, float], method: str, num_trials: int) -> go.Figure:
    """The importance of each hyperparameter, as shares."""
    if not shares:
        return style.message("Importance needs at least two complete trials that differ in a hyperparameter.")
    order = sorted(shares, key=lambda name: shares[name], reverse=True)
    values = [shares[name] for name in order]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=[plain(name) for name in order],
            orientation="h",
            text=[f"{value:.1%}" for value in values],
            textposition="auto",
            marker={"color": COLORS[0]},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(
        title=f"importance by {method}, from {num_trials:,} complete trials", range=[0, 1], tickformat=".0%"
    )
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return styled(figure, "importance", 130 + 28 * len(order))


def pareto(trials: pd.DataFrame, objectives: Sequence[Mapping[str, str]], x: str, y: str) -> go.Figure:
    """Complete trials in the plane of two objectives; a line joins the Pareto front."""
    complete = trials[trials["place"].notna()].dropna(subset=[f"objectives.{x}", f"objectives.{y}"])
    if not len(complete):
        return style.message(NOTHING)
    signs = {o["name"]: -1.0 if o["direction"] == "maximize" else 1.0 for o in objectives}
    across, along = complete[f"objectives.{x}"].to_numpy(), complete[f"objectives.{y}"].to_numpy()
    front = np.array(pareto_front(np.stack([signs[x] * across, signs[y] * along], axis=1).tolist()))
    front = front[np.argsort(across[front], kind="stable")]
    rest = thinning.evenly(len(complete), thinning.MAX_POINTS)
    figure = go.Figure()
    for name, some, mode in (("trial", rest, "markers"), ("front", front, "lines+markers")):
        figure.add_scatter(
            x=across[some],
            y=along[some],
            mode=mode,
            name=name,
            marker={"color": COLORS[4 if name == "trial" else 1], "size": 6 if name == "trial" else 9},
            customdata=complete["number"].to_numpy()[some],
            hovertemplate="trial %{customdata}: %{x:.4g}, %{y:.4g}<extra></extra>",
        )
    figure.update_xaxes(title=plain(x))
    figure.update_yaxes(title=plain(y))
    return styled(figure, f"pareto {x} {y}")
