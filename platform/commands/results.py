"""Commands that look at what is stored: leaderboards, failures, exports, the dashboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from atoll.platform.commands.shared import JsonOption, Name, StoreOption, app, open_store, print_json, print_table


@app.command(epilog="Example: atoll leaderboard quickstart --top 5")
def leaderboard(
    study: Name = None,
    top: Annotated[int, typer.Option(help="How many trials.", min=1)] = 10,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """The best trials of a study, of several objectives the Pareto front first; --json gives all complete trials."""
    from atoll.analysis import leaderboard as ranking
    from atoll.platform.commands import display
    from atoll.storage.export import trial_as_dict

    opened = open_store(store)
    row = opened.study(study)
    best = ranking.best(opened, row, None if as_json or row.objectives else top)
    front = {trial.id for trial in ranking.front(row, best)} if row.objectives else set()
    if as_json:
        places = [{"place": place, "front": trial.id in front} for place, trial in enumerate(best, 1)]
        print_json([place | trial_as_dict(trial) for place, trial in zip(places, best, strict=True)])
    else:
        print_table(display.leaderboard(row, best[:top]))
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
    from atoll.platform.commands import display

    opened = open_store(store)
    row = opened.study(study)
    found = by_choice(opened.trials(row))
    if as_json:
        print_json([asdict(choice) | {"share": choice.share} for choice in found])
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
    print_table(display.table(f"{row.name}: failures by choice", columns, lines))
    if row.num_refused:
        print(f"{row.num_refused} proposals were refused before training")


@app.command(epilog="Example: atoll studies")
def studies(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """What is in the store, with state and progress."""
    from atoll.platform.commands import display
    from atoll.storage.export import study_as_dict

    summaries = open_store(store).studies()
    if as_json:
        print_json([study_as_dict(s.study) | {"counts": s.counts, "best": s.best} for s in summaries])
    else:
        print_table(display.studies(summaries))


@app.command(epilog="Example: atoll delete quickstart --yes")
def delete(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a study's, or a whole benchmark's, rows and files, after a question."""
    from atoll.platform.launch import running
    from atoll.storage.folder import BenchmarkFolder, StudyFolder
    from atoll.storage.models import StudyRow

    opened = open_store(store)
    row = opened.subject(study)
    folder = StudyFolder(row.folder) if isinstance(row, StudyRow) else BenchmarkFolder(row.folder)
    for part in folder.studies() if isinstance(folder, BenchmarkFolder) else [folder]:
        running.check_not_running(part)
    if not yes:
        typer.confirm(f"Remove {study} with its trials from {opened}, and its files in {row.folder}?", abort=True)
    opened.delete(row)
    folder.remove()
    if as_json:
        print_json({"deleted": study})
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
    text = write_export(study, None if pareto else best, output, store, as_json, which)
    print(text if output is None else f"wrote {output}")


def write_export(
    study: str,
    best: int | None,
    output: Path | None,
    store: str | None,
    as_json: bool = False,
    which: tuple[int, int | None] | None = None,
) -> str:
    """Write the best configurations (None: the Pareto front), or one trial's; returns the text, YAML or JSON."""
    from atoll.analysis import leaderboard as ranking
    from atoll.storage import browse
    from atoll.storage.export import as_yaml, configuration
    from atoll.storage.store import StoreError

    opened = open_store(store)
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
        open_store(store),
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
    from atoll.platform.launch import lifecycle
    from atoll.storage.folder import StudyFolder

    num_lines = lifecycle.record(StudyFolder(folder), lifecycle.store_url(store), follow=follow)
    if as_json:
        print_json({"folder": str(folder), "lines": num_lines})
    elif not follow:
        print(f"recorded {num_lines} lines of {folder}")
