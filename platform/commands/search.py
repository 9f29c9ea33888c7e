"""Commands that search and train."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.analysis.formatting import counted
from atoll.platform.commands.console import plain_console
from atoll.platform.commands.results import write_export
from atoll.platform.commands.shared import (
    AcceptOption,
    JsonOption,
    NoCheckOption,
    StoreOption,
    app,
    check_accepted,
    given_flags,
    hide_password,
    open_store,
    print_json,
    store_flag,
    told_interrupted,
)
from atoll.platform.exit_codes import FAILURE, USAGE

if TYPE_CHECKING:
    from atoll.platform.launch.lifecycle import Ending
    from atoll.platform.study.study import Study
    from atoll.storage.folder import StudyFolder
    from atoll.storage.models import StudyRow


@app.command(epilog="Example: atoll quickstart")
def quickstart(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Search DASO's hyperparameters on handwritten digits with 4 MPI ranks; takes about a minute."""
    from atoll.platform.commands import quickstart as quick
    from atoll.platform.launch import extras, lifecycle

    extras.require_search_extra()
    study = quick.study(lifecycle.free_name("quickstart", lifecycle.store_url(store)))
    code = _search(study, store, as_json=as_json)
    if code == 0:
        file = lifecycle.study_folder(study).exports / "best.yaml"
        write_export(study.name, 1, file, store)
        if not as_json:
            option = f" --store {hide_password(store)}" if store else ""
            print(f"\nThe best configuration is in {file}. To train it again:\n    atoll train {file}")
            print(f"To see all trials in the browser:\n    atoll dashboard{option}")
    raise typer.Exit(code)


