"""Commands that list methods, workloads and search spaces, and that check the installation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atoll.platform.commands.shared import JsonOption, StoreOption, app, print_json, print_table
from atoll.platform.exit_codes import FAILURE


@app.command(epilog="Example: atoll methods daso")
def methods(
    name: Annotated[str | None, typer.Argument(help="A method's name.")] = None, as_json: JsonOption = False
) -> None:
    """List the training methods, or describe one in detail."""
    from atoll.platform.commands import catalogue

    _show_catalogue(catalogue.methods(), catalogue.method, name, as_json)


@app.command(epilog="Example: atoll workloads digits_mlp")
def workloads(
    name: Annotated[str | None, typer.Argument(help="A workload's name.")] = None, as_json: JsonOption = False
) -> None:
    """List the workloads, or describe one in detail."""
    from atoll.platform.commands import catalogue

    _show_catalogue(catalogue.workloads(), catalogue.workload, name, as_json)


@app.command(epilog="Example: atoll spaces daso")
def spaces(
    name: Annotated[str | None, typer.Argument(help="A method's name.")] = None, as_json: JsonOption = False
) -> None:
    """List the search spaces, or every parameter of one method's space."""
    from atoll.platform.commands import catalogue

    _show_catalogue(catalogue.spaces(), catalogue.space, name, as_json)


def _show_catalogue(entries: Any, describe: Any, name: str | None, as_json: bool) -> None:
    from atoll.analysis import formatting
    from atoll.platform.commands import display

    if name is None:
        if as_json:
            print_json(entries)
        else:
            for key, summary in entries.items():
                print(f"{key:20} {summary}")
        return
    description = describe(name)
    if as_json:
        print_json(description)
        return
    for key, value in description.items():
        if isinstance(value, list):
            columns = list(value[0]) if value else []
            print_table(display.table(key, columns, [[formatting.number(row[c]) for c in columns] for row in value]))
        else:
            print(f"{key}: {value}")


@app.command(epilog="Example: atoll doctor --ranks 2")
def doctor(
    ranks: Annotated[int, typer.Option(help="Number of ranks to start.", min=1)] = 2,
    data: Annotated[str | None, typer.Option(help="Folder with the data files. Default: ATOLL_DATA.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check MPI, GPUs, store, data and clocks, and suggest fixes."""
    from dataclasses import asdict

    from atoll.platform.commands import doctor as examiner
    from atoll.platform.launch import lifecycle

    findings = examiner.examine(lifecycle.store_url(store), data, ranks)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    for finding in [] if as_json else findings:
        print(f"{'ok ' if finding.ok else 'FIX'} {finding.check}: {finding.found}")
        if not finding.ok and finding.advice:
            print(f"    {finding.advice}")
    raise typer.Exit(0 if all(f.ok or f.check.startswith("data of") for f in findings) else FAILURE)


@app.command("study-schema", epilog="Example: atoll study-schema > study.schema.json")
def study_schema(as_json: JsonOption = True) -> None:
    """Print the JSON schema of the study file, for editors."""
    from atoll.platform.study.study import Study

    print_json(Study.model_json_schema())
