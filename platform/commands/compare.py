"""Commands that compare methods: benchmarks, reports, projections, scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atoll.platform.commands.console import plain_console
from atoll.platform.commands.shared import (
    AcceptOption,
    JsonOption,
    NoCheckOption,
    StoreOption,
    app,
    check_accepted,
    given_flags,
    open_store,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from atoll.platform.benchmark.benchmark_file import Benchmark
    from atoll.storage.models import BenchmarkRow, StudyRow
    from atoll.storage.store import Store


@app.command(epilog="Example: atoll benchmark tiny")
def benchmark(
    file: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help="A benchmark file, or the name of a bundled benchmark.")
    ],
    scale: Annotated[str | None, typer.Option(help="A reduced version that the file defines, such as small.")] = None,
    name: Annotated[str | None, typer.Option(help="The benchmark's name. Default: the file's.")] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="WORKLOAD,...", help="Only these of the file's workloads. Default: all."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**30,
            help="From which the seeds of all trials follow, such as to repeat one. Default: the file's.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the data files. Default: the file's, or ATOLL_DATA.")
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Allow the benchmark file to refer to code outside its folder.")
    ] = False,
    show: Annotated[
        bool,
        typer.Option("--show", help="Print what each entry trains and searches, with all settings; start nothing."),
    ] = False,
    no_check: NoCheckOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped benchmark.")] = False,
    accept_changes: AcceptOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune methods on workloads with equal budgets, confirm on test data with new seeds, and compare the methods."""
    from dataclasses import asdict

    from atoll.platform.benchmark import benchmark_file as benchmarks
    from atoll.platform.benchmark import runner
    from atoll.platform.commands import live_search
    from atoll.platform.launch import errors, extras, join, lifecycle

    extras.require_search_extra()
    if show and resume:
        raise typer.BadParameter("--show starts nothing: leave out --resume")
    if not show:
        extras.require_analysis_extra()
    check_accepted(accept_changes, resume)
    changes = given_flags({"name": name, "seed": seed, "data": None if data is None else str(data.absolute())})
    definition = benchmarks.load(file, scale, changes, inside=not outside)
    if only is not None:
        definition = _part_of(definition, only)
    if show:
        _show_definition(definition, as_json)
        return
    if join.inside_mpi(max(definition.ranks_of(method) for method in definition.methods)):
        raise errors.LaunchError("`atoll benchmark` starts its own ranks: run it without mpirun or srun")
    url = lifecycle.store_url(store)
    console = plain_console(stderr=as_json)
    ending = runner.run(
        definition,
        url,
        resuming=resume,
        accept_changes=accept_changes,
        checks_batches=not no_check,
        say=lambda line: console.print(line, markup=False),
        follow=lambda plan: live_search.of(console, plan),
    )
    if ending.unrecorded:
        print("the store is incomplete; to finish, repeat the command with --resume", file=sys.stderr)
    if as_json:
        print_json({"benchmark": definition.name, **asdict(ending)})
    elif ending.state == "stopped":
        print("stopped; to continue, repeat the command with --resume")
    elif not ending.unrecorded:
        _show_comparison(definition.name, store)
    raise typer.Exit(ending.exit_code)


def _part_of(definition: Benchmark, workloads: str) -> Benchmark:
    try:
        return definition.only([name.strip() for name in workloads.split(",")])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _show_definition(definition: Benchmark, as_json: bool) -> None:
    from dataclasses import asdict

    from atoll.platform.benchmark.resolved import resolve
    from atoll.platform.commands import benchmark_view

    entries = resolve(definition)
    if as_json:
        settings = definition.model_dump(mode="json", include={"name", "description", "seed", "tuning", "confirmation"})
        print_json(settings | {"entries": [asdict(entry) for entry in entries]})
        return
    for line in benchmark_view.lines(definition, entries):
        print(line)


