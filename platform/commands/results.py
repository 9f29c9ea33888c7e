"""Commands that read the store: leaderboards, failures, exports, the dashboard."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.analysis.formatting import counted
from atoll.platform.commands.shared import (
    JsonOption,
    Name,
    StoreOption,
    app,
    open_store,
    print_json,
    print_table,
    store_flag,
    told_interrupted,
)

if TYPE_CHECKING:
    from atoll.platform.study.on_trial import Command
    from atoll.storage.models import StudyRow, TrialRow
    from atoll.storage.store import Store


@app.command(epilog="Example: atoll leaderboard quickstart --top 5")
def leaderboard(
    study: Name = None,
    top: Annotated[int, typer.Option(help="Number of trials to show.", min=1)] = 10,
    wide: Annotated[
        bool, typer.Option("--wide", help="Show all columns. Default: as many as fit the terminal.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a study's best trials (with several objectives, the Pareto front first); --json prints all complete ones."""
    from atoll.analysis import leaderboard as ranking
    from atoll.analysis.provenance_differences import num_measured_with
    from atoll.platform.commands import display, leaderboard_view
    from atoll.storage.export import trial_as_dict
    from atoll.storage.liveness import true_counts, true_state_of

    opened = open_store(store)
    row = opened.study(study)
    best = ranking.best(opened, row, None if as_json or row.objectives else top)
    front = {trial.id for trial in ranking.front(row, best)} if row.objectives else set()
    if as_json:
        places = [{"place": place, "front": trial.id in front} for place, trial in enumerate(best, 1)]
        print_json([place | trial_as_dict(trial) for place, trial in zip(places, best, strict=True)])
    else:
        (summary,) = opened.studies(row.id)
        counts = true_counts(summary.counts, true_state_of(row))
        leaderboard_view.show(row, best[:top], counts, wide=wide, store=store)
        if said := display.ended_because(row, true_state_of(row)):
            print(said)
        if changes := opened.changes(row):
            numbers = ", ".join(str(change.first_trial) for change in changes)
            print(f"changed from trial {numbers} on: `atoll studies {row.name}` shows the changes")
        records = {version.version: version.record for version in opened.provenances(row)}
        if (num := num_measured_with({trial.provenance for trial in best[:top]}, records)) > 1:
            print(
                f"these trials were measured with {num} versions of code, data or libraries, and may not "
                f"compare: `atoll studies {row.name}` shows the changes"
            )
        lengths = {(trial.configuration.get("epochs"), trial.configuration.get("steps")) for trial in best[:top]}
        if len(lengths) > 1:
            print(f"these trials have {len(lengths)} different lengths (epochs or steps), and do not compare")
        if front:
            share = ranking.dominated_share(row, best)
            print(
                f"the Pareto front has {counted(len(front), 'trial')} and dominates {share:.0%} of the volume "
                f"between the best and the worst values; `atoll export {row.name} --pareto` writes them"
            )


