"""What a reader can set on a study's page: one list, from which its address, callbacks and layout follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import dash_mantine_components as dmc
from dash import Input, html

from atoll.analysis import importance
from atoll.dashboard import components, table, tabs
from atoll.dashboard.figures import study as figures


@dataclass(frozen=True)
class View:
    """What a study's page can show, and what its address asks for.

    Attributes:
        query: of the address.
        hyperparameters: the study's, by name.
        objectives: the study's, by name.
    """

    query: Mapping[str, str]
    hyperparameters: Sequence[str]
    objectives: Sequence[str]

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """The address's choice for `key` if it is one of `choices`. Default: the first."""
        asked = self.query.get(key)
        return asked if asked is not None and asked in choices else choices[0]

    @property
    def tabs(self) -> dict[str, str]:
        """Names and titles of the tabs; a Pareto front needs several objectives."""
        return {name: title for name, title in tabs.TABS.items() if name != "pareto" or len(self.objectives) > 1}

    @property
    def tab(self) -> str:
        """The tab in front."""
        return self.choice("tab", list(self.tabs))

    @property
    def shown(self) -> list[str]:
        """Hyperparameters that are columns of the table."""
        asked = [str(name) for name in components.parsed(self.query.get("shown"), [])]
        return [name for name in asked if name in self.hyperparameters] or list(self.hyperparameters[: table.MAX_SHOWN])


@dataclass(frozen=True)
class Control:
    """Something that a reader can set.

    Attributes:
        key: in the address.
        input: the component's property that holds its value.
        redraws: whether a change draws the figure anew.
        build: the component beside the figure's title; None for one that stands elsewhere on the page.
        tabs: on which `build`'s component is visible.
    """

    key: str
    input: Input
    redraws: bool = False
    build: Callable[[View], Any] | None = None
    tabs: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The id of the box around the component beside the figure's title."""
        return f"study-{self.key}-control"


def _against(view: View) -> dmc.Select:
    axes = list(figures.AXES)
    return components.choice("study-against", "against", axes, view.choice("against", axes))


def _method(view: View) -> dmc.Select:
    methods = get_args(importance.Method)
    return components.choice("study-method", "importance by", methods, view.choice("method", methods))


def _axis(view: View, key: str, label: str, place: int) -> dmc.Select:
    """The axis at `place`, 0 or 1: an objective if the study has several, or a hyperparameter."""
    several = len(view.objectives) > 1
    axes = [{"group": "hyperparameters", "items": list(view.hyperparameters)}]
    if several:
        others = [name for name in view.objectives if name not in view.hyperparameters]
        axes.append({"group": "objectives", "items": others})
    defaults = [*(view.objectives if several else view.hyperparameters), None, None]
    chosen = view.query.get(key) or defaults[place]
    return components.choice(f"study-{key}", label, axes, chosen, searchable=True)


def _clear_brushes(_view: View) -> dmc.Button:
    return dmc.Button("Clear brushes", id="study-unbrush", size="compact-xs", variant="default")


CONTROLS = (
    Control("tab", Input("study-tab", "value"), redraws=True),
    Control("against", Input("study-against", "value"), redraws=True, build=_against, tabs=("best",)),
    Control("method", Input("study-method", "value"), redraws=True, build=_method, tabs=("importance",)),
    Control(
        "x",
        Input("study-x", "value"),
        redraws=True,
        build=lambda view: _axis(view, "x", "horizontal", 0),
        tabs=("contour", "pareto"),
    ),
    Control(
        "y",
        Input("study-y", "value"),
        redraws=True,
        build=lambda view: _axis(view, "y", "vertical", 1),
        tabs=("contour", "pareto"),
    ),
    Control("shown", Input("study-shown", "value"), redraws=True),
    # The figure shows brushes by itself: drawing it anew while a reader drags would end the brush.
    Control("brush", Input("study-brush", "data"), build=_clear_brushes, tabs=("parallel",)),
    Control("filter", Input("study-grid", "filterModel")),
    Control("sort", Input("study-sort", "data")),
    Control("trials", Input("study-chosen", "data")),
)
ADDRESS = {control.key: control.input for control in CONTROLS}
DRAWING = {control.key: control.input for control in CONTROLS if control.redraws}
BESIDE_FIGURE = [control for control in CONTROLS if control.build is not None]


def beside_figure(view: View) -> list[html.Div]:
    """The components beside the figure's title; the browser shows those of the tab in front."""
    return [
        html.Div([control.build(view)], id=control.place, className="control")
        for control in CONTROLS
        if control.build is not None
    ]