def _show_comparison(name: str, store: str | None) -> None:
    from atoll.analysis.comparison import compare
    from atoll.platform.commands import display

    opened = open_store(store)
    comparison = compare(opened, opened.benchmark(name))
    print_table(display.comparison(comparison))
    for line in (*comparison.notes, comparison.verdict):
        print(line)
    print(f"`atoll report {name} -o report.html` writes the full report")


@app.command(epilog="Example: atoll report quickstart -o report.html")
def report(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY|BENCHMARK",
            help="A study's or benchmark's name. Default: the newest benchmark; without one, the newest study.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", help="HTML file to write.")] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="CSV file to write: a row for each trial of a study, or for each confirmation of a benchmark, which "
            "`atoll score` reads."
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report of a study or a benchmark: a self-contained HTML page, a CSV table, or JSON."""
    from atoll.storage.models import BenchmarkRow

    opened = open_store(store)
    has_default = name is None and opened.benchmarks()
    row = opened.benchmark() if has_default else opened.study() if name is None else opened.subject(name)
    if isinstance(row, BenchmarkRow):
        _report_benchmark(opened, row, output, csv, store, as_json)
    else:
        _report_study(opened, row, output, csv, store, as_json)
    if not as_json:
        for written in filter(None, (output, csv)):
            print(f"wrote {written}")


def _report_benchmark(
    opened: Store, row: BenchmarkRow, output: Path | None, csv: Path | None, store: str | None, as_json: bool
) -> None:
    from atoll.platform.launch import extras

    extras.require_analysis_extra()
    from atoll.analysis import confirmations
    from atoll.analysis.comparison import compare
    from atoll.storage.files import write_whole

    if as_json:
        print_json(compare(opened, row).as_dict())
    if csv is not None:
        write_whole(csv, confirmations.to_csv(confirmations.read(opened, row)))
    if output is not None:
        from atoll.dashboard import report as reporting

        write_whole(output, reporting.html(opened, row))
    if not as_json and output is None and csv is None:
        _show_comparison(row.name, store)


def _report_study(
    opened: Store, row: StudyRow, output: Path | None, csv: Path | None, store: str | None, as_json: bool
) -> None:
    from atoll.analysis import leaderboard, tables
    from atoll.platform.commands import leaderboard_view
    from atoll.results.reading import StudyResults
    from atoll.storage.files import write_whole
    from atoll.storage.liveness import true_counts, true_state_of

    results = StudyResults(opened, row)
    if as_json:
        print_json(results.summary())
    if csv is not None:
        write_whole(csv, tables.to_csv(results.trials()))
    if output is not None:
        results.report(output)
    if not as_json and output is None and csv is None:
        (summary,) = opened.studies(row.id)
        counts = true_counts(summary.counts, true_state_of(row))
        leaderboard_view.show(row, leaderboard.best(opened, row, 10), counts, store=store)
        print(f"`atoll report {row.name} -o report.html` writes the full report")


@app.command(epilog="Example: atoll project tiny --cluster a100_hdr200 --nodes 1,2,4,...,64")
def project(
    name: Annotated[str, typer.Argument(metavar="STUDY|BENCHMARK", help="A study's or benchmark's name.")],
    cluster: Annotated[str, typer.Option(help="A cluster file, or the name of a bundled cluster.")],
    nodes: Annotated[str, typer.Option(help="Node counts.")] = "1,2,4,...,256",
    scaling: Annotated[
        Literal["weak", "strong"],
        typer.Option(
            help="weak: fixed per-rank batch and epochs to target; strong: fixed global batch and steps to target."
        ),
    ] = "weak",
    speed: Annotated[
        float | None,
        typer.Option(min=0.0, help="A rank's speed relative to the measured rank. Default: the cluster's."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict each method's step time, epoch time and time to target on a described cluster, and store them."""
    from dataclasses import asdict

    from atoll.analysis import clusters as reading
    from atoll.analysis import projection
    from atoll.platform.commands import display
    from atoll.platform.launch import extras
    from atoll.storage.export import plain

    extras.require_analysis_extra()
    where, scales = reading.cluster(cluster, speed), reading.nodes(nodes)
    opened = open_store(store, writes=True)
    subject = opened.subject(name)
    projected = projection.project_all(opened, subject, where, scales, scaling)
    opened.save_projections(projected.trial_ids, where.name, scaling, projected.rows)
    predictions = [
        p for p in projection.predictions(opened, subject) if (p.cluster, p.scaling) == (where.name, scaling)
    ]
    if as_json:
        content = {
            "cluster": where.model_dump(),
            "predictions": [asdict(p) for p in predictions],
            "left_out": projected.left_out,
        }
        print_json(plain(content))
        return
    print_table(display.predictions(predictions))
    for line in display.prediction_notes(predictions, projected.left_out):
        print(line)


