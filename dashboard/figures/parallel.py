"""Parallel coordinates of a study's trials, and their brushes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from atoll.dashboard import thinning
from atoll.dashboard.figures import style
from atoll.dashboard.figures.style import SCALE, plain, styled

MAX_TICKS = 12
MAX_LABEL = 24
Brushed = Mapping[str, Any]


@dataclass(frozen=True)
class Dimension:
    """One axis.

    Attributes:
        column: in the store.
        values: each trial's position.
        words: on a categorical axis, the words at 0, 1, 2, ...; None stands for a missing value.
        log: whether positions are powers of ten.
        missing: the position of trials without a number.
    """

    column: str
    label: str
    values: NDArray[np.float64]
    words: tuple[str | None, ...] | None = None
    log: bool = False
    missing: float | None = None

    @property
    def axis(self) -> dict[str, Any]:
        """The facts by which brushes and downloaded data are converted back to the store's units."""
        words = None if self.words is None else list(self.words)
        return {"column": self.column, "label": self.label, "words": words, "log": self.log, "missing": self.missing}

    def drawn(self, brushed: Mapping[str, Any] | None) -> dict[str, Any]:
        """The axis with its brush, as Plotly takes it."""
        axis: dict[str, Any] = {"label": plain(self.label), "values": self.values[::-1]}
        if self.words is not None:
            shown = thinning.evenly(len(self.words), MAX_TICKS)
            texts = ["none" if self.words[i] is None else _short(str(self.words[i])) for i in shown]
            axis |= {"tickvals": shown, "ticktext": texts}
            axis["range"] = [-0.25, len(self.words) - 0.75]
        elif self.log:
            low, high = self.values.min(), self.values.max()
            inside = np.arange(np.ceil(low), np.floor(high) + 1)
            ticks = inside if len(inside) else np.array([low, high])
            axis |= {"tickvals": ticks, "ticktext": [f"{10**t:.3g}" for t in ticks]}
        return axis | ({"constraintrange": self._ranges(brushed)} if brushed else {})

    def _ranges(self, brushed: Mapping[str, Any]) -> list[list[float]]:
        if self.words is not None:
            chosen = brushed.get("words", ())
            return [[place - 0.2, place + 0.2] for place, word in enumerate(self.words) if word in chosen]
        ranges = brushed.get("ranges", ())
        return [[float(np.log10(a)), float(np.log10(b))] for a, b in ranges] if self.log else [list(r) for r in ranges]


def _brushed(axis: Mapping[str, Any], limits: Sequence[Any] | None) -> dict[str, Any] | None:
    """The values within an axis's limits, in the store's units; None if it is not brushed."""
    if not limits:
        return None
    several = limits if isinstance(limits[0], list | tuple) else [limits]
    ranges = [list(map(float, limit)) for limit in several]
    if axis["words"] is not None:
        places = enumerate(axis["words"])
        return {"words": [word for place, word in places if any(a <= place <= b for a, b in ranges)]}
    return {"ranges": [[10.0**a, 10.0**b] for a, b in ranges] if axis["log"] else ranges}


def dimensions(trials: pd.DataFrame, hyperparameters: pd.DataFrame, metric: str) -> list[Dimension]:
    """The axes: hyperparameters with more than one value, and the objective."""
    names = [name for name in hyperparameters.columns if hyperparameters[name].astype(str).nunique() > 1]
    axes = [_dimension(f"hp.{name}", str(name), hyperparameters[name]) for name in names]
    objective = trials["objective"].to_numpy(dtype=float)
    return [*axes, Dimension("objective", metric, objective)]


def _dimension(column: str, label: str, values: pd.Series) -> Dimension:
    if style.is_number(values):
        numbers = pd.to_numeric(values).to_numpy(dtype=float)
        log = style.is_log(values)
        scaled = np.log10(numbers) if log else numbers
        low, high = np.nanmin(scaled), np.nanmax(scaled)
        # Trials in which a conditional hyperparameter is inactive lie below all others.
        below = low - 0.15 * ((high - low) or 1.0)
        return Dimension(column, label, np.where(np.isnan(scaled), below, scaled), log=log, missing=float(below))
    spelled = style.words(values)
    choices: list[str | None] = sorted(spelled.dropna().unique())
    if spelled.isna().any():
        choices.append(None)
    places = {choice: place for place, choice in enumerate(choices)}
    return Dimension(column, label, np.array([places[word] for word in spelled], dtype=float), tuple(choices))


def figure(
    trials: pd.DataFrame,
    axes: Sequence[Dimension],
    brushed: Brushed,
    num_complete: int,
    direction: str,
) -> go.Figure:
    """A line for each trial, colored by the objective.

    Args:
        trials: complete ones, with their objective.
        axes: of the same trials.
        brushed: brushes by column.
        num_complete: the number of complete trials, of which these may be a sample.
        direction: of the objective; the best are bright.
    """
    if not len(trials):
        return style.message("No trial is complete yet.")
    # The best are drawn last, so that they lie on top.
    objective = trials["objective"].to_numpy(dtype=float)[::-1]
    # A few outliers must not use up the color scale.
    low, high = np.nanpercentile(objective, [5, 95]) if np.isfinite(objective).any() else (0.0, 1.0)
    lines = go.Figure(
        go.Parcoords(
            dimensions=[axis.drawn(brushed.get(axis.column)) for axis in axes],
            line={
                "color": objective,
                "colorscale": SCALE,
                "reversescale": direction == "minimize",
                "cmin": low,
                "cmax": high,
                "showscale": True,
            },
            labelangle=-15,
        )
    )
    lines.update_layout(meta={"axes": [axis.axis for axis in axes]})
    styled(lines, "parallel", 480, margin={"l": 90, "r": 40, "t": 110, "b": 40})
    if len(trials) < num_complete:
        told = (
            f"{len(trials):,} of {num_complete:,} complete trials: half are the best, the rest evenly spaced by place"
        )
        lines.update_layout(title={"text": told, "font": {"size": 13}, "x": 0.01, "y": 0.97})
    return lines


def brush(axes: Sequence[Mapping[str, Any]], before: Brushed, restyled: Mapping[str, Any]) -> dict[str, Any]:
    """The brushes after an event of Plotly's, `{"dimensions[2].constraintrange": [[low, high]]}`.

    Args:
        axes: `Dimension.axis` of each axis.
        before: the brushes before it, by column.
        restyled: the event.
    """
    after = dict(before)
    for key, limits in restyled.items():
        place, _, what = key.removeprefix("dimensions[").partition("]")
        if what != ".constraintrange" or not place.isdecimal() or int(place) >= len(axes):
            continue
        axis = axes[int(place)]
        # For a single trace, Plotly sends [limits].
        chosen = _brushed(axis, limits[0] if limits and isinstance(limits[0], list | tuple) else limits)
        after.pop(axis["column"], None)
        if chosen is not None:
            after[axis["column"]] = chosen
    return after


def describe(brushed: Brushed, metric: str) -> str:
    """The brushes in words; `metric` is the objective's name."""
    parts = []
    for column, content in brushed.items():
        name = metric if column == "objective" else column.removeprefix("hp.")
        if "words" in content:
            parts.append(f"{name}: {', '.join('none' if word is None else str(word) for word in content['words'])}")
        else:
            parts.append(f"{name}: {' or '.join(f'{a:.3g} to {b:.3g}' for a, b in content['ranges'])}")
    return "; ".join(parts)


def _short(words: str) -> str:
    # Plotly shows the ticks of these axes in full.
    return words if len(words) <= MAX_LABEL else f"{words[: MAX_LABEL - 1]}…"
