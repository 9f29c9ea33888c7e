"""The pages, one module each: `page`, which lays it out as its address says, and `register`, which adds its callbacks.

`PAGES` is the one place where a page is added: the app imports, routes and links what it lists.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """A page of the dashboard.

    Attributes:
        name: of its module in this package.
        path: its address under the base path.
        title: in the browser's tab.
        link: its name in the navigation; None for a page that other pages link to.
    """

    name: str
    path: str
    title: str
    link: str | None = None

    @property
    def module(self) -> str:
        """The name to import the page by."""
        return f"{__name__}.{self.name}"


PAGES = (
    Page("studies", "/", "Studies", link="Studies"),
    Page("study", "/study", "Study"),
    Page("islands", "/islands", "Islands"),
    Page("trial", "/trial", "Trial"),
    Page("compare", "/compare", "Compare", link="Compare methods"),
    Page("projection", "/projection", "Projection", link="Projection"),
    Page("export", "/export", "Export", link="Export"),
)
