"""What reports consist of: a page without external files, its tables and its figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from atoll.analysis import formatting
from atoll.analysis.formatting import MISSING_ON_PAGES
from atoll.storage.models import StudyRow
from atoll.storage.store import Store

# Plotly's "Share chart" would upload the figure to a server of its own.
_CONFIG = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}


@dataclass(frozen=True)
class Table:
    """A titled table; columns whose titles are in `numbers` are aligned to the right."""

    title: str
    caption: str
    columns: list[str]
    rows: list[list[str]]
    numbers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        title, description, verdict: its head.
        notes: warnings below it.
        tables, figures, appendix: its parts in order; a figure has a title and a caption.
        listings: texts by title, such as commands.
    """

    title: str
    description: str
    verdict: str
    notes: Sequence[str]
    tables: Sequence[Table]
    figures: Iterable[tuple[str, str, go.Figure]]
    appendix: Sequence[Table]
    listings: Mapping[str, str]


def html(report: Report) -> str:
    """The page; it loads nothing from elsewhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(resources.files("atoll.dashboard").joinpath("templates/report.html").read_text())
    sections = [
        {"title": title, "caption": caption, "figure": embedded(figure)} for title, caption, figure in report.figures
    ]
    return template.render(report=report, sections=sections, plotly=Markup(get_plotlyjs()), show=show)


def embedded(figure: go.Figure) -> Markup:
    """A figure as a part of a page that has plotly.js."""
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG))


def show(table: Table) -> Markup:
    """A table as escaped HTML; empty if it has no rows."""
    if not table.rows:
        return Markup("")
    kinds = [Markup(' class="number"') if column in table.numbers else "" for column in table.columns]
    cell = Markup("<{}{}>{}</{}>")
    head = Markup("").join(cell.format("th", k, c, "th") for k, c in zip(kinds, table.columns, strict=True))
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(cell.format("td", k, value, "td") for k, value in zip(kinds, row, strict=True))
        )
        for row in table.rows
    )
    page = '<h2>{}</h2><p class="caption">{}</p><div class="scroll"><table><tr>{}</tr>{}</table></div>'
    return Markup(page).format(table.title, table.caption, head, body)


def number(value: float | None, unit: float = 1.0) -> str:
    """A number as a table shows it, in units of `unit`; a missed target is infinite."""
    if value is None or math.isnan(value):
        return MISSING_ON_PAGES
    if math.isinf(value):
        return "∞" if value > 0 else "–∞"
    return formatting.number(value / unit)


def hardware(store: Store, studies: Iterable[StudyRow]) -> Table:
    """The hosts and devices of studies."""
    rows: dict[tuple[str, ...], None] = {}
    for study in studies:
        for host in store.hosts(study):
            of = (host.hostname, host.device.partition(":")[0], host.processor or MISSING_ON_PAGES, number(host.cores))
            rows[(*of, str(host.threads))] = None
    columns = ["host", "device", "processor", "cores", "threads per rank"]
    return Table("Hardware", "", columns, [list(row) for row in rows])


def versions(configurations: Iterable[Mapping[str, Any]]) -> Table:
    """Versions of the packages that the results depend on, as the trials' configurations name them."""
    packages: dict[tuple[str, str], None] = {}
    for configuration in configurations:
        packages |= dict.fromkeys(configuration.get("versions", {}).items())
    return Table("Versions", "", ["package", "version"], [list(row) for row in packages])
