"""Pages of the site for files outside docs/ that a page links to, so that links work in the repository and on the site.

A Markdown file becomes a page, any other text a page with its lines, a folder a list of its files. All are found by
following the links, and lie under `repository/` with the path that they have in the repository.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\()(?!\w+:)([^)#\s]*)((?:#[^)\s]*)?\))")
PREFIX = "repository"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".cff": "yaml", ".toml": "toml", ".bib": "bibtex"}


class Outside:
    """The pages for files outside docs/.

    Args:
        root: the repository's folder.
        docs: the folder of the site's own pages, in it.
    """

    def __init__(self, root: Path, docs: Path) -> None:
        self.root, self.docs = root.resolve(), docs.resolve()
        self.pages: dict[str, str] = {}

    def page_of(self, path: Path) -> str:
        """The page of a file or folder in the repository, as a path on the site; of a file in docs/, the file."""
        path = path.resolve()
        if path.is_relative_to(self.docs):
            return path.relative_to(self.docs).as_posix()
        inner = path.relative_to(self.root)
        if path.is_dir():
            return f"{PREFIX}/{inner.as_posix()}/index.md"
        return f"{PREFIX}/{inner.as_posix()}" + ("" if path.suffix == ".md" else ".md")

    def add(self, path: Path) -> None:
        """Make the page of a file or folder, and those of all that it links to."""
        page = self.page_of(path)
        if page in self.pages or path.resolve().is_relative_to(self.docs):
            return
        self.pages[page] = ""  # it may link to itself
        if path.is_dir():
            readme, names = path / "README.md", sorted(entry.name for entry in path.iterdir() if shown(entry))
            listing = "\n".join(f"- [{name}]({name})" for name in names)
            text = readme.read_text() if readme.exists() else f"# {path.relative_to(self.root)}/\n\n{listing}\n"
        elif path.suffix == ".md":
            text = path.read_text()
        else:
            fence = f"````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n````\n"
            text = f"# {path.relative_to(self.root)}\n\n{fence}"
        folder = path if path.is_dir() else path.parent
        self.pages[page] = self.with_links(text, folder, page)

    def with_links(self, text: str, folder: Path, page: str) -> str:
        """A page's text with its links as the site needs them; makes the pages of what they lead to.

        Args:
            text: the Markdown.
            folder: of the file in the repository, from which its links start.
            page: the path of the page on the site.
        """
        start = os.path.dirname(page)

        def led(link: re.Match[str]) -> str:
            before, target, rest = link.groups()
            path = (folder / target).resolve()
            if not target or not path.exists() or not path.is_relative_to(self.root):
                return link.group()
            self.add(path)
            return before + os.path.relpath(self.page_of(path), start or ".") + rest

        return _outside_code(text, lambda part: LINK.sub(led, part))


def shown(entry: Path) -> bool:
    """Whether a folder's page lists an entry."""
    return entry.is_file() and not entry.name.startswith(".") and entry.suffix not in (".pyc", ".npz")


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with the parts between fenced blocks changed."""
    parts = re.split(r"(^(`{3,})[^\n]*\n.*?^\2 *$)", text, flags=re.MULTILINE | re.DOTALL)
    # Two groups: text, block, its fence, text, block, ...
    return "".join(change(part) if place % 3 == 0 else part for place, part in enumerate(parts) if place % 3 != 2)
