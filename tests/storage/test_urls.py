"""Stores' URLs: what is accepted, and that no password is ever shown."""

import pytest

from atoll.storage.store import Store, StoreError
from atoll.storage.urls import parse, shown


@pytest.mark.parametrize(
    ("text", "driver", "database"),
    [
        ("sqlite:///a.db", "sqlite", "a.db"),
        ("sqlite:////x/a.db", "sqlite", "/x/a.db"),
        ("file.db", "sqlite", "file.db"),
        ("./results/file.db", "sqlite", "./results/file.db"),
        ("my file.db", "sqlite", "my file.db"),
        ("/x/file", "sqlite", "/x/file"),
        ("postgres://u@h/d", "postgresql+psycopg", "d"),
        ("postgresql://u@h/d", "postgresql+psycopg", "d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg", "d"),
    ],
)
def test_files_and_both_databases_are_understood(text, driver, database):
    url = parse(text)
    assert (url.drivername, url.database) == (driver, database)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "oracle", "mssql+pyodbc", "http"])
def test_other_databases_are_named(scheme):
    with pytest.raises(StoreError, match=rf"in SQLite .* or in PostgreSQL .*; got {scheme.split('+')[0]}$"):
        Store(f"{scheme}://user:SECRET@127.0.0.1:1/x")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:SECRET@h/d",
        "postgresql://u@h/d?password=SECRET",
        "postgresql://u@h/d?sslmode=require&PASSWORD=SECRET&sslpassword=SECRET",
        "postgresql://u@h/d?pass%77ord=SECRET",
        "postgresql://u@h/d?password=SECRET&password=SECRET",
        "postgresql:///dbname=d password=SECRET",
        "sqlite:///a.db?password=SECRET",
    ],
)
def test_passwords_are_hidden_wherever_they_stand(text):
    assert "SECRET" not in shown(parse(text))
    assert "***" in shown(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "postgres//x:SECRET/db",
        "postgresql:/u:SECRET@h/d",
        "postgresql:u:SECRET@h/d",
        "u:SECRET@h/d",
        "host=h password=SECRET",
        "file.db?password=SECRET",
        "postgresql://u:SECRET/d",
        "://SECRET",
        "sqlite://SECRET@h/a.db",
    ],
)
def test_a_mistyped_url_is_refused_without_showing_it(text):
    with pytest.raises(
        StoreError, match=r"URL (is like sqlite:///atoll.db or postgresql|has three slashes)"
    ) as refused:
        Store(text)
    assert "SECRET" not in str(refused.value)
    assert refused.value.__cause__ is None
