"""Commands for the jobs of a batch system."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.analysis.formatting import counted
from atoll.platform.commands.shared import (
    JsonOption,
    StoreOption,
    app,
    hide_password,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from atoll.platform.batch.job import Job
    from atoll.platform.study.study import Study
    from atoll.storage.folder import StudyFolder


@app.command(epilog="Example: atoll submit study.yaml --cluster cluster.yaml --nodes 2 --time 4:00:00 --chain 5")
def submit(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    cluster: Annotated[
        str, typer.Option(help="A cluster file with a section `batch`, or the name of a bundled cluster.")
    ],
    nodes: Annotated[
        int | None, typer.Option(help="Number of nodes. Default: as few as hold the study's ranks.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Time limit of a job, such as 4:00:00, 1-00:00:00 or 90m. Default: the cluster file's."),
    ] = None,
    chain: Annotated[
        int | None,
        typer.Option(help="Submit up to this many jobs, one after the other, until the study is done. Default: 1."),
    ] = None,
    until_done: Annotated[
        bool,
        typer.Option(
            "--until-done", help="Each job submits the next one, until the study is done or a job made no progress."
        ),
    ] = False,
    array: Annotated[int, typer.Option(help="Number of jobs, or chains, side by side that share the study.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job script, and submit nothing.")] = False,
    outside: Annotated[
        bool, typer.Option("--outside", help="Allow the study file to refer to code outside its folder.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a search to Slurm, PBS or LSF: a job script that starts the study, or goes on with it."""
    from dataclasses import replace

    from atoll.platform.batch import submitting
    from atoll.platform.batch.script import script
    from atoll.platform.launch import lifecycle

    if chain is not None and until_done:
        raise typer.BadParameter("--chain and --until-done exclude each other")
    study = _checked(file, inside=not outside)
    limit = None if until_done else 1 if chain is None else chain
    job = _job(study, file, cluster, nodes, time, limit, array, store, outside)
    if dry_run:
        job = replace(job, store=job.store and hide_password(job.store))
        print_json({"study": study.name, "script": script(job)}) if as_json else print(script(job), end="")
        return
    for note in _notes(study, job):
        print(f"note: {note}", file=sys.stderr)
    submission, jobs = submitting.submit(job, lifecycle.study_folder(study))
    ids = [one.id for one in jobs]
    if as_json:
        print_json({"study": study.name, "jobs": ids, "script": str(submission.script), "logs": str(submission.path)})
        return
    some = ", ".join(ids[:5]) + (f", ... ({len(ids)} jobs)" if len(ids) > 5 else "")
    print(
        f"submitted {some}: {counted(job.ranks, 'rank')} on {counted(job.nodes, 'node')}; script and logs are in "
        f"{submission.path}"
    )
    print(f"`atoll jobs {study.name}` lists them, `atoll stop {study.name}` ends them")


def _notes(study: Study, job: Job) -> Iterator[str]:
    if study.checkpoint is None and not job.chain.is_single:
        yield "the study has no `checkpoint`: a trial that a job's end interrupts starts again in the next job"
    if study.stop_grace > job.batch.stop_seconds:
        yield (
            f"a stop may take the study's stop_grace of {study.stop_grace:g} s, and a job has batch.stop_seconds of "
            f"{job.batch.stop_seconds} s for it: increase the latter, or trials in flight may be lost"
        )


def _checked(file: Path, *, inside: bool) -> Study:
    """The study, checked as a search would: a mistake must not cost a place in the queue."""
    from atoll.platform.commands import searching
    from atoll.platform.launch import checks, extras, live
    from atoll.platform.study.study import Study
    from atoll.storage import yamlfile

    extras.require_search_extra()
    study = yamlfile.load(file, Study, inside=inside)
    with searching.naming(file):
        checks.check(study)
    live.check(study.on_trial)
    return study


def _job(
    study: Study,
    file: Path,
    cluster_file: str,
    nodes: int | None,
    time: str | None,
    limit: int | None,
    lanes: int,
    store: str | None,
    outside: bool,
) -> Job:
    import os

    from atoll.analysis import clusters
    from atoll.platform.batch import job, records
    from atoll.platform.launch import lifecycle

    chain = job.Chain(limit, lanes)
    cluster = clusters.cluster(cluster_file)
    batch = job.batch_of(cluster)
    used, per_node = job.spread(study, cluster, nodes)
    programs = Path(sys.executable).parent if batch.venv is None else Path(batch.venv).expanduser() / "bin"
    return job.Job(
        name=study.name,
        batch=batch,
        nodes=used,
        ranks=study.topology.shape().world_size,
        ranks_per_node=per_node,
        seconds=job.limit(batch, time),
        chain=chain,
        study_file=file.absolute(),
        directory=Path.cwd(),
        folder=records.next_path(lifecycle.study_folder(study)),
        programs=programs,
        store=store or os.environ.get("ATOLL_STORE"),
        arguments=("--outside",) if outside else (),
    )


@app.command(epilog="Example: atoll jobs quickstart")
def jobs(
    study: Annotated[str, typer.Argument(help="The study's name, folder or file.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs of a study: queued, running, or how they ended."""
    from dataclasses import asdict

    from atoll.platform.batch import listing
    from atoll.platform.commands import display

    folder = _folder(study, store)
    rows = listing.jobs(folder)
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        print_table(display.jobs(rows))
        print(f"logs are in {folder.path}")
        for problem in sorted({row.reason for row in rows if row.state == "unknown"}):
            print(f"the batch system could not be asked: {problem}", file=sys.stderr)
    else:
        print(f"no jobs of {study} were submitted")


def _folder(study: str, store: str | None) -> StudyFolder:
    """The files of a study, which need not have started: by its file, its name or its folder."""
    from atoll.platform.commands.search import folder_of
    from atoll.platform.launch import lifecycle
    from atoll.platform.study.study import Study
    from atoll.storage import yamlfile

    if study.endswith((".yaml", ".yml", ".json")):
        return lifecycle.study_folder(yamlfile.load(Path(study), Study))
    return folder_of(study, store, may_wait=True)


job_commands = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Used in job scripts."
)
app.add_typer(job_commands, name="job", hidden=True)

Folder = Annotated[Path, typer.Argument(help="The submission's folder.")]
JobId = Annotated[str, typer.Argument(help="The job's id.")]


@job_commands.command(epilog="Example: atoll job start atoll-studies/mine/jobs/1 4711")
def start(folder: Folder, job: JobId) -> None:
    """Record that a job starts; the exit code is not 0 if it is not to search."""
    from atoll.platform.batch import chain, records

    raise typer.Exit(chain.start(records.Submission(folder), records.check_id(job)))


@job_commands.command(epilog="Example: atoll job end atoll-studies/mine/jobs/1 4711 75")
def end(folder: Folder, job: JobId, code: Annotated[int, typer.Argument(help="The search's exit code.")]) -> None:
    """Record how a job ends, and cancel what waits for it unless that can go on."""
    from atoll.platform.batch import chain, records

    chain.end(records.Submission(folder), records.check_id(job), code)
