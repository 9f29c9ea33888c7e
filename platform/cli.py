"""The command line: parses and calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from atoll.platform.launch import Ending
    from atoll.platform.study import Study
    from atoll.storage.store import Store

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search the hyperparameters of distributed training methods with islands of multi-rank MPI workers.",
)

StoreOption = Annotated[str | None, typer.Option("--store", help="URL of the store, such as sqlite:///atoll.db")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Name = Annotated[str | None, typer.Argument(help="A study's name; the newest study unless given.")]

USAGE, FAILURE = 2, 1


def main() -> NoReturn:
    """Run a command; known errors become one message and an exit code."""
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", style="red", markup=False)
        raise SystemExit(code) from None
    raise SystemExit(0)


def _exit_code(error: Exception) -> int | None:
    from sqlalchemy.exc import DBAPIError

    from atoll.platform.launch import LaunchError
    from atoll.storage.lock import Locked
    from atoll.storage.store import StoreError
    from atoll.storage.yamlfile import FileError

    if isinstance(error, FileError):
        return USAGE
    if isinstance(error, StoreError | LaunchError | Locked | DBAPIError | OSError):
        return FAILURE
    return USAGE if isinstance(error, ValueError) else None


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=400)


def _print(table: Table) -> None:
    console = _console()
    if not console.is_terminal:
        table.box = None
    console.print(table)


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2, default=str))


def _hide_password(url: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


def _open_store(url: str | None) -> Store:
    from atoll.platform.launch import store_url
    from atoll.storage.store import Store

    return Store(store_url(url), create=False)


@app.command(epilog="Example: atoll quickstart")
def quickstart(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Search DASO's hyperparameters on handwritten digits: 4 MPI ranks, about a minute."""
    from atoll.platform import launch
    from atoll.platform import quickstart as quick

    launch.require_search_extra()
    study = quick.study(launch.free_name("quickstart", launch.store_url(store)))
    code = _search(study, store, resuming=False, as_json=as_json)
    if code == 0:
        file = launch.study_folder(study).exports / "best.yaml"
        _write_export(study.name, 1, file, store)
        if not as_json:
            option = f" --store {_hide_password(store)}" if store else ""
            print(f"\nThe best configuration is in {file}; train it again with\n    atoll train {file}")
            print(f"Look at all trials in the browser with\n    atoll dashboard{option}")
    raise typer.Exit(code)


