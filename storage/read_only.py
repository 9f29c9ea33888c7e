"""Opens SQLite files for reading: the file, its schema and its journal mode stay as they are."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL


def reading_url(url: URL) -> URL:
    """The URL that opens an existing SQLite file for reading.

    Readers of a file in WAL mode share an index in a file next to it. Where none can be made, such as on a read-only
    mount, the file is opened as immutable, unless changes that are still in its -wal file would be missed.
    """
    file = Path(str(url.database)).absolute()
    query = {"mode": "ro", "uri": "true"}
    if not os.access(file.parent, os.W_OK) and not _has_changes(file):
        query["immutable"] = "1"
    return url.set(database=f"file:{quote(str(file))}", query=url.query | query)


def copy_of(url: URL, folder: Path) -> URL:
    """Copy the SQLite file of a read-only URL into `folder`; returns the copy's URL."""
    options = "&".join(f"{name}={url.query[name]}" for name in ("mode", "immutable") if name in url.query)
    copy = folder / "store.db"
    with (
        closing(sqlite3.connect(f"{url.database}?{options}", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return URL.create("sqlite", database=str(copy))


def _has_changes(file: Path) -> bool:
    log = file.with_name(f"{file.name}-wal")
    return log.exists() and log.stat().st_size > 0
