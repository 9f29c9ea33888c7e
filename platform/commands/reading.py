"""Commands that give a study's results as tables, and show one trial and what the ranks print."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.analysis.formatting import counted
from atoll.platform.commands.shared import JsonOption, Name, StoreOption, app, open_store, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from atoll.storage.rank_logs import Output, OutputTail
    from atoll.storage.store import Store

FOLLOW_INTERVAL = 0.5
AttemptOption = Annotated[int | None, typer.Option(help="The trial's attempt. Default: the last.", min=0)]


@app.command(epilog="Example: atoll table quickstart -o trials.csv")
def table(
    study: Name = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="A .csv, .parquet or .json file to write. Default: CSV, standard output.")
    ] = None,
    curves: Annotated[
        bool, typer.Option("--curves", help="A row for each report of each trial instead of one for each trial.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write all trials of a study, in every state, as a table; docs/reading_results.md explains the columns."""
    from atoll.analysis import tables

    if output is not None:
        tables.check_format(output)
    opened = open_store(store)
    row = opened.study(study)
    frame = (tables.curves if curves else tables.trials)(opened, row)
    if output is not None:
        tables.write(frame, output)
    if as_json:
        print_json(tables.records(frame))
    elif output is None:
        print(tables.to_csv(frame), end="")
    else:
        print(f"wrote {output}: {counted(len(frame), 'row')}")


@app.command(epilog="Example: atoll trial quickstart 12")
def trial(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    number: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.", min=0)],
    attempt: AttemptOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one trial: configuration, measurements, curve, notes, the reason and traceback of a failure, and output."""
    from atoll.platform.commands import trial_view
    from atoll.results.reading import StudyResults

    opened = open_store(store)
    row = opened.study(study)
    found = StudyResults(opened, row).trial(number, attempt)
    if as_json:
        print_json(found)
    else:
        trial_view.show(row, found)


@app.command(epilog="Example: atoll logs quickstart 12 --follow")
def logs(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    trial: Annotated[
        int | None, typer.Argument(metavar="[TRIAL]", help="Only this trial's output. Default: all output.", min=0)
    ] = None,
    attempt: Annotated[int | None, typer.Option(help="Only this attempt of TRIAL. Default: all.", min=0)] = None,
    rank: Annotated[int | None, typer.Option(help="Only this rank of the study. Default: all.", min=0)] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print what is added, until the study or TRIAL ends.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the ranks print: ranks.log with mpiexec's messages, then each trial's output, rank by rank."""
    from atoll.results import reading
    from atoll.storage import browse, rank_logs
    from atoll.storage.store import StoreError

    if follow and as_json:
        raise typer.BadParameter("--follow prints text as it comes: omit --json")
    if attempt is not None and trial is None:
        raise typer.BadParameter("--attempt needs a TRIAL")
    opened = open_store(store)
    row = opened.study(study)
    folder = reading.files_of(row)
    if trial is not None:
        browse.trial(opened, row.id, trial, attempt)
    ranks: Collection[int] = () if rank is None else (rank,)
    if follow:
        _follow(rank_logs.OutputTail(folder, trial, attempt, ranks), _ending(opened, row.name, row.uid, trial, attempt))
        return
    outputs = list(rank_logs.read(folder, trial, attempt, ranks))
    if trial is not None and not outputs:
        raise StoreError(reading.untold(row, folder, trial))
    if as_json:
        names = ("rank", "trial", "attempt", "started", "text")
        print_json([dict(zip(names, _fields(output), strict=True)) for output in outputs])
        return
    _Printer().print([output for output in outputs if output.text])
    if not any(output.text for output in outputs):
        print(f"{row.name if trial is None else f'trial {trial}'} has printed nothing")


def _fields(output: Output) -> tuple[object, ...]:
    number, attempt = output.trial or (None, None)
    return output.rank, number, attempt, output.started or None, output.text


class _Printer:
    """Prints output, with a title where another rank's or trial's begins."""

    def __init__(self) -> None:
        self._title = ""
        self._is_torn = False

    def print(self, outputs: list[Output]) -> None:
        """Print these after what was printed before."""
        for output in outputs:
            if output.title != self._title:
                print("\n" * (self._is_torn + bool(self._title)) + output.title)
                self._title = output.title
            print(output.text, end="", flush=True)
            self._is_torn = not output.text.endswith("\n")
        if outputs and self._is_torn:
            print()
            self._is_torn = False


def _follow(tail: OutputTail, has_ended: Callable[[], bool]) -> None:
    printer, is_over = _Printer(), False
    while not is_over:
        is_over = has_ended()  # first: what is printed until then is read below
        printer.print(tail.read(last=is_over))
        if not is_over:
            time.sleep(FOLLOW_INTERVAL)


def _ending(store: Store, name: str, uid: str | None, number: int | None, attempt: int | None) -> Callable[[], bool]:
    """Whether the study, or the trial, has ended; a trial that was lost may be queued again."""
    from atoll.storage import browse
    from atoll.storage.liveness import true_state_of

    def has_ended() -> bool:
        row = store.study(name, uid)
        if true_state_of(row) != "running":
            return True
        if number is None:
            return False
        state = browse.trial(store, row.id, number, attempt).state
        return state != "running" if attempt is not None else state in ("complete", "pruned", "failed")

    return has_ended
