"""Trials as the figures take them, and what a figure shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go


def trials(objectives, states=None, **columns) -> pd.DataFrame:
    """Trials of a second each on one worker, one after another; None as an objective is a failed trial."""
    n = len(objectives)
    frame = pd.DataFrame(
        {
            "number": range(n),
            "island": 0,
            "worker": 0,
            "state": states or ["complete" if o is not None else "failed" for o in objectives],
            "objective": np.array(objectives, dtype=float),
            "seconds": 1.0,
            "wire_bytes": 1e6,
            "started": 100.0 + 2.0 * np.arange(n),
            "finished": 101.0 + 2.0 * np.arange(n),
        }
    )
    return frame.assign(place=frame["objective"].rank(method="first"), **columns)


def words(figure: go.Figure) -> str:
    """The text of its annotations."""
    return " ".join(a.text for a in figure.layout.annotations)


def trace(figure: go.Figure, name: str):
    """Its trace of this name."""
    (found,) = [t for t in figure.data if t.name == name]
    return found


# Numbers on a logarithmic axis, words, numbers with a gap, and a constant.
HYPERPARAMETERS = pd.DataFrame(
    {
        "lr": [1e-4, 1e-2, 1e-3, 1.0],
        "wire": ["a", "b", "a", None],
        "B": [1.0, 2.0, np.nan, 4.0],
        "fixed": [7, 7, 7, 7],
    }
)
