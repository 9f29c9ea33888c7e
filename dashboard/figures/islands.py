"""Figures of the islands: populations, migrations, diversity, and an individual's ancestors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from atoll.analysis.formatting import parent as parent_name
from atoll.dashboard import thinning
from atoll.dashboard.figures import style
from atoll.dashboard.figures.style import COLORS, SCALE, plain, styled

WINDOW = 20  # individuals, about the size of a population
MAX_MOMENTS = 60  # at which diversity is measured, on each island
MAX_NUMBERED = 60  # individuals of a family tree that have their numbers beside them


@dataclass(frozen=True)
class Relative:
    """An individual of a family tree: its parents, and the operator that bred it."""

    number: int
    island: int
    operator: str
    parents: tuple[int, ...]
    objective: float | None


def populations(trials: pd.DataFrame, metric: str, direction: str, started: float) -> go.Figure:
    """Each island's best individual so far, and the median of its newest complete ones, over time."""
    complete = trials[trials["state"].eq("complete") & trials["objective"].notna()].sort_values("finished")
    if not len(complete):
        return style.message("No individual is complete yet.")
    figure = go.Figure()
    for index, (island, own) in enumerate(complete.groupby("island")):
        color = COLORS[index % len(COLORS)]
        objective, x = own["objective"], (own["finished"] - started).to_numpy()
        best = (objective.cummax() if direction == "maximize" else objective.cummin()).to_numpy()
        median = objective.rolling(WINDOW, min_periods=1).median().to_numpy()
        lines = (("best", best, thinning.changes(best)), ("median", median, thinning.extremes(median, 600)))
        for name, values, shown in lines:
            figure.add_scatter(
                x=x[shown],
                y=values[shown],
                mode="lines",
                line={
                    "color": color,
                    "width": 2 if name == "best" else 1,
                    "shape": "hv" if name == "best" else "linear",
                },
                opacity=1.0 if name == "best" else 0.6,
                name=f"island {island}" if name == "best" else f"median of the {WINDOW} newest",
                legendgroup=str(island),
                showlegend=name == "best",
                hovertemplate=f"island {island}, {name}: %{{y:.4g}} after %{{x:.1f}} s<extra></extra>",
            )
    figure.update_xaxes(title="seconds since the study started")
    figure.update_yaxes(title=plain(metric))
    return styled(figure, "populations")


def migrations(flows: Mapping[tuple[int, int], int], islands: Iterable[int]) -> go.Figure:
    """The number of individuals sent from each island to each other island."""
    order = sorted({*islands, *(i for pair in flows for i in pair)})
    if not flows:
        return style.message("No individual has migrated." if len(order) > 1 else "With one island, nothing migrates.")
    places = {island: place for place, island in enumerate(order)}
    colors = [COLORS[place % len(COLORS)] for place in range(len(order))]
    shaded = [f"rgba({','.join(str(int(c[i : i + 2], 16)) for i in (1, 3, 5))},0.45)" for c in colors]
    figure = go.Figure(
        go.Sankey(
            arrangement="fixed",
            node={
                "label": [f"from island {i}" for i in order] + [f"to island {i}" for i in order],
                "color": colors * 2,
                "x": [0.02] * len(order) + [0.98] * len(order),
                "y": [(place + 0.5) / len(order) for place in range(len(order))] * 2,
                "pad": 18,
                "thickness": 16,
            },
            link={
                "source": [places[a] for a, _ in flows],
                "target": [len(order) + places[b] for _, b in flows],
                "value": list(flows.values()),
                "color": [shaded[places[a]] for a, _ in flows],
                "hovertemplate": "%{value:.0f} individuals %{source.label} %{target.label}<extra></extra>",
            },
        )
    )
    return styled(figure, "migrations", max(300, 120 + 60 * len(order)))


