"""Commands that import studies from elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from atoll.platform.commands.shared import JsonOption, StoreOption, app, print_json, store_flag

importing = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Import a study from elsewhere, to read it, to compare with it, and to learn from it.",
)
app.add_typer(importing, name="import")


@importing.callback()
def _group() -> None:
    """With a callback, a group of one command stays a group."""


@importing.command(epilog="Example: atoll import optuna sqlite:///optuna.db mine")
def optuna(
    url: Annotated[
        str, typer.Argument(help="The Optuna storage: a database's URL, a SQLite file, or a JournalStorage's file.")
    ],
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="The study's name there. Default: the only one.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The study's name in the store. Default: the same.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import an Optuna study into the store; it can be read and learned from, but not resumed."""
    from dataclasses import asdict

    from atoll.platform.launch.lifecycle import store_url
    from atoll.storage.optuna_import import import_from_optuna
    from atoll.storage.store import Store

    imported = import_from_optuna(Store(store_url(store)), url, study, name)
    if as_json:
        print_json(asdict(imported))
        return
    counts = ", ".join(f"{count} {state}" for state, count in sorted(imported.counts.items())) or "no trials"
    left_out = f", without {imported.num_left_out} that are running or waiting" if imported.num_left_out else ""
    print(f"imported {imported.name}: {counts}{left_out}")
    print(f"to see it: atoll leaderboard {imported.name}{store_flag(store)}")
