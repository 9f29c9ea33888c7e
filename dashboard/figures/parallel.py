"""Parallel coordinates of a study's trials, and what is brushed in them."""

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
        column: of the store.
        values: where each trial is on it.
        words: what lies at 0, 1, 2, ... where it is an axis of words; None is what is missing.
        log: whether numbers are powers of ten.
        missing: where trials without a number are.
    """

    column: str
    label: str
    values: NDArray[np.float64]
    words: tuple[str | None, ...] | None = None
    log: bool = False
    missing: float | None = None

    @property
    def axis(self) -> dict[str, Any]:
        """What a reader's brush, and a file of the data, need to know of the axis that was drawn."""
        words = None if self.words is None else list(self.words)
        return {"column": self.column, "label": self.label, "words": words, "log": self.log, "missing": self.missing}

    def drawn(self, brushed: Mapping[str, Any] | None) -> dict[str, Any]:
        """As plotly wants it, with what is brushed."""
        found: dict[str, Any] = {"label": plain(self.label), "values": self.values[::-1]}
        if self.words is not None:
            shown = thinning.evenly(len(self.words), MAX_TICKS)
            texts = ["none" if self.words[i] is None else _short(str(self.words[i])) for i in shown]
            found |= {"tickvals": shown, "ticktext": texts}
            found["range"] = [-0.25, len(self.words) - 0.75]
        elif self.log:
            low, high = self.values.min(), self.values.max()
            inside = np.arange(np.ceil(low), np.floor(high) + 1)
            ticks = inside if len(inside) else np.array([low, high])
            found |= {"tickvals": ticks, "ticktext": [f"{10**t:.3g}" for t in ticks]}
        return found | ({"constraintrange": self._ranges(brushed)} if brushed else {})

    def _ranges(self, brushed: Mapping[str, Any]) -> list[list[float]]:
        if self.words is not None:
            chosen = brushed.get("words", ())
            return [[place - 0.2, place + 0.2] for place, word in enumerate(self.words) if word in chosen]
        ranges = brushed.get("ranges", ())
        return [[float(np.log10(a)), float(np.log10(b))] for a, b in ranges] if self.log else [list(r) for r in ranges]


def _brushed(axis: Mapping[str, Any], limits: Sequence[Any] | None) -> dict[str, Any] | None:
    """What the limits of an axis choose, in the store's units; None where it is not brushed."""
    if not limits:
        return None
    ranges = [list(map(float, one)) for one in (limits if isinstance(limits[0], list | tuple) else [limits])]
    if axis["words"] is not None:
        places = enumerate(axis["words"])
        return {"words": [word for place, word in places if any(a <= place <= b for a, b in ranges)]}
    return {"ranges": [[10.0**a, 10.0**b] for a, b in ranges] if axis["log"] else ranges}


def dimensions(trials: pd.DataFrame, hyperparameters: pd.DataFrame, metric: str) -> list[Dimension]:
    """The axes: hyperparameters of more than one value, and the objective."""
    names = [name for name in hyperparameters.columns if hyperparameters[name].astype(str).nunique() > 1]
    found = [_dimension(f"hp.{name}", str(name), hyperparameters[name]) for name in names]
    objective = trials["objective"].to_numpy(dtype=float)
    return [*found, Dimension("objective", metric, objective)]


def _dimension(column: str, label: str, values: pd.Series) -> Dimension:
    if style.is_number(values):
        numbers = pd.to_numeric(values).to_numpy(dtype=float)
        log = style.is_log(values)
        scaled = np.log10(numbers) if log else numbers
        low, high = np.nanmin(scaled), np.nanmax(scaled)
        # Where it is conditional, what is missing lies below what is there.
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
        brushed: by column.
        num_complete: of how many trials these are a sample.
        direction: of the objective; the best are bright.
    """
    if not len(trials):
        return style.message("No trial is complete yet.")
    # What is drawn last lies on top: the best.
    objective = trials["objective"].to_numpy(dtype=float)[::-1]
    # A few that went astray must not take all the colors.
    low, high = np.nanpercentile(objective, [5, 95]) if np.isfinite(objective).any() else (0.0, 1.0)
    found = go.Figure(
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
    found.update_layout(meta={"axes": [axis.axis for axis in axes]})
    styled(found, "parallel", 480, margin={"l": 90, "r": 40, "t": 110, "b": 40})
    if len(trials) < num_complete:
        told = f"{len(trials):,} of {num_complete:,} complete trials: the best half of these, the rest evenly by place"
        found.update_layout(title={"text": told, "font": {"size": 13}, "x": 0.01, "y": 0.97})
    return found


def brush(axes: Sequence[Mapping[str, Any]], before: Brushed, restyled: Mapping[str, Any]) -> dict[str, Any]:
    """What is brushed after an event of plotly's, `{"dimensions[2].constraintrange": [[low, high]]}`.

    Args:
        axes: those that were drawn, `Dimension.axis` of each.
        before: by column.
        restyled: the event.
    """
    after = dict(before)
    for key, limits in restyled.items():
        place, _, what = key.removeprefix("dimensions[").partition("]")
        if what != ".constraintrange" or not place.isdecimal() or int(place) >= len(axes):
            continue
        axis = axes[int(place)]
        # Of one trace plotly tells [limits].
        chosen = _brushed(axis, limits[0] if limits and isinstance(limits[0], list | tuple) else limits)
        after.pop(axis["column"], None)
        if chosen is not None:
            after[axis["column"]] = chosen
    return after


def describe(brushed: Brushed, metric: str) -> str:
    """What is brushed, in words; `metric` is the objective's name."""
    parts = []
    for column, content in brushed.items():
        name = metric if column == "objective" else column.removeprefix("hp.")
        if "words" in content:
            parts.append(f"{name}: {', '.join('none' if word is None else str(word) for word in content['words'])}")
        else:
            parts.append(f"{name}: {' or '.join(f'{a:.3g} to {b:.3g}' for a, b in content['ranges'])}")
    return "; ".join(parts)


def _short(words: str) -> str:
    # Ticks of these axes are shown as they are.
    return words if len(words) <= MAX_LABEL else f"{words[: MAX_LABEL - 1]}…"
