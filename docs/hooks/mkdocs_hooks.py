"""MkDocs' events: fills in the generated references, and adds pages for files outside docs/ that pages link to.

The references are generated when the site is built, not committed: they cannot be stale, and a changed option or column
conflicts with nobody's. In the repository, `--help`, `atoll study-schema` and docstrings say the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.plugins import event_priority
from outside import PREFIX, Outside
from references import filled

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_texts: dict[str, str] = {}
_trees: list[tempfile.TemporaryDirectory[str]] = []


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show griffe the folders as the package that they are when installed; it reads the sources and imports nothing."""
    _trees.append(tree := tempfile.TemporaryDirectory(prefix="atoll-docs-"))
    _link_package(Path(tree.name) / "atoll")
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [tree.name]
    return config


def _link_package(package: Path) -> None:
    """Like `.mypy_path`, but with an `__init__.py` in platform/, which griffe needs and Python must not find."""
    package.mkdir()
    for entry in (ROOT / ".mypy_path/atoll").iterdir():
        (package / entry.name).symlink_to(entry.resolve())
    (package / "platform").unlink()
    (package / "platform").mkdir()
    (package / "platform/__init__.py").touch()
    for entry in (ROOT / "platform").iterdir():
        (package / "platform" / entry.name).symlink_to(entry)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Prepare all pages, and add those of files outside docs/."""
    from mkdocs.structure.files import File

    outside = Outside(ROOT, Path(config.docs_dir))
    for page in _in_nav(config.nav):
        if page.startswith(f"{PREFIX}/"):
            outside.add(ROOT / page.removeprefix(f"{PREFIX}/"))
    _texts.clear()
    for file in files.documentation_pages():
        text = filled(file.src_uri, file.content_string)
        _texts[file.src_uri] = outside.with_links(text, (outside.docs / file.src_uri).parent, file.src_uri)
    for page, text in outside.pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def _in_nav(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry or ()
    return [page for inner in entries for page in _in_nav(inner)]


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """The text that `on_files` has prepared."""
    return _texts.get(page.file.src_uri, markdown)


def on_shutdown() -> None:
    """Remove what `on_config` made."""
    for tree in _trees:
        tree.cleanup()
    _trees.clear()
