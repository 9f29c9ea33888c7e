"""Commands that list methods, workloads and search spaces, and that check the installation."""

from __future__ import annotations

from pathlib import Path
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
            if not value:
                continue
            columns = list(value[0])
            print_table(display.table(key, columns, [[formatting.number(row[c]) for c in columns] for row in value]))
        else:
            print(f"{key}: {value}")


@app.command(epilog="Example: atoll doctor --hosts")
def doctor(
    ranks: Annotated[
        int | None, typer.Option(help="Number of ranks to start. Default: 2, or with --hosts 2 on each.", min=1)
    ] = None,
    hosts: Annotated[
        bool,
        typer.Option("--hosts", help="Examine all hosts of the allocation: software, study folder, clocks, links."),
    ] = False,
    workload: Annotated[
        list[str] | None, typer.Option(help="Look for the data of a workload, too. May be repeated.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Look for the data of all workloads, or of those named, in this folder.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check MPI, GPUs, clocks and store, and suggest fixes."""
    from dataclasses import asdict

    from atoll.platform.commands import doctor as examiner
    from atoll.platform.launch import lifecycle

    url = lifecycle.store_url(store)
    findings = examiner.examine(url, ranks, data=data, workloads=workload or [], hosts=hosts)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    for finding in [] if as_json else findings:
        print(f"{'ok ' if finding.ok else 'FIX'} {finding.check}: {finding.found}")
        if not finding.ok and finding.advice:
            print(f"    {finding.advice}")
    is_well = all(f.ok or (not workload and f.advice == examiner.FOR_ONE_WORKLOAD) for f in findings)
    raise typer.Exit(0 if is_well else FAILURE)


@app.command("measure-cluster", epilog="Example: atoll measure-cluster -o mine.yaml")
def measure_cluster(
    output: Annotated[Path | None, typer.Option("-o", help="The cluster file to write. Default: print it.")] = None,
    name: Annotated[str | None, typer.Option(help="The cluster's name. Default: that of the first host.")] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(help="Ranks per node in projections. Default: a host's GPUs, or 2.", min=1)
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Number of ranks to start, where the launcher puts them. Default: some on each host.", min=2),
    ] = None,
) -> None:
    """Measure latency and bandwidth within and between the hosts of the allocation, for projections."""
    import yaml

    from atoll.platform.launch import measured_cluster
    from atoll.storage.files import write_whole

    if output is not None and output.exists():
        raise typer.BadParameter(f"-o must be a new file; {output} exists")
    cluster = measured_cluster.measure(name, ranks_per_node, ranks)
    text = yaml.safe_dump(cluster.model_dump(), sort_keys=False, allow_unicode=True, width=110)
    if output is None:
        print(text, end="")
    else:
        write_whole(output, text)
        print(f"wrote {output}: {cluster.description}")


@app.command("study-schema", epilog="Example: atoll study-schema > study.schema.json")
def study_schema(as_json: JsonOption = True) -> None:
    """Print the JSON schema of the study file, for editors."""
    from atoll.platform.study.study import Study

    print_json(Study.model_json_schema())
