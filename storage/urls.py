"""A store's URL: what is accepted, and how it is shown, never with a password."""

from __future__ import annotations

import os
import re
import shlex

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

FORMS = "a store's URL is like sqlite:///atoll.db or postgresql://user@host/database, or a file, like results.db"
_HIDDEN = "***"
# In a connection string of libpq, given as the database: SQLAlchemy quotes it.
_IN_CONNECTION_STRING = re.compile(r"(password(?:\s|%20)*(?:=|%3D))(?:(?!%20)[^&\s])+", re.IGNORECASE)
_POSTGRESQL = ("postgres", "postgresql")  # psycopg is the driver that atoll[postgres] installs


def parse(text: str) -> URL:
    """The URL of a store; a file's name with a dot or a slash stands for a SQLite file.

    Raises:
        ValueError: for anything else, and for databases that are not supported. The message shows only the beginning,
            as no part of a mistyped URL is certain not to be its password.
    """
    if "://" not in text:
        if not re.search(r"[./]", text) or re.search(r"//|[:@?=]", text):
            raise ValueError(f"{FORMS}; got {_beginning(text)}")
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the latter for a port that is no number, which may be a password
        raise ValueError(f"{FORMS}; got {_beginning(text)}") from None
    if url.drivername in _POSTGRESQL:
        url = url.set(drivername="postgresql+psycopg")
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError(f"a store is in SQLite (sqlite:///file.db) or in PostgreSQL (postgresql://...); got {backend}")
    if backend == "sqlite" and (url.host or url.username or url.password or url.port):
        raise ValueError("a SQLite file's URL has three slashes and then its name, or four and an absolute path")
    return url


def absolute(url: URL) -> URL:
    """The URL whose SQLite file stays the same if user code changes the working directory."""
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    if not is_file or str(url.database).startswith("file:"):
        return url
    return url.set(database=os.path.abspath(str(url.database)))


def shown(url: URL) -> str:
    """The URL without its passwords, also those in its query."""
    query = {name: _HIDDEN if "password" in name.lower() else value for name, value in url.query.items()}
    text = url.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", _HIDDEN)
    return _IN_CONNECTION_STRING.sub(rf"\1{_HIDDEN}", text)


def option(url: URL, found: URL) -> str:
    """The option that names a store in a printed command, without passwords; empty if the command finds it anyway.

    Args:
        url: the store.
        found: the one that commands find without the option.
    """
    return "" if url == found else f" --store {shlex.quote(shown(url))}"


def _beginning(text: str) -> str:
    """A text's first word."""
    word = re.match(r"\w*[+\w]*(:?//?)?", text)
    assert word is not None
    return repr(f"{word.group()}...")
