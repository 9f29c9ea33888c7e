"""The application, common options, and printing: shared by all commands."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import atoll
from atoll.analysis.formatting import counted
from atoll.platform.commands.console import plain_console

if TYPE_CHECKING:
    from rich.table import Table

    from atoll.storage.store import Store


# The commands in the order in which a user needs them, as `atoll --help` lists them.
GROUPS = {
    "Begin": ("quickstart", "doctor", "methods", "workloads", "spaces", "study-schema"),
    "Search": ("check", "search", "follow", "join", "change", "stop"),
    "Read results": ("studies", "leaderboard", "trial", "failures", "logs", "table", "report", "dashboard"),
    "Use the best": ("export", "train"),
    "Compare methods": ("benchmark", "recommend", "score", "project", "measure-cluster"),
    "Batch systems": ("submit", "jobs"),
    "Keep the store": ("record", "import", "delete"),
}


class Overview(TyperGroup):
    """The application's help: its commands by group."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, and one for commands that are in none."""
        shown = {name for name, command in self.commands.items() if not command.hidden}
        others = sorted(shown.difference(*GROUPS.values()))
        widest = max(map(len, shown))
        for title, names in (*GROUPS.items(), ("Others", others)):
            rows = [
                (name.ljust(widest), self.commands[name].get_short_help_str(formatter.width - 6 - widest))
                for name in names
                if name in shown
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


app = typer.Typer(
    cls=Overview,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search hyperparameters of distributed training methods with islands of multi-rank MPI workers.",
)


def store_flag(url: str | None) -> str:
    """The option that names a store in printed commands; empty if they find it without. Passwords are hidden."""
    from atoll.storage.store import DEFAULT_URL
    from atoll.storage.urls import option, parse

    found = parse(os.environ.get("ATOLL_STORE") or DEFAULT_URL)
    return option(found if url is None else parse(url), found)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"atoll {atoll.__version__}")
        raise typer.Exit


@app.callback()
def common_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `atoll` itself."""


StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="The store's URL, or a SQLite file. Default: ATOLL_STORE, or sqlite:///atoll.db."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]

AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: continue although code, data or library versions have changed, and record a new version.",
    ),
]

NoCheckOption = Annotated[
    bool,
    typer.Option("--no-check", help="Start without first taking one batch through the workload. Default: check."),
]

Name = Annotated[str | None, typer.Argument(help="The study's name. Default: the newest study.")]


def check_accepted(accept_changes: bool, resume: bool) -> None:
    """Raise BadParameter for --accept-changes without --resume."""
    if accept_changes and not resume:
        raise typer.BadParameter("--accept-changes needs --resume")


def make_console() -> Console:
    """A console as wide as the terminal, or wide enough for whole tables without a terminal."""
    console = plain_console()
    return console if console.is_terminal else plain_console(width=400)


def print_table(table: Table, *, wide: bool = False) -> None:
    """Print a table; without a terminal, omit its box. A wide one may have lines longer than the terminal's."""
    console = make_console()
    if not console.is_terminal:
        table.box = None
    elif wide:
        console.width = 10_000
    console.print(table)


LONG_LIST = 1000


def print_json(content: object) -> None:
    """Print JSON to standard output, each entry of a long list on a line: indenting takes Python's slow encoder."""
    if isinstance(content, list) and len(content) > LONG_LIST:
        print("[", ",\n".join(json.dumps(entry, default=str) for entry in content), "]", sep="\n")
    else:
        print(json.dumps(content, indent=2, default=str))


def hide_password(url: str) -> str:
    """A store's URL with its passwords masked."""
    from atoll.storage.urls import parse, shown

    return shown(parse(url))


def open_store(url: str | None, *, writes: bool = False) -> Store:
    """Open the existing store of --store or ATOLL_STORE, or the default store; only for reading, unless `writes`."""
    from atoll.platform.launch.lifecycle import store_url
    from atoll.storage.store import Store

    return Store(store_url(url), create=False, read_only=not writes)


def told_interrupted(study: str, state: str, num_ended: int) -> str:
    """A sentence on a study whose launcher died; see `lifecycle.end_interrupted`."""
    left = f" and left {counted(num_ended, 'running rank')}, now ended" if num_ended else ""
    return f"the launcher of {study} died{left}; the study is now {state}"


def given_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """The options that were set."""
    return {key: value for key, value in flags.items() if value is not None}