@app.command(
    epilog="Example: atoll search --method daso --workload digits_mlp --trials 40 --ranks 2 --ranks-per-node 1"
)
def search(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY.yaml]", help="The study file; or an objective, file.py:function, whose space is --space."
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="With an objective: its space as YAML, such as '{x: {low: 0.0, high: 1.0}}', or a file that has it."
        ),
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="With an objective: minimize or maximize what it returns. Default: minimize.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method name. Required without a study file.")] = None,
    workload: Annotated[str | None, typer.Option(help="Workload name. Required without a study file.")] = None,
    trials: Annotated[int | None, typer.Option(help="Budget: number of trials.")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name.")] = None,
    islands: Annotated[int | None, typer.Option(help="Number of islands.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers per island.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks per worker.")] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(help="Ranks per node; fewer than the host has make virtual nodes. Default: by host.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs per trial. Default: the workload's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per trial, instead of epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="The study's seed.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler name; its options have their defaults.")] = None,
    stop_target: Annotated[
        float | None, typer.Option(help="End the search once a trial has reached this value of the objective.")
    ] = None,
    stop_plateau: Annotated[
        int | None, typer.Option(help="End the search once this many trials have not improved the incumbent.")
    ] = None,
    stop_regret: Annotated[
        str | None,
        typer.Option(help="End the search once its incumbent is this close to the optimum by a bound: '0.2 %'."),
    ] = None,
    observe: Annotated[
        int | None, typer.Option(help="Record how much each layer changed over this many epochs. Default: off.")
    ] = None,
    evaluate_train: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Record the evaluated network's loss on this share of the training data, such as 0.1. Default: off.",
        ),
    ] = None,
    isolate: Annotated[
        str | None,
        typer.Option(
            help="What keeps one trial from the next: restore puts back the known state of the rank's process; process "
            "trains each trial in a fresh process. Default: restore."
        ),
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Allow the study file to refer to code outside its folder.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped study.")] = False,
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue",
            help="Start the study, or continue it if it was stopped; exit code 0 if it is complete: for job scripts.",
        ),
    ] = False,
    accept_changes: AcceptOption = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Search on even if the first trials all fail alike. Default: stop.")
    ] = False,
    no_check: NoCheckOption = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Search in the background, and return once the search has begun; see `atoll follow`."
        ),
    ] = False,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="For debugging: run all ranks as threads of this process, without MPI, so that breakpoints work.",
        ),
    ] = False,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY",
            help="Train nothing: repeat the decisions of this recorded study, by its name or folder, with the present "
            "code and STUDY.yaml (default: the recorded study). Exit code 1 if some differ.",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search hyperparameters over MPI, from a study file, from flags, or both; flags override the file."""
    from atoll.platform.launch import extras

    extras.require_search_extra()
    check_accepted(accept_changes, resume or go_on)
    if replay is not None and (resume or go_on or detach or in_process):
        raise typer.BadParameter("--replay starts no search: omit --resume, --continue, --detach and --in-process")
    if resume and go_on:
        raise typer.BadParameter("--continue includes --resume: give one of them")
    topology = {"islands": islands, "workers": workers, "ranks": ranks, "ranks_per_node": ranks_per_node}
    flags: dict[str, Any] = {"method": method, "workload": workload, "trials": trials, "name": name}
    flags |= {"epochs": epochs, "steps": steps, "seed": seed, "observe": observe, "keep_going": keep_going or None}
    flags |= {"evaluate_train": evaluate_train}
    flags |= {"isolate": isolate, "check": False if no_check else None, "direction": direction}
    flags |= {"space": None if space is None else _space(space)}
    if file is not None and file.name.rpartition(":")[0].endswith(".py"):
        flags, file = flags | {"objective": str(file)}, None
    flags |= {"sampler": None if sampler is None else {"name": sampler}}
    stop = _stop(stop_target, stop_plateau, stop_regret)
    if replay is not None and file is None and not given_flags(flags) and not given_flags(topology) and not stop:
        raise typer.Exit(_replay(replay, None, store, as_json=as_json))
    study = _study(file, given_flags(flags), given_flags(topology), stop, inside=not outside)
    if replay is not None:
        raise typer.Exit(_replay(replay, study, store, as_json=as_json))
    if detach:
        from atoll.platform.commands import background

        raise typer.Exit(background.search(study, sys.argv[1:], as_json=as_json))
    resuming = None if go_on else resume
    code = _search(
        study,
        store,
        file=file,
        as_json=as_json,
        resuming=resuming,
        accept_changes=accept_changes,
        in_process=in_process,
    )
    raise typer.Exit(code)


def _replay(name: str, study: Study | None, store: str | None, *, as_json: bool) -> int:
    from atoll.platform.commands import replaying

    return replaying.run(folder_of(name, store), study, as_json=as_json)


@app.command(epilog="Example: atoll join quickstart --workers 2")
def join(
    study: Annotated[str, typer.Argument(help="The study's name, or its folder.")],
    islands: Annotated[
        int | None, typer.Option(help="Number of islands that get workers, those with the fewest first. Default: all.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Workers per island. Default: the study's.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add workers to a search that is running, from here or from any other host that sees its folder."""
    from atoll.platform.launch import errors, extras
    from atoll.platform.study.study import Study
    from atoll.storage import liveness

    extras.require_search_extra()
    folder = folder_of(study, store)
    if liveness.holder(folder) is None:
        raise errors.LaunchError(
            f"{study} is not running: start it, or continue it, by `atoll search STUDY.yaml --continue`"
        )
    definition = json.loads(folder.definition.read_text())["definition"]
    named = given_flags({"islands": islands, "workers": workers})
    if named:
        definition["topology"] = {"islands": 1} | definition["topology"] | {"workers": None, "world": None} | named
    joined = Study.model_validate(definition | {"folder": str(folder.path)})
    raise typer.Exit(_search(joined, store, as_json=as_json, resuming=None))


@app.command(epilog="Example: atoll follow quickstart")
def follow(
    study: Annotated[str, typer.Argument(help="The study's name, or its folder.")],
    store: StoreOption = None,
) -> None:
    """Show the progress of a search that runs elsewhere, until it has ended; Ctrl-C ends only this command."""
    from atoll.platform.commands import background
    from atoll.platform.launch import errors

    try:
        folder = folder_of(study, store)
    except errors.LaunchError:  # another host's
        raise typer.Exit(background.follow_store(open_store(store), study, plain_console())) from None
    raise typer.Exit(background.follow(folder, plain_console()))


