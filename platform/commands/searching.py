"""Runs a search from this process: it starts the ranks, is one of them inside an MPI job, or has them as threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from atoll.analysis.formatting import counted
from atoll.platform.commands import display, live_search
from atoll.platform.launch import changing, checks, dry_run, exhaustion, join, lifecycle, room, same_study, supervise
from atoll.platform.launch.lifecycle import Ending
from atoll.platform.study import effects, registry
from atoll.platform.study.samplers import Mixed, members

if TYPE_CHECKING:
    from atoll.platform.study.study import Study
    from atoll.platform.study.traveling import Traveler


@contextmanager
def naming(file: Path | None) -> Iterator[None]:
    """Errors name the study's file."""
    from atoll.storage.yamlfile import FileError

    try:
        yield
    except ValueError as error:
        if file is None or isinstance(error, FileError):
            raise
        raise FileError(f"{file}: {error}") from None


def _names(study: Study) -> str:
    """The samplers of a study in words."""
    named = (
        f"{sampler.name} ({', '.join(member.name for member in members(sampler))})"
        if isinstance(sampler, Mixed)
        else sampler.name
        for sampler in study.samplers()
    )
    return ", ".join(dict.fromkeys(named))


def warn(line: str) -> None:
    """Print a warning."""
    print(f"warning: {line}", file=sys.stderr)


def _warn_once(line: str) -> None:
    """Print a warning, inside an MPI job on rank 0 only."""
    if join.is_first():
        warn(line)


def run(
    study: Study,
    url: str,
    console: Console,
    *,
    file: Path | None = None,
    resuming: bool | None = False,
    accept_changes: bool = False,
    in_process: bool = False,
    function: Traveler | None = None,
) -> Ending | int:
    """Run a search to its end.

    Args:
        study: the study.
        url: the store's.
        console: receives progress.
        file: the study's file, for errors.
        resuming: whether to continue an existing study; None to do so if there is one.
        accept_changes: whether to continue it although its code, data or libraries have changed.
        in_process: whether the ranks are threads of this process.
        function: the function that trials call, if it is no file's.

    Returns:
        How it ended; inside an MPI job, on ranks other than 0: the exit code.
    """
    if function is not None:
        registry.give(function.name, function.called)
    with naming(file):
        given, study = study, same_study.as_recorded(study, lifecycle.study_folder(study), _warn_once)
        folder = lifecycle.study_folder(study)
        plan = checks.check(study, in_process=in_process, changed=folder if changing.newest(folder) else None)
    asked, study = study.trials, plan.study
    shape = study.topology.shape()
    run_ranks = supervise.supervise
    if in_process:
        from atoll.platform.launch.in_process import run_in_process

        run_ranks = run_in_process
    elif join.inside_mpi(shape.world_size):
        with naming(file), live_search.of(console, plan) as live:
            return join.join(plan, url, resuming=resuming, accept_changes=accept_changes, follow=live, say=warn)
    lifecycle.check_new(study, resuming)
    lifecycle.check_not_complete(plan)
    room.check(study, url, warn)
    with naming(file):
        dry_run.check(plan, forks=not in_process, say=warn)
    where = (
        f"{counted(shape.world_size, 'thread')} of this process" if in_process else counted(shape.world_size, "rank")
    )
    console.print(f"{study.name}: {display.subject(study)}, {shape} = {where}", soft_wrap=True)
    if study.samplers() != given.samplers():
        console.print(f"note: the study keeps the sampler that it was started with, {_names(study)}", soft_wrap=True)
    if (limit := exhaustion.note(asked, plan)) is not None:
        console.print(f"note: {limit}", soft_wrap=True)
    for note in plan.notes():
        console.print(f"note: {note}", soft_wrap=True)
    for note in effects.searched_without_effect(plan, num_nodes=1):  # its own ranks are all on this host
        console.print(f"note: {note}")
    with live_search.of(console, plan) as live:
        return supervise.run_study(
            plan,
            url,
            resuming=resuming,
            follow=live,
            accept_changes=accept_changes,
            run_ranks=run_ranks,
            function=None if function is None or in_process else function.packed(),
        )