@app.command(epilog="Example: atoll failures quickstart --trial 3")
def failures(
    study: Name = None,
    trial: Annotated[int | None, typer.Option(help="Show the traceback and the notes of this trial.", min=0)] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why trials failed, and how often by hyperparameter value."""
    from dataclasses import asdict

    from atoll.analysis.failures import by_choice, by_kind
    from atoll.platform.commands import display
    from atoll.storage.liveness import true_state_of

    opened = open_store(store)
    row = opened.study(study)
    if trial is not None:
        _show_failure(opened, row, trial, as_json)
        return
    trials = opened.trials(row)
    kinds, choices = by_kind(trials), by_choice(trials)
    if as_json:
        print_json(
            {
                "kinds": [asdict(kind) for kind in kinds],
                "choices": [asdict(choice) | {"share": choice.share} for choice in choices],
            }
        )
        return
    for line in display.failures(row.name, kinds, store_flag(store)):
        print(line)
    if not kinds:
        print(f"{row.name}: no trial has failed{_states(trials, true_state_of(row))}")
    if choices:
        print_table(display.failures_by_choice(row.name, choices))
    if row.num_refused:
        print(f"{counted(row.num_refused, 'infeasible proposal')} not trained")


def _states(trials: Sequence[TrialRow], study_state: str) -> str:
    """How many trials are in which state, in parentheses."""
    from atoll.storage.liveness import true_counts

    counts = true_counts(Counter(trial.state for trial in trials), study_state)
    return f" ({', '.join(f'{count} {state}' for state, count in sorted(counts.items()))})" if counts else ", or begun"


def _show_failure(store: Store, study: StudyRow, number: int, as_json: bool) -> None:
    from atoll.storage import browse

    found = browse.trial(store, study.id, number)
    if as_json:
        print_json(
            {name: getattr(found, name) for name in ("number", "attempt", "state", "reason", "traceback", "notes")}
        )
        return
    print(f"trial {found.number} of {study.name}: {found.state}")
    if found.state == "failed":
        print(found.traceback or "it has no traceback")
    else:
        print("it has not failed")
    if found.reason:
        print(found.reason)
    for note in found.notes or ():
        print(f"note: {note}")


@app.command(epilog="Example: atoll studies quickstart")
def studies(
    name: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's name. Default: all studies.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the studies with their progress, or describe one: space, sampler, code, data, versions and changes."""
    from atoll.platform.commands import description, display
    from atoll.storage.export import study_as_dict
    from atoll.storage.liveness import true_counts, true_state_of

    opened = open_store(store)
    chosen = None if name is None else opened.study(name).id
    summaries = [summary for summary in opened.studies() if chosen in (None, summary.study.id)]
    for summary in summaries:
        summary.study.state = true_state_of(summary.study)
    contents = [
        study_as_dict(s.study) | {"counts": true_counts(s.counts, s.study.state), "best": s.best} for s in summaries
    ]
    if name is None and as_json:
        print_json(contents)
        return
    if not as_json:
        print_table(display.studies(summaries))
        for line in filter(None, (display.ended_because(s.study, s.study.state) for s in summaries)):
            print(line)
    if name is not None:
        row = summaries[0].study
        described = description.describe(row, opened.provenances(row), opened.num_measured(row), opened.changes(row))
        described["waiting_changes"] = _waiting_changes(row)
        if as_json:
            print_json(contents[0] | described)
        else:
            description.show(row, described, print_table)
            for one in described["waiting_changes"]:
                print(f"change {one['number']} waits until the search goes on: {one['said']}")


def _waiting_changes(row: StudyRow) -> list[dict[str, Any]]:
    """The changes by `atoll change` that have not taken effect yet, if the study's files are here."""
    from atoll.platform.launch import changing
    from atoll.storage.folder import StudyFolder

    folder = StudyFolder(row.folder)
    if not folder.is_of(row.name, row.uid):
        return []
    found = changing.InForce.read(folder)
    return [{"number": change.number, "requested": change.requested, "said": change.said} for change in found.waiting]


@app.command(epilog="Example: atoll delete quickstart --yes")
def delete(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the rows and files of a study or of a whole benchmark, after asking for confirmation."""
    from atoll.platform.batch import listing
    from atoll.platform.launch import lifecycle, running
    from atoll.storage.folder import BenchmarkFolder, StudyFolder
    from atoll.storage.models import StudyRow

    opened = open_store(store, writes=True)
    row = opened.subject(study)
    folder = StudyFolder(row.folder) if isinstance(row, StudyRow) else BenchmarkFolder(row.folder)
    # The store may be older than the files, or somebody else's.
    has_files = folder.is_of(row.name, row.uid)
    if has_files:
        for part in folder.studies() if isinstance(folder, BenchmarkFolder) else [folder]:
            running.check_not_running(part)
            listing.check_none_waits(part, row.name)
    kind = "study" if isinstance(row, StudyRow) else "benchmark"
    is_imported = isinstance(row, StudyRow) and row.is_imported
    none = "it was imported" if is_imported else f"{row.folder} has none of this {kind}"
    files = f"its files in {row.folder}" if has_files else f"no files, as {none}"
    if not yes:
        typer.confirm(f"Delete {study} and its trials from {opened}, and {files}?", abort=True)
    if has_files:
        for part in folder.studies() if isinstance(folder, BenchmarkFolder) else [folder]:
            lifecycle.end_interrupted(part)
    opened.delete(row)
    if has_files:
        folder.remove()
    if as_json:
        print_json({"deleted": study, "files": row.folder if has_files else None})
    else:
        print(f"deleted {study}, and {files}")


@app.command(epilog="Example: atoll export quickstart --best 3 -o best.yaml")
def export(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    best: Annotated[int, typer.Option(help="Number of best trials to export.", min=1)] = 1,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Export the whole Pareto front instead of --best; needs several objectives."),
    ] = False,
    trial: Annotated[
        int | None, typer.Option(help="Export the trial with this number instead of --best.", min=0)
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(help="The attempt of --trial to export. Default: the last.", min=0)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="A .yaml or .json file to write. Default: standard output.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write each trial's configuration, trained model and a script that loads it without atoll into this "
            "folder; of several trials, into a folder each.",
        ),
    ] = None,
    to_optuna: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Write the whole study into an Optuna storage, for optuna-dashboard."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="With --to-optuna: the study's name there. Default: its own.")
    ] = None,
    factors: Annotated[
        bool, typer.Option("--factors", help="With --weights: leave low-rank factors as they are, not multiplied.")
    ] = False,
    outside: Annotated[
        bool, typer.Option("--outside", help="With --weights: allow code outside the working directory.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export the best configurations, complete enough to be trained again with `atoll train`."""
    from atoll.results.reading import check_exported

    if output is not None:
        check_exported(output)
    which = None if trial is None else (trial, attempt)
    _check_targets(output, weights, to_optuna, name, needs_weights=factors or outside)
    if to_optuna is not None:
        _export_to_optuna(study, to_optuna, name, store, as_json)
        return
    if weights is not None:
        _export_weights(study, None if pareto else best, which, weights, store, as_json, (factors, outside))
        return
    text = write_export(study, None if pareto else best, output, store, as_json, which)
    print(text if output is None else f"wrote {output}")


def _check_targets(
    output: Path | None, weights: Path | None, to_optuna: str | None, name: str | None, *, needs_weights: bool
) -> None:
    """Raise BadParameter if options of `export` do not go together."""
    if name is not None and to_optuna is None:
        raise typer.BadParameter("--name needs --to-optuna URL")
    if to_optuna is not None and (weights is not None or output is not None):
        raise typer.BadParameter("--to-optuna writes a database: omit -o and --weights")
    if weights is not None and output is not None:
        raise typer.BadParameter("--weights writes a folder, and -o a file: give one of them")
    if needs_weights and weights is None:
        raise typer.BadParameter("--factors and --outside need --weights DIR")


def write_export(
    study: str,
    best: int | None,
    output: Path | None,
    store: str | None,
    as_json: bool = False,
    which: tuple[int, int | None] | None = None,
) -> str:
    """Write the best configurations (None: the Pareto front), or one trial's; returns the YAML or JSON text."""
    from atoll.storage.export import as_yaml, configuration
    from atoll.storage.files import write_whole

    opened = open_store(store)
    row = opened.study(study)
    trials = _to_export(opened, row, best, which)
    if which is not None:
        best = 1
    provenances, folder = opened.provenances(row), None if output is None else output.parent
    if as_json or (output is not None and output.suffix == ".json"):
        configurations = [configuration(row, trial, provenances, folder) for trial in trials]
        text = json.dumps(configurations[0] if best == 1 else {"configurations": configurations}, indent=2)
    else:
        text = as_yaml(row, trials, provenances, folder, alone=best == 1)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, text)
    return text


def _to_export(opened: Store, row: StudyRow, best: int | None, which: tuple[int, int | None] | None) -> list[TrialRow]:
    """The best trials (None: the Pareto front), or one; at least one."""
    from atoll.analysis import leaderboard as ranking
    from atoll.results.reading import fewer
    from atoll.storage import browse
    from atoll.storage.export import check_trained_here
    from atoll.storage.store import StoreError

    if best is None and not row.objectives:
        raise StoreError(f"--pareto needs several objectives; {row.name} has one, {row.metric}: use --best")
    check_trained_here(row)
    if which is not None:
        return [browse.trial(opened, row.id, *which)]
    trials = ranking.front(row, opened.leaderboard(row)) if best is None else ranking.best(opened, row, best)
    if not trials:
        raise StoreError(f"{row.name} has no complete trial to export")
    if best is not None and len(trials) < best:
        print(fewer(row, len(trials), f"--best {best}"), file=sys.stderr)
    return trials


def _export_to_optuna(study: str, url: str, name: str | None, store: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from atoll.storage.optuna_export import export_to_optuna

    opened = open_store(store)
    exported = export_to_optuna(opened, opened.study(study), url, name)
    if as_json:
        print_json(asdict(exported))
        return
    left_out = f", without {exported.num_left_out} that are running or lost" if exported.num_left_out else ""
    print(f"wrote {counted(exported.num_trials, 'trial')} to the study {exported.name}{left_out}")
    if exported.num_outside:
        print(f"note: {exported.num_outside} hyperparameters outside their range were written as trial attributes")


def _export_weights(
    study: str,
    best: int | None,
    which: tuple[int, int | None] | None,
    folder: Path,
    store: str | None,
    as_json: bool,
    options: tuple[bool, bool],
) -> None:
    """Write the weights of the chosen trials, and print where they are; those without weights are named."""
    from atoll.platform.launch import extras
    from atoll.platform.launch.exported_weights import export_weights, weights_file
    from atoll.storage.store import StoreError

    extras.require_search_extra()
    opened = open_store(store)
    row = opened.study(study)
    trials = _to_export(opened, row, best, which)
    without: dict[int, StoreError] = {}
    for trial in trials:
        try:
            weights_file(row, trial)
        except StoreError as error:
            without[trial.number] = error
    if len(without) == len(trials):
        raise without[trials[0].number]
    for why in without.values():
        print(why, file=sys.stderr)
    written = []
    for trial in (trial for trial in trials if trial.number not in without):
        target = folder if len(trials) == 1 else folder / f"trial-{trial.number:06d}"
        notes = export_weights(
            row, trial, target, provenances=opened.provenances(row), factors=options[0], outside=options[1]
        )
        written.append({"trial": trial.number, "folder": str(target), "notes": notes})
        if not as_json:
            print("\n".join([f"wrote {target}", *(f"note: {note}" for note in notes)]))
    if as_json:
        print_json({"written": written, "without_weights": sorted(without)})


@app.command(epilog="Example: atoll dashboard --port 8050")
def dashboard(
    port: Annotated[int, typer.Option(help="Port. 0: any free port.", min=0, max=65535)] = 8050,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all of this host's, for readers elsewhere.")
    ] = "127.0.0.1",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Require no token: anyone who reaches the address can read, so all users of this host."
        ),
    ] = False,
    allow_edit: Annotated[
        bool,
        typer.Option(
            "--allow-edit",
            help="Allow readers to rename and archive studies and to annotate trials; they need the token.",
        ),
    ] = False,
    base_path: Annotated[
        str, typer.Option(help="Path prefix under a reverse proxy, such as /atoll; the proxy must not strip it.")
    ] = "/",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the dashboard to readers who open the printed link, which has a token; --json prints it as JSON."""
    from atoll.dashboard.app import serve

    if insecure and allow_edit:
        raise typer.BadParameter("--allow-edit needs readers who have the token: omit --insecure")
    if allow_edit:
        _check_editable(store)
    serve(
        open_store(store, writes=allow_edit),
        host,
        port,
        as_json=as_json,
        insecure=insecure,
        allow_edit=allow_edit,
        base_path=base_path,
    )


def _check_editable(store: str | None) -> None:
    """Raise StoreError if the store cannot be written from here."""
    from atoll.platform.launch.lifecycle import store_url
    from atoll.storage.store import StoreError
    from atoll.storage.urls import absolute, parse
    from atoll.storage.writable import store_problem

    if (problem := store_problem(absolute(parse(store_url(store))))) is not None:
        raise StoreError(f"--allow-edit needs a store that can be written: {problem}")


@app.command(epilog="Example: atoll record atoll-studies/quickstart")
def record(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    follow: Annotated[bool, typer.Option("--follow", help="Keep recording until the study ends.")] = False,
    on_trial: Annotated[
        list[str] | None,
        typer.Option(
            help="Also send the trials there, each once: tensorboard:DIR, mlflow:URI or a command, as in a study file. "
            "May be given several times. Default: nowhere.",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a study's journals into the store. A search that can reach the store does this itself."""
    from atoll.platform.launch import lifecycle, live
    from atoll.storage.folder import StudyFolder

    targets = _targets(on_trial or [])
    live.check(targets)
    interrupted = None if follow else lifecycle.end_interrupted(StudyFolder(folder))
    if interrupted is not None:
        print(told_interrupted(folder.name, *interrupted), file=sys.stderr)
    url = lifecycle.store_url(store)
    num_lines = lifecycle.record(StudyFolder(folder), url, follow=follow, on_trial=targets)
    if as_json:
        print_json({"folder": str(folder), "lines": num_lines})
    elif not follow:
        print(f"recorded {counted(num_lines, 'line')} from {folder}")


def _targets(given: list[str]) -> list[str | Command]:
    """The targets of --on-trial, and those that the search which has started this process names."""
    from atoll.platform.study import on_trial

    of_search = json.loads(os.environ.get("ATOLL_ON_TRIAL", "[]"))
    several = [*given, *(one if isinstance(one, str) else on_trial.Command(**one) for one in of_search)]
    return on_trial.located(several, Path.cwd(), inside=False)