def _stop(target: float | None, plateau: int | None, regret: str | None) -> dict[str, Any]:
    """The section `stop` of the options that are given."""
    share = None if regret is None else float(regret) if regret.replace(".", "", 1).isdecimal() else regret
    return given_flags({"target": target, "plateau": None if plateau is None else {"trials": plateau}, "regret": share})


def _with_rules(before: dict[str, Any] | None, rules: dict[str, Any]) -> dict[str, Any]:
    """A study's rules of `stop` with those of the options; a plateau keeps its tolerance."""
    both = (before or {}) | rules
    if "plateau" in rules and (before or {}).get("plateau"):
        both["plateau"] = (before or {})["plateau"] | rules["plateau"]
    return both


def _study(
    file: Path | None, flags: dict[str, Any], topology: dict[str, Any], stop: dict[str, Any], *, inside: bool
) -> Study:
    from atoll.platform.study.study import Study
    from atoll.storage import yamlfile

    flags |= {"stop": stop} if stop else {}
    if file is None and "objective" in flags:
        if "space" not in flags:
            raise yamlfile.FileError(f"the objective {flags['objective']} needs --space, the ranges of its parameters")
        flags.setdefault("name", flags["objective"].rpartition(":")[2])
        return yamlfile.validate(flags | {"topology": topology}, Study, source="options", folder=Path.cwd())
    if file is None:
        missing = [f"--{key}" for key in ("method", "workload") if key not in flags]
        if missing:
            raise yamlfile.FileError(
                f"a search needs a study file, or both --method and --workload; {missing[0]} is missing"
            )
        flags.setdefault("name", "-".join(flags[key].rpartition(":")[2] for key in ("method", "workload")))
        return yamlfile.validate(flags | {"topology": topology}, Study, source="options", folder=Path.cwd())
    study = yamlfile.load(file, Study, inside=inside)
    if not flags and not topology:
        return study
    content = study.model_dump(exclude_unset=True)
    flags |= {"stop": _with_rules(content.get("stop"), stop)} if stop else {}
    content |= flags | {"topology": content.get("topology", {}) | topology}
    return yamlfile.validate(content, Study, source=f"{file} with options", folder=file.parent)


def _space(given: str) -> dict[str, Any]:
    """The space of the option --space: YAML, or a file that holds it."""
    from atoll.storage import yamlfile

    file = Path(given) if "{" not in given and ":" not in given else None
    content = yamlfile.read(given if file is None else yamlfile.text_of(file), "--space" if file is None else given)
    if not isinstance(content, dict):
        raise yamlfile.FileError(
            f"--space must be a mapping of names to ranges, such as '{{x: {{low: 0.0, high: 1.0}}}}'; got {given!r}"
        )
    return content.get("space", content) if file is not None else content


def _search(
    study: Study,
    store: str | None,
    *,
    file: Path | None = None,
    as_json: bool,
    resuming: bool | None = False,
    accept_changes: bool = False,
    in_process: bool = False,
) -> int:
    from atoll.platform.commands import searching
    from atoll.platform.launch import errors, lifecycle

    url = lifecycle.store_url(store, study)
    console = plain_console(stderr=as_json)
    try:
        ended = searching.run(
            study,
            url,
            console,
            file=file,
            resuming=resuming,
            accept_changes=accept_changes,
            in_process=in_process,
        )
    except errors.AlreadyComplete as complete:
        if resuming is not None and complete.reason is None:
            raise
        console.print(str(complete), soft_wrap=True)
        ended = lifecycle.Ending("complete", complete.reason, recorded=True)
    if not isinstance(ended, lifecycle.Ending):
        return ended
    _show_ending(study, url, ended, as_json)
    return ended.exit_code