@app.command(epilog="Example: atoll recommend --workload digits_cnn --cluster cloud_25gbe --nodes 8")
def recommend(
    workload: Annotated[str, typer.Option(help="A workload that a benchmark in the store has confirmed.")],
    cluster: Annotated[str, typer.Option(help="A cluster file, or the name of a bundled cluster.")],
    nodes: Annotated[int, typer.Option(min=1, help="The number of its nodes.")],
    scaling: Annotated[
        Literal["weak", "strong"],
        typer.Option(
            help="weak: fixed per-rank batch and epochs to target; strong: fixed global batch and steps to target."
        ),
    ] = "weak",
    speed: Annotated[
        float | None,
        typer.Option(min=0.0, help="A rank's speed relative to the measured rank. Default: the cluster's."),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="The benchmark's name. Default: the newest one that confirms the workload.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend a method for a workload on a cluster, from a benchmark's results, and say how surely."""
    from atoll.analysis import clusters as reading
    from atoll.platform.commands import display
    from atoll.platform.launch import extras

    extras.require_analysis_extra()
    from atoll.analysis import recommendation
    from atoll.storage import yamlfile

    where = reading.cluster(cluster, speed)
    if nodes > reading.MAX_NODES:
        raise typer.BadParameter(f"--nodes must be at most {reading.MAX_NODES}; got {nodes}")
    is_measured = cluster not in yamlfile.names(reading.FOLDER)
    found = recommendation.recommend(
        open_store(store), workload, where, nodes, scaling, benchmark=benchmark, is_measured=is_measured
    )
    if as_json:
        print_json(found.as_dict())
        return
    if found.contenders:
        print_table(display.contenders(found))
    for line in display.recommendation_notes(found):
        print(line)


@app.command(epilog="Example: atoll score times.csv --variants cifar10=cifar10_narrow")
def score(
    file: Annotated[Path, typer.Argument(metavar="TIMES.csv", help="A table with one row per tuning trial.")],
    variants: Annotated[
        str, typer.Option(metavar="BASE=VARIANT,...", help="Held-out variants of base workloads.")
    ] = "",
    measure: Annotated[
        Literal["seconds", "passes"],
        typer.Option(help="The column to score: seconds, or passes where ranks shared cores."),
    ] = "seconds",
    by: Annotated[
        Literal["time", "index"],
        typer.Option(
            help="How to choose a study's fastest trial: by what is scored, or by evaluation index as in AlgoPerf's "
            "code."
        ),
    ] = "time",
    integral: Annotated[
        Literal["exact", "trapezoid"],
        typer.Option(help="How to integrate the performance profile; AlgoPerf's code uses trapezoids."),
    ] = "exact",
    as_json: JsonOption = False,
) -> None:
    """Score methods by their times to target, as MLCommons AlgoPerf does, with confidence intervals of their ranks."""
    from dataclasses import asdict

    from atoll.analysis import score as scoring
    from atoll.platform.commands import display

    times = scoring.gather(scoring.read(file, measure), scoring.pairs(variants), by)
    rows = scoring.compare(times, integral)
    if as_json:
        content = {"measure": measure, "by": by, "integral": integral, "workloads": times.bases}
        print_json(content | {"methods": [asdict(row) for row in rows]})
        return
    print_table(display.scores(rows, times.bases))
    print(scoring.verdict(rows))