@app.command(epilog="Example: atoll search --method daso --workload digits_mlp --trials 40 --islands 2 --ranks 2")
def search(
    file: Annotated[Path | None, typer.Argument(metavar="[STUDY.yaml]", help="The study file.")] = None,
    method: Annotated[str | None, typer.Option(help="A method, in place of a study file.")] = None,
    workload: Annotated[str | None, typer.Option(help="A workload, in place of a study file.")] = None,
    trials: Annotated[int | None, typer.Option(help="Budget: trials to evaluate.")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name.")] = None,
    islands: Annotated[int | None, typer.Option(help="Islands.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers per island.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks per worker.")] = None,
    ranks_per_node: Annotated[int | None, typer.Option(help="Ranks of a worker that count as one node.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data per trial.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the study.")] = None,
    sampler: Annotated[str | None, typer.Option(help="A sampler's name, with its own defaults.")] = None,
    observe: Annotated[
        int | None, typer.Option(help="Compare each layer with itself so many epochs before; off unless given.")
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Let the study file name code outside its folder.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study that was stopped.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search hyperparameters over MPI, from a study file or from flags, which go before the file."""
    from atoll.platform import launch

    launch.require_search_extra()
    topology = {"islands": islands, "workers": workers, "ranks": ranks, "ranks_per_node": ranks_per_node}
    flags: dict[str, Any] = {"method": method, "workload": workload, "trials": trials, "name": name}
    flags |= {"epochs": epochs, "seed": seed, "observe": observe}
    flags |= {"sampler": None if sampler is None else {"name": sampler}}
    study = _study(file, _given(flags), _given(topology), inside=not outside)
    raise typer.Exit(_search(study, store, resuming=resume, as_json=as_json))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}


def _study(file: Path | None, flags: dict[str, Any], topology: dict[str, Any], *, inside: bool) -> Study:
    from atoll.platform.study import Study
    from atoll.storage import yamlfile

    if file is None:
        missing = [f"--{key}" for key in ("method", "workload") if key not in flags]
        if missing:
            raise yamlfile.FileError(
                f"a search needs a study file, or --method and --workload; {missing[0]} is not given"
            )
        flags.setdefault("name", "-".join(flags[key].rpartition(":")[2] for key in ("method", "workload")))
        return yamlfile.validate(flags | {"topology": topology}, Study, source="options", folder=Path.cwd())
    study = yamlfile.load(file, Study, inside=inside)
    if not flags and not topology:
        return study
    content = study.model_dump(exclude_unset=True)
    content |= flags | {"topology": content.get("topology", {}) | topology}
    return yamlfile.validate(content, Study, source=f"{file} with options", folder=file.parent)


def _search(study: Study, store: str | None, *, resuming: bool, as_json: bool) -> int:
    from atoll.platform import checks, display, join, launch, supervise

    url = launch.store_url(store, study)
    checks.check(study)
    if join.inside_mpi(study.topology.shape().world_size):
        ended = join.join(study, url, resuming=resuming)
        if isinstance(ended, launch.Ending):
            _show_ending(study, url, ended, as_json)
            return ended.exit_code
        return ended
    shape = study.topology.shape()
    console = Console(stderr=as_json, highlight=False)
    console.print(f"{study.name}: {study.method} on {study.workload}, {shape} = {shape.world_size} ranks")
    with display.LiveSearch(console, study.name, *study.aim(), study.trials) as live:
        ending = supervise.search(study, url, resuming=resuming, follow=live)
    _show_ending(study, url, ending, as_json)
    return ending.exit_code


def _show_ending(study: Study, url: str, ending: Ending, as_json: bool) -> None:
    from atoll.platform import display, launch
    from atoll.storage.export import trial_as_dict

    folder = launch.study_folder(study).path
    if not ending.recorded:
        print(f"the store does not hold everything yet; finish with `atoll record {folder}`", file=sys.stderr)
        return
    from atoll.analysis import leaderboard as ranking

    store = _open_store(url)
    row = store.study(study.name, launch.uid(launch.study_folder(study)))  # it may be called otherwise by now
    best = ranking.best(store, row, 10)
    if as_json:
        said = {"study": study.name, "state": ending.state, "reason": ending.reason, "folder": str(folder)}
        _print_json(said | {"best": trial_as_dict(best[0]) if best else None})
        return
    _print(display.leaderboard(row, best))
    summary = next(s for s in store.studies() if s.study.id == row.id)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(summary.counts.items()))
    print(f"{ending.state}: {counts}; {len(store.migrations(row))} migrations; stored in {store}; files in {folder}")
    if ending.reason:
        print(ending.reason)
    if ending.exit_code == launch.EXIT_STOPPED:
        print("go on with the same command and --resume")


@app.command(epilog="Example: atoll benchmark tiny")
def benchmark(
    file: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A benchmark file, or the name of a bundled one.")],
    scale: Annotated[str | None, typer.Option(help="One of the file's own reduced forms, such as small.")] = None,
    name: Annotated[str | None, typer.Option(help="The benchmark's name, in place of the file's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data files.")] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Let the benchmark file name code outside its folder.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a benchmark that was stopped.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune methods on workloads with equal budgets, confirm with fresh seeds on test data, and compare."""
    from dataclasses import asdict

    from atoll.platform import benchmark as benchmarks
    from atoll.platform import display, join, launch, protocol

    launch.require_search_extra()
    launch.require_analysis_extra()
    changes = _given({"name": name, "data": None if data is None else str(data.absolute())})
    found = benchmarks.load(file, scale, changes, inside=not outside)
    if join.inside_mpi(max(found.ranks_of(method) for method in found.methods)):
        raise launch.LaunchError("`atoll benchmark` starts its ranks itself: call it without mpirun or srun")
    url = launch.store_url(store)
    console = Console(stderr=as_json, highlight=False)
    ending = protocol.run(
        found,
        url,
        resuming=resume,
        say=lambda line: console.print(line, markup=False),
        follow=lambda study: display.LiveSearch(console, study.name, *study.aim(), study.trials),
    )
    if ending.unrecorded:
        print("the store does not hold everything yet; finish with the same command and --resume", file=sys.stderr)
    if as_json:
        _print_json({"benchmark": found.name, **asdict(ending)})
    elif ending.state == "stopped":
        print("stopped; go on with the same command and --resume")
    elif not ending.unrecorded:
        _show_comparison(found.name, store)
    raise typer.Exit(ending.exit_code)


def _show_comparison(name: str, store: str | None) -> None:
    from atoll.analysis.comparison import compare
    from atoll.platform import display

    opened = _open_store(store)
    comparison = compare(opened, opened.benchmark(name))
    _print(display.comparison(comparison))
    for line in (*comparison.notes, comparison.verdict):
        print(line)
    print(f"`atoll report {name} -o report.html` writes the whole report")


@app.command(epilog="Example: atoll report tiny -o report.html")
def report(
    name: Annotated[str | None, typer.Argument(metavar="BENCHMARK", help="The newest unless given.")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="File of the HTML page.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="File of a table with every confirmation, which `atoll score` reads.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a benchmark's report: one HTML page that holds all it needs, a CSV table, or JSON."""
    from atoll.platform import launch

    launch.require_analysis_extra()
    from atoll.analysis import confirmations
    from atoll.analysis.comparison import compare

    opened = _open_store(store)
    row = opened.benchmark(name)
    if as_json:
        _print_json(compare(opened, row).as_dict())
    if csv is not None:
        csv.write_text(confirmations.to_csv(confirmations.read(opened, row)), encoding="utf-8")
    if output is not None:
        from atoll.dashboard import report as reporting

        output.write_text(reporting.html(opened, row), encoding="utf-8")
    if not as_json:
        for written in filter(None, (output, csv)):
            print(f"wrote {written}")
        if output is None and csv is None:
            _show_comparison(row.name, store)


@app.command(epilog="Example: atoll project tiny --cluster a100_hdr200 --nodes 1,2,4,...,64")
def project(
    name: Annotated[str, typer.Argument(metavar="STUDY|BENCHMARK", help="The name of a study or benchmark.")],
    cluster: Annotated[str, typer.Option(help="A cluster file, or the name of a bundled one.")],
    nodes: Annotated[str, typer.Option(help="Numbers of nodes.")] = "1,2,4,...,256",
    scaling: Annotated[
        Literal["weak", "strong"],
        typer.Option(
            help="Weak keeps the samples of a rank and the epochs to the target, strong the global batch and the steps."
        ),
    ] = "weak",
    speed: Annotated[
        float | None,
        typer.Option(min=0.0, help="How fast a rank computes, over the measured one; the cluster's unless given."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict step, epoch and time to target of each method on a described cluster, and keep the predictions."""
    from dataclasses import asdict

    from atoll.analysis import clusters as reading
    from atoll.analysis import projection
    from atoll.platform import display, launch
    from atoll.storage.export import plain

    launch.require_analysis_extra()
    where, scales = reading.cluster(cluster, speed), reading.nodes(nodes)
    opened = _open_store(store)
    subject = opened.subject(name)
    found = projection.project_all(opened, subject, where, scales, scaling)
    opened.save_projections(found.trial_ids, where.name, scaling, found.rows)
    made = [p for p in projection.predictions(opened, subject) if (p.cluster, p.scaling) == (where.name, scaling)]
    if as_json:
        content = {"cluster": where.model_dump(), "predictions": [asdict(p) for p in made], "left_out": found.left_out}
        _print_json(plain(content))
        return
    _print(display.predictions(made))
    for line in display.prediction_notes(made, found.left_out):
        print(line)


@app.command(epilog="Example: atoll train best.yaml --ranks 4")
def train(
    file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A configuration, as `atoll export` writes it.")],
    ranks: Annotated[int | None, typer.Option(help="Ranks; those of the configuration unless given.")] = None,
    place: Annotated[int, typer.Option(help="Which one, where the file holds several.", min=1)] = 1,
    test: Annotated[bool, typer.Option("--test", help="Measure the trained model on the test data too.")] = False,
    observe: Annotated[
        int | None, typer.Option(help="Compare each layer with itself so many epochs before.", min=1)
    ] = None,
    save: Annotated[Path | None, typer.Option(help="File for the trained model's state dict (torch.save).")] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="With --save: full weights in place of low-rank factors.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one configuration on one worker."""
    from atoll.platform import launch, train

    launch.require_search_extra()
    if merged and save is None:
        raise typer.BadParameter("--merged says what --save writes; give --save FILE too")
    configuration = train.read(file, place, ranks)
    say = (lambda line: None) if as_json else print
    if observe is not None:
        configuration = configuration.model_copy(update={"observe": observe})
    result = train.train(configuration, test=test, say=say, save=save, merged=merged)
    if as_json:
        _print_json(result)
    else:
        for line in train.explain(configuration, result):
            print(line)
        if save is not None and result["state"] == "complete":
            print(f"wrote {save}")
    raise typer.Exit(0 if result["state"] == "complete" else FAILURE)


@app.command(epilog="Example: atoll leaderboard quickstart --top 5")
def leaderboard(
    study: Name = None,
    top: Annotated[int, typer.Option(help="How many trials.", min=1)] = 10,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """The best trials of a study, of several objectives the Pareto front first; --json gives all complete trials."""
    from atoll.analysis import leaderboard as ranking
    from atoll.platform import display
    from atoll.storage.export import trial_as_dict

    opened = _open_store(store)
    row = opened.study(study)
    best = ranking.best(opened, row, None if as_json or row.objectives else top)
    front = {trial.id for trial in ranking.front(row, best)} if row.objectives else set()
    if as_json:
        places = [{"place": place, "front": trial.id in front} for place, trial in enumerate(best, 1)]
        _print_json([place | trial_as_dict(trial) for place, trial in zip(places, best, strict=True)])
    else:
        _print(display.leaderboard(row, best[:top]))
        if front:
            share = ranking.dominated_share(row, best)
            print(
                f"{len(front)} trials are on the Pareto front, which dominates {share:.0%} of the box between the best "
                f"and the worst values; `atoll export {row.name} --pareto` writes them"
            )


@app.command(epilog="Example: atoll failures quickstart")
def failures(study: Name = None, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Which choices of a study failed how often."""
    from dataclasses import asdict

    from atoll.analysis.failures import by_choice
    from atoll.platform import display

    opened = _open_store(store)
    row = opened.study(study)
    found = by_choice(opened.trials(row))
    if as_json:
        _print_json([asdict(choice) | {"share": choice.share} for choice in found])
        return
    from atoll.searchspaces.bigearthnet_nas import UNSTABLE_IN_THE_SOURCE as UNSTABLE

    columns = ["hyperparameter", "value", "trials", "failed", "share", "most often", "001 section 6.2"]
    lines = [
        [
            c.name,
            c.value,
            str(c.num_trials),
            str(c.num_failed),
            f"{c.share:.0%}",
            c.reason,
            "often no number" if c.name == "optimizer" and c.value in UNSTABLE else "",
        ]
        for c in found
    ]
    _print(display.table(f"{row.name}: failures by choice", columns, lines))
    if row.num_refused:
        print(f"{row.num_refused} proposals were refused before training")


@app.command(epilog="Example: atoll score times.csv --variants cifar10=cifar10_narrow")
def score(
    file: Annotated[Path, typer.Argument(metavar="TIMES.csv", help="One row for each tuning trial.")],
    variants: Annotated[
        str, typer.Option(metavar="BASE=VARIANT,...", help="Held-out variants of base workloads.")
    ] = "",
    by: Annotated[
        Literal["time", "index"],
        typer.Option(help="A study's time: its soonest trial's, in seconds or by evaluation, as AlgoPerf's code does."),
    ] = "time",
    integral: Annotated[
        Literal["exact", "trapezoid"], typer.Option(help="Of the performance profile; AlgoPerf's code uses trapezoids.")
    ] = "exact",
    as_json: JsonOption = False,
) -> None:
    """Score methods by their times to target, as MLCommons AlgoPerf does, and say how sure their ranks are."""
    from dataclasses import asdict

    from atoll.analysis import score as scoring
    from atoll.platform import display

    times = scoring.gather(scoring.read(file), scoring.pairs(variants), by)
    rows = scoring.compare(times, integral)
    if as_json:
        _print_json(
            {"by": by, "integral": integral, "workloads": times.bases, "methods": [asdict(row) for row in rows]}
        )
        return
    _print(display.scores(rows, times.bases))
    print(scoring.verdict(rows))


@app.command(epilog="Example: atoll studies")
def studies(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """What is in the store, with state and progress."""
    from atoll.platform import display
    from atoll.storage.export import study_as_dict

    summaries = _open_store(store).studies()
    if as_json:
        _print_json([study_as_dict(s.study) | {"counts": s.counts, "best": s.best} for s in summaries])
    else:
        _print(display.studies(summaries))


@app.command(epilog="Example: atoll stop quickstart")
def stop(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a running search or benchmark to stop; trials in flight are queued again on --resume."""
    from atoll.platform import launch
    from atoll.storage.folder import DEFAULT_PARENT, BenchmarkFolder, StudyFolder

    default = StudyFolder(DEFAULT_PARENT / study)
    if (running := launch.running_part(BenchmarkFolder(DEFAULT_PARENT / study))) is not None:
        folder = running
    else:
        folder = default if default.exists() else StudyFolder(_open_store(store).study(study).folder)
    if not folder.exists():
        raise launch.LaunchError(f"{study} has no files in {folder.path} on this machine")
    if launch.holder(folder) is None:
        raise launch.LaunchError(f"{study} is not running: no living process holds {folder.lock}")
    launch.request_stop(folder)
    if as_json:
        _print_json({"study": study, "stop_request": str(folder.stop_request)})
    else:
        print(f"{study} is asked to stop; trials in flight are queued again on --resume")


@app.command(epilog="Example: atoll delete quickstart --yes")
def delete(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a study's, or a whole benchmark's, rows and files, after a question."""
    from atoll.platform import launch
    from atoll.storage.folder import BenchmarkFolder, StudyFolder
    from atoll.storage.models import Study

    opened = _open_store(store)
    row = opened.subject(study)
    folder = StudyFolder(row.folder) if isinstance(row, Study) else BenchmarkFolder(row.folder)
    for part in folder.studies() if isinstance(folder, BenchmarkFolder) else [folder]:
        launch.check_not_running(part)
    if not yes:
        typer.confirm(f"Remove {study} with its trials from {opened}, and its files in {row.folder}?", abort=True)
    opened.delete(row)
    folder.remove()
    if as_json:
        _print_json({"deleted": study})
    else:
        print(f"removed {study}")


@app.command(epilog="Example: atoll export quickstart --best 3 -o best.yaml")
def export(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    best: Annotated[int, typer.Option(help="How many of the best.", min=1)] = 1,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Of several objectives: the whole Pareto front, in place of --best.")
    ] = False,
    trial: Annotated[int | None, typer.Option(help="The trial of this number, in place of --best.", min=0)] = None,
    attempt: Annotated[int | None, typer.Option(help="With --trial; the last unless given.", min=0)] = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="A .yaml or .json file; standard output unless given.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """The best configurations, complete enough to train again with `atoll train`."""
    which = None if trial is None else (trial, attempt)
    text = _write_export(study, None if pareto else best, output, store, as_json, which)
    print(text if output is None else f"wrote {output}")


def _write_export(
    study: str,
    best: int | None,
    output: Path | None,
    store: str | None,
    as_json: bool = False,
    which: tuple[int, int | None] | None = None,
) -> str:
    from atoll.analysis import leaderboard as ranking
    from atoll.storage import browse
    from atoll.storage.export import as_yaml, configuration
    from atoll.storage.store import StoreError

    opened = _open_store(store)
    row = opened.study(study)
    if best is None and not row.objectives:
        raise StoreError(f"{study} has one objective, {row.metric}; a Pareto front needs several: use --best")
    if which is not None:
        best, trials = 1, [browse.trial(opened, row.id, *which)]
    else:
        trials = ranking.front(row, opened.leaderboard(row)) if best is None else ranking.best(opened, row, best)
    if not trials:
        raise StoreError(f"{study} has no complete trial to export")
    if as_json or (output is not None and output.suffix == ".json"):
        found = [configuration(row, trial) for trial in trials]
        text = json.dumps(found[0] if best == 1 else {"configurations": found}, indent=2)
    else:
        text = as_yaml(row, trials, alone=best == 1)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    return text


@app.command(epilog="Example: atoll dashboard --port 8050")
def dashboard(
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.", min=0, max=65535)] = 8050,
    host: Annotated[
        str, typer.Option(help="Address to listen on; readers of one that other hosts reach need the printed link.")
    ] = "127.0.0.1",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let everyone read who reaches the address, without a token.")
    ] = False,
    allow_edit: Annotated[
        bool, typer.Option("--allow-edit", help="Let readers rename and archive studies, and write notes on trials.")
    ] = False,
    base_path: Annotated[
        str, typer.Option(help="Path behind a reverse proxy, which passes it on, such as /atoll.")
    ] = "/",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the dashboard; --json says the address as JSON."""
    from atoll.dashboard.app import serve

    serve(
        _open_store(store),
        host,
        port,
        as_json=as_json,
        insecure=insecure,
        allow_edit=allow_edit,
        base_path=base_path,
    )


@app.command(epilog="Example: atoll record atoll-studies/quickstart")
def record(
    folder: Annotated[Path, typer.Argument(help="A study's folder.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the study's last line.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a study's journals into the store: what a search does by itself, where it reaches the store."""
    from atoll.platform import launch
    from atoll.storage.folder import StudyFolder

    num_lines = launch.record(StudyFolder(folder), launch.store_url(store), follow=follow)
    if as_json:
        _print_json({"folder": str(folder), "lines": num_lines})
    elif not follow:
        print(f"recorded {num_lines} lines of {folder}")


@app.command(epilog="Example: atoll methods daso")
def methods(
    name: Annotated[str | None, typer.Argument(help="A method's name.")] = None, as_json: JsonOption = False
) -> None:
    """The training methods; with a name, everything about one."""
    from atoll.platform import catalogue

    _show_catalogue(catalogue.methods(), catalogue.method, name, as_json)


@app.command(epilog="Example: atoll workloads digits_mlp")
def workloads(
    name: Annotated[str | None, typer.Argument(help="A workload's name.")] = None, as_json: JsonOption = False
) -> None:
    """The workloads; with a name, everything about one."""
    from atoll.platform import catalogue

    _show_catalogue(catalogue.workloads(), catalogue.workload, name, as_json)


@app.command(epilog="Example: atoll spaces daso")
def spaces(
    name: Annotated[str | None, typer.Argument(help="A method's name.")] = None, as_json: JsonOption = False
) -> None:
    """The search spaces; with a method's name, every parameter."""
    from atoll.platform import catalogue

    _show_catalogue(catalogue.spaces(), catalogue.space, name, as_json)


def _show_catalogue(entries: Any, describe: Any, name: str | None, as_json: bool) -> None:
    from atoll.platform import display

    if name is None:
        if as_json:
            _print_json(entries)
        else:
            for key, summary in entries.items():
                print(f"{key:20} {summary}")
        return
    description = describe(name)
    if as_json:
        _print_json(description)
        return
    for key, value in description.items():
        if isinstance(value, list):
            columns = list(value[0]) if value else []
            _print(display.table(key, columns, [[display.number(row[c]) for c in columns] for row in value]))
        else:
            print(f"{key}: {value}")


@app.command(epilog="Example: atoll doctor --ranks 2")
def doctor(
    ranks: Annotated[int, typer.Option(help="Ranks to start.", min=1)] = 2,
    data: Annotated[str | None, typer.Option(help="Folder of data files; ATOLL_DATA unless given.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check MPI, GPUs, store, data and clocks, and say what to fix."""
    from dataclasses import asdict

    from atoll.platform import doctor as examiner
    from atoll.platform import launch

    findings = examiner.examine(launch.store_url(store), data, ranks)
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    for finding in [] if as_json else findings:
        print(f"{'ok ' if finding.ok else 'FIX'} {finding.check}: {finding.found}")
        if not finding.ok and finding.advice:
            print(f"    {finding.advice}")
    raise typer.Exit(0 if all(f.ok or f.check.startswith("data of") for f in findings) else FAILURE)


@app.command("study-schema", epilog="Example: atoll study-schema > study.schema.json")
def study_schema(as_json: JsonOption = True) -> None:
    """The JSON schema of the study file, for editors."""
    from atoll.platform.study import Study

    _print_json(Study.model_json_schema())


if __name__ == "__main__":
    main()