@app.command(epilog="Example: atoll check study.yaml")
def check(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    outside: Annotated[
        bool, typer.Option("--outside", help="Allow the study file to refer to code outside its folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a study without searching: take one batch through its workload, and say what is wrong with which shape."""
    from dataclasses import asdict

    from atoll.platform.commands import searching
    from atoll.platform.launch import checks, dry_run, extras, live

    extras.require_search_extra()
    study = _study(file, {}, {}, {}, inside=not outside)
    with searching.naming(file):
        plan = checks.check(study)
    live.check(study.on_trial)
    if plan.training is None:
        said = "the function can be imported and takes a trial; the search will be the first to call it"
        if as_json:
            print_json({"study": study.name, "state": "passed", "said": said})
        else:
            print(f"{study.name}: passed: {said}")
        return
    verdict = dry_run.run(plan, limit=None)
    if as_json:
        print_json({"study": study.name, **asdict(verdict)})
    else:
        line = f"{study.name}: {verdict.state} in {verdict.seconds:.2f} s: {verdict.said}"
        print(line, file=sys.stdout if verdict.state == "passed" else sys.stderr)
    raise typer.Exit({"passed": 0, "refused": USAGE}.get(verdict.state, FAILURE))


def _show_ending(study: Study, url: str, ending: Ending, as_json: bool) -> None:
    from atoll.platform import exit_codes
    from atoll.platform.commands import display, leaderboard_view
    from atoll.platform.launch import lifecycle
    from atoll.storage.export import trial_as_dict

    folder = lifecycle.study_folder(study).path
    if not ending.recorded:
        print(f"the store is incomplete; to finish, run `atoll record {folder}{store_flag(url)}`", file=sys.stderr)
        return
    from atoll.analysis import leaderboard as ranking
    from atoll.analysis.failures import by_kind

    store = open_store(url)
    row = store.study(study.name, lifecycle.uid(lifecycle.study_folder(study)))  # it may have been renamed
    best = ranking.best(store, row, 10)
    if as_json:
        summary_fields = {"study": study.name, "state": ending.state, "reason": ending.reason, "folder": str(folder)}
        print_json(summary_fields | {"best": trial_as_dict(best[0]) if best else None})
        return
    (summary,) = store.studies(row.id)
    leaderboard_view.show(row, best, summary.counts, store=url)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(summary.counts.items()))
    print(
        f"{ending.state}: {counts}; {counted(len(store.migrations(row)), 'migration')}; stored in {store}; files in "
        f"{folder}"
    )
    if ending.reason:
        print(f"complete: {ending.reason}" if ending.state == "complete" else ending.reason)
    kinds = by_kind(store.trials(row)) if summary.counts.get("failed") else ()
    for line in display.failures(row.name, kinds, store_flag(url)):
        print(line)
    if ending.exit_code == exit_codes.EXIT_STOPPED:
        print("to continue, repeat the command with --resume")


@app.command(epilog="Example: atoll train best.yaml --ranks 4")
def train(
    file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A configuration file from `atoll export`.")],
    ranks: Annotated[int | None, typer.Option(help="Number of ranks. Default: the configuration's.")] = None,
    place: Annotated[int, typer.Option(help="Position of the configuration in a file with several.", min=1)] = 1,
    test: Annotated[bool, typer.Option("--test", help="Also measure the trained model on the test data.")] = False,
    observe: Annotated[
        int | None, typer.Option(help="Record how much each layer changed over this many epochs. Default: off.", min=1)
    ] = None,
    evaluate_train: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Also measure the evaluated network's loss on this share of the training data, such as 0.1.",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="File for the trained model's state dict: .safetensors, or any other name for torch.save."),
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="With --save: write full weights instead of low-rank factors.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="The training's own folder, for its checkpoints and the workload's files. Default: a temporary one, "
            "without checkpoints."
        ),
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside", help="Allow the configuration file to refer to code outside its folder.")
    ] = False,
    no_check: NoCheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one configuration on one worker."""
    from atoll.platform.launch import extras

    extras.require_search_extra()
    from atoll.platform.commands import searching
    from atoll.platform.launch import dry_run, train

    if merged and save is None:
        raise typer.BadParameter("--merged needs --save FILE")
    configuration = train.read(file, place, ranks, inside=not outside)
    say = (lambda line: None) if as_json else print
    if observe is not None:
        configuration = configuration.model_copy(update={"observe": observe})
    if evaluate_train is not None:
        if not 0 < evaluate_train <= 1:
            raise typer.BadParameter(f"--evaluate-train must be a share above 0 and at most 1; got {evaluate_train:g}")
        configuration = configuration.model_copy(update={"evaluate_train": evaluate_train})
    changes = train.differences(configuration)
    for change in changes:
        print(f"unlike the exported trial: {change}", file=sys.stderr)
    train.check_outputs(configuration.calls_function, save, folder)
    if not no_check:
        dry_run.check_configuration(configuration.configuration(), test=test, say=searching.warn)
    result = train.train(configuration.configuration(), test=test, say=say, save=save, merged=merged, folder=folder)
    if as_json:
        print_json(result | {"differences": changes})
    else:
        for line in train.explain(configuration, result, changes):
            print(line)
        if save is not None and result["state"] == "complete":
            print(f"wrote {save}")
    raise typer.Exit(0 if result["state"] == "complete" else FAILURE)


@app.command(epilog="Example: atoll stop quickstart")
def stop(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a running search or benchmark to stop, and cancel its queued jobs. --resume requeues running trials."""
    from atoll.platform.batch import listing
    from atoll.platform.launch import errors, lifecycle, running
    from atoll.storage import liveness
    from atoll.storage.folder import DEFAULT_PARENT, BenchmarkFolder

    part = running.running_part(BenchmarkFolder(DEFAULT_PARENT / study))
    folder = folder_of(study, store, may_wait=True) if part is None else part
    jobs = listing.stop(folder)  # first, so that none follows
    content: dict[str, Any] = {"study": study, "canceled_jobs": jobs.canceled, "asked_jobs": jobs.asked}
    told = [f"canceled the queued jobs {', '.join(jobs.canceled)}"] if jobs.canceled else []
    told += [f"asked the running jobs {', '.join(jobs.asked)} to stop"] if jobs.asked else []
    for problem in jobs.problems:
        print(f"warning: jobs may still wait: {problem}", file=sys.stderr)
    if liveness.holder(folder) is not None:
        running.request_stop(folder)
        content["stop_request"] = str(folder.stop_request)
        told.append(f"asked {study} to stop; running trials are requeued on --resume")
    elif not jobs.asked and (interrupted := lifecycle.end_interrupted(folder)) is not None:
        content |= {"state": interrupted[0], "ended_ranks": interrupted[1]}
        told.append(told_interrupted(study, *interrupted))
    elif not told:
        raise errors.LaunchError(f"{study} is not running: no live process holds {folder.lock}")
    if as_json:
        print_json(content)
    else:
        print(*told, sep="\n")


def folder_of(study: str, store: str | None, *, may_wait: bool = False) -> StudyFolder:
    """A study's folder: the one that is named, the usual one, or the store's. Raises LaunchError if it is not here.

    Args:
        study, store: the study's name or folder, and the store's URL.
        may_wait: whether a study counts whose first job waits to start it.
    """
    from atoll.platform.launch import errors
    from atoll.storage.folder import DEFAULT_PARENT, StudyFolder

    candidates = (StudyFolder(study), StudyFolder(DEFAULT_PARENT / study))

    def is_here(folder: StudyFolder) -> bool:
        return folder.exists() or (may_wait and folder.jobs.is_dir())

    folder = next(filter(is_here, candidates), None) or _stored_folder(open_store(store).study(study))
    if not is_here(folder):
        raise errors.LaunchError(f"{study} has no files in {folder.path} on this host")
    return folder


def _stored_folder(row: StudyRow) -> StudyFolder:
    """The folder of a study in the store, unless another study's files have taken its place."""
    from atoll.platform.launch.errors import LaunchError
    from atoll.storage.folder import StudyFolder

    if row.is_imported:
        raise LaunchError(f"{row.name} was imported: it does not run")
    folder = StudyFolder(row.folder)
    if folder.exists() and not folder.is_of(row.name, row.uid):
        raise LaunchError(f"{row.folder} holds another study than the store's {row.name}; nothing was stopped")
    return folder