def diversity(lines: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> go.Figure:
    """The diversity of each island over time; `lines` holds (seconds, mean distance) by island."""
    shown = {island: line for island, line in lines.items() if len(line[0])}
    if not shown:
        return style.message("Diversity needs at least two individuals on an island.")
    figure = go.Figure()
    for index, (island, (x, y)) in enumerate(shown.items()):
        figure.add_scatter(
            x=list(x),
            y=list(y),
            mode="lines+markers",
            marker={"size": 4},
            line={"color": COLORS[index % len(COLORS)]},
            name=f"island {island}",
            hovertemplate=f"island {island}: %{{y:.3f}} after %{{x:.1f}} s<extra></extra>",
        )
    figure.update_xaxes(title="seconds since the study started")
    figure.update_yaxes(title=f"mean distance of the {WINDOW} newest", rangemode="tozero")
    return styled(figure, "diversity")


def moments(trials: pd.DataFrame) -> dict[int, list[NDArray[np.int64]]]:
    """The rows of the newest individuals at each moment at which diversity is measured, by island."""
    windows: dict[int, list[NDArray[np.int64]]] = {}
    for island, rows in trials.sort_values("started").groupby("island").groups.items():
        places = np.asarray(rows)
        ends = np.unique(np.linspace(2, len(places), MAX_MOMENTS).astype(int)) if len(places) > 1 else []
        windows[int(str(island))] = [places[max(0, end - WINDOW) : end] for end in ends]
    return windows


def mean_distance(hyperparameters: pd.DataFrame, whole: Mapping[str, tuple[float, float, bool]]) -> float:
    """Gower's (1971) distance, averaged over all pairs of individuals: 0 if all are equal, at most 1.

    Args:
        hyperparameters: a row for each individual, at least two.
        whole: low, high and whether the scale is logarithmic for each numeric hyperparameter; others are categories.
    """
    n = len(hyperparameters)
    pairs = np.triu_indices(n, 1)
    distances = []
    for name in hyperparameters.columns:
        if name in whole:
            low, high, log = whole[name]
            values = pd.to_numeric(hyperparameters[name], errors="coerce").to_numpy(dtype=float)
            scaled = (np.log10(values) if log else values) / ((high - low) or 1.0)
            distances.append(np.abs(scaled[pairs[0]] - scaled[pairs[1]]))
        else:
            codes = pd.factorize(style.words(hyperparameters[name]))[0]
            distances.append((codes[pairs[0]] != codes[pairs[1]]).astype(float))
    return float(np.nanmean(np.stack(distances))) if distances else 0.0


def extents(hyperparameters: pd.DataFrame) -> dict[str, tuple[float, float, bool]]:
    """The range of each numeric hyperparameter for `mean_distance`, in powers of ten if logarithmic."""
    ranges = {}
    for name in hyperparameters.columns:
        values = hyperparameters[name]
        if style.is_number(values):
            log, numbers = style.is_log(values), pd.to_numeric(values).astype(float)
            low, high = float(numbers.min()), float(numbers.max())
            ranges[str(name)] = (float(np.log10(low)), float(np.log10(high)), True) if log else (low, high, False)
    return ranges


@dataclass(frozen=True)
class Tree:
    """Where each individual of a family tree stands.

    Attributes:
        x: from left to right, by trial number.
        depth: how many generations back, by trial number.
        edges: (parent, child) by trial number.
        width: of the widest generation, in individuals.
    """

    x: dict[int, float]
    depth: dict[int, int]
    edges: list[tuple[int, int]]
    width: int

    @property
    def num_generations(self) -> int:
        """How many rows the tree has."""
        return len(set(self.depth.values()))


def layout_tree(relatives: Mapping[int, Relative], number: int) -> Tree:
    """Place an individual at the bottom and its ancestors above, each generation in a centered row by trial number."""
    depth = _depths(relatives, number)
    rows: dict[int, list[int]] = defaultdict(list)
    for relative in sorted(depth):
        rows[depth[relative]].append(relative)
    width = max(len(row) for row in rows.values())
    x = {relative: (place + 0.5) * width / len(row) for row in rows.values() for place, relative in enumerate(row)}
    edges = [(parent, child) for child in depth for parent in relatives[child].parents if parent in depth]
    return Tree(x, depth, edges, width)


def family_tree(relatives: Mapping[int, Relative], number: int, metric: str) -> go.Figure:
    """An individual and its ancestors: lines lead from parents to children, founders are on top."""
    if number not in relatives:
        return style.message(f"The study has no trial {number}.")
    tree = layout_tree(relatives, number)
    figure = go.Figure([_family_lines(tree), _family_dots(tree, relatives, number, metric)])
    figure.update_xaxes(visible=False, range=[-0.2, tree.width + 0.6])
    figure.update_yaxes(title="generations back", dtick=max(1, tree.num_generations // 10))
    return styled(figure, f"family {number}", min(900, 160 + 70 * tree.num_generations))


def _family_lines(tree: Tree) -> go.Scatter:
    """All lines as one trace, with a gap after each."""
    x: list[float | None] = []
    y: list[float | None] = []
    for parent, child in tree.edges:
        x += [tree.x[parent], tree.x[child], None]
        y += [tree.depth[parent], tree.depth[child], None]
    line = {"color": COLORS[6], "width": 1}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _family_dots(tree: Tree, relatives: Mapping[int, Relative], number: int, metric: str) -> go.Scatter:
    """The individuals, colored by objective; a star for `number`."""
    family = [relatives[relative] for relative in tree.depth]
    is_chosen = [relative.number == number for relative in family]
    return go.Scatter(
        x=[tree.x[relative.number] for relative in family],
        y=[tree.depth[relative.number] for relative in family],
        mode="markers+text" if len(family) <= MAX_NUMBERED else "markers",
        text=[str(relative.number) for relative in family],
        textposition="middle right",
        marker={
            "size": [18 if chosen else 11 for chosen in is_chosen],
            "color": [np.nan if relative.objective is None else relative.objective for relative in family],
            "colorscale": SCALE,
            "showscale": True,
            "colorbar": {"title": plain(metric)},
            "symbol": ["star" if chosen else "circle" for chosen in is_chosen],
            "line": {"width": 1, "color": "#888"},
        },
        customdata=[
            [relative.number, relative.island, plain(relative.operator), _parents(relative), _objective(relative)]
            for relative in family
        ],
        hovertemplate="trial %{customdata[0]}, island %{customdata[1]}: %{customdata[4]}<br>%{customdata[2]}"
        "<br>parents: %{customdata[3]}<extra></extra>",
        showlegend=False,
    )


def _parents(relative: Relative) -> str:
    return ", ".join(map(str, relative.parents)) or "none (a founder)"


def _objective(relative: Relative) -> str:
    return "no objective" if relative.objective is None else f"{relative.objective:.4g}"


def _depths(relatives: Mapping[int, Relative], number: int) -> dict[int, int]:
    """How many generations back each ancestor is, by the longest path; a parent's number is below its child's."""
    depth = {number: 0}
    for child in sorted(relatives, reverse=True):
        if child in depth:
            for parent in relatives[child].parents:
                if parent in relatives:
                    depth[parent] = max(depth.get(parent, 0), depth[child] + 1)
    return depth


def gene_sources(sources: Mapping[str, object]) -> Counter[str]:
    """The number of genes from each parent or operator."""
    return Counter(parent_name(source) if isinstance(source, int) else str(source) for source in sources.values())
