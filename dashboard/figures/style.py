"""What all figures share: colors, margins, and the two themes."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence

import dash_mantine_components as dmc
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from atoll.analysis import importance

# Paul Tol's bright scheme: distinct for color-blind readers, on light and dark backgrounds.
COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
STATES = {
    "training": COLORS[0],
    "complete": COLORS[0],
    "pruned": COLORS[3],
    "continued": COLORS[2],
    "failed": COLORS[1],
    "running": COLORS[4],
    "waiting": COLORS[6],
    "lost": COLORS[5],
}
SCALE = "Viridis"
HEIGHT = 400

Place = dict[str, int]  # of a panel: row and col, from 1

dmc.add_figure_templates()


def styled(figure: go.Figure, key: str, height: int = HEIGHT, **more: object) -> go.Figure:
    """Set the common layout; the same `key` keeps zoom and hidden traces when new data arrive."""
    # Names may be numbers.
    figure.update_xaxes(autotypenumbers="strict").update_yaxes(autotypenumbers="strict")
    layout = {"height": height, "margin": {"l": 70, "r": 20, "t": 40, "b": 60}, "uirevision": key}
    layout |= {"legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}
    return figure.update_layout(**layout | more)


def themed(figure: go.Figure, theme: str | None) -> go.Figure:
    """In the page's theme, light or dark."""
    template = pio.templates["mantine_dark" if theme == "dark" else "mantine_light"]
    return figure.update_layout(template=template, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")


def message(words: str) -> go.Figure:
    """A message in place of a figure that has nothing to show."""
    figure = go.Figure()
    figure.add_annotation(
        text=plain(words), showarrow=False, font={"size": 14}, x=0.5, y=0.5, xref="paper", yref="paper"
    )
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return styled(figure, "message", 200)


def plain(words: object) -> str:
    """Text with HTML escaped, as Plotly interprets some of it."""
    return html.escape(str(words), quote=False)


def panels(titles: Sequence[str], columns: int = 3, row_height: int = 260) -> tuple[go.Figure, list[Place], int]:
    """A figure of panels, the place of each, and its height."""
    columns = max(1, min(columns, len(titles)))
    rows = max(1, math.ceil(len(titles) / columns))
    gaps = {"vertical_spacing": 0.28 / rows, "horizontal_spacing": 0.18 / columns}
    figure = make_subplots(rows, columns, subplot_titles=[plain(title) for title in titles], **gaps)
    places = [{"row": 1 + index // columns, "col": 1 + index % columns} for index in range(len(titles))]
    return figure, places, 90 + row_height * rows


def bottom(places: Sequence[Place]) -> list[Place]:
    """The panels in the last row of their column."""
    return [place for place in places if {**place, "row": place["row"] + 1} not in places]


def is_number(values: pd.Series) -> bool:
    """Whether all present values are numbers; booleans count as words."""
    known = values.dropna()
    return len(known) > 0 and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in known)


def is_log(values: pd.Series) -> bool:
    """Whether numbers are easier to read on a logarithmic axis."""
    return importance.is_log(pd.to_numeric(values, errors="coerce").dropna().to_numpy(dtype=float))


def words(values: pd.Series) -> pd.Series:
    """Values as words, booleans as in JSON; None for a missing value."""
    return pd.Series([word(value) for value in values], index=values.index, name=values.name, dtype=object)


def labels(values: pd.Series) -> pd.Series:
    """Values as words for axes, which would interpret HTML."""
    return words(values).map(lambda value: value if value is None else plain(value))


def word(value: object) -> str | None:
    """A value as a word; None if it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else json.dumps(value)
