"""Shows a study's best trials in the terminal, in as many columns as fit, and tells which trials are not among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from atoll.analysis.formatting import counted, duration, number, size
from atoll.platform.commands.display import searched_names, subject, table
from atoll.platform.commands.shared import make_console, print_table, store_flag
from atoll.storage.models import StudyRow, TrialRow

# States of trials without a place; an attempt that another one has continued is none of its own.
_WITHOUT_PLACE = ("running", "failed", "pruned", "lost")


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        name: its header.
        cells: one for each trial.
        importance: the columns with the lowest are shown if not all fit.
    """

    name: str
    cells: tuple[str, ...]
    importance: int

    @property
    def width(self) -> int:
        """Characters that it takes: headers wrap between words, and cells do not; two blanks and a border."""
        return max(map(len, (*self.name.split(), *self.cells)), default=0) + 3


def show(
    study: StudyRow,
    trials: Sequence[TrialRow],
    counts: Mapping[str, int],
    *,
    wide: bool = False,
    store: str | None = None,
) -> None:
    """Print the best trials, which columns were left out, and how many trials have no place.

    Args:
        study: the study.
        trials: the best ones, in order.
        counts: the numbers of all its trials by state.
        wide: show all columns, even if the lines are longer than the terminal's.
        store: the option --store, for the commands that are told.
    """
    console = make_console()
    columns = _columns(study, trials)
    shown = columns if wide or not console.is_terminal else fitting(columns, console.width)
    print_table(_table(study, shown, len(trials)), wide=wide)
    if left_out := [column.name for column in columns if column not in shown]:
        print(
            f"{counted(len(left_out), 'column')} left out to fit the terminal: {', '.join(left_out)}. "
            f"`atoll leaderboard {study.name} --wide{store_flag(store)}` shows all, "
            f"`atoll trial {study.name} {trials[0].number}{store_flag(store)}` one trial"
        )
    if said := unranked(len(trials), counts):
        print(said)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into so many characters, in their order: the most important ones, and at least the first."""
    shown: set[int] = set()
    left = width - 1
    for index in sorted(range(len(columns)), key=lambda index: columns[index].importance):
        if columns[index].importance == 0 or columns[index].width <= left:
            shown.add(index)
            left -= columns[index].width
    return [column for index, column in enumerate(columns) if index in shown]


def unranked(num_shown: int, counts: Mapping[str, int]) -> str | None:
    """A line on the trials that a leaderboard does not show; None if it shows all.

    Args:
        num_shown: how many it shows.
        counts: the numbers of all trials by state.
    """
    complete = counts.get("complete", 0)
    others = [f"{counts[state]} {state}" for state in _WITHOUT_PLACE if counts.get(state)]
    if not others and num_shown >= complete:
        return None
    few = f"{num_shown} of " if num_shown < complete else ""
    words = f"{few}{counted(complete, 'complete trial')}" if complete else "no complete trial"
    return f"{words}; without a place: {', '.join(others)}" if others else words


def _columns(study: StudyRow, trials: Sequence[TrialRow]) -> list[Column]:
    """Place, objectives, metrics, hyperparameters, time, bytes and seed."""
    others = [objective["name"] for objective in (study.objectives or [])[1:]]
    # The seconds_* metrics are in the JSON output; their columns would crowd out the hyperparameters.
    metrics = sorted({name for t in trials for name in t.metrics or {} if not name.startswith("seconds_")})
    columns = [
        Column("place", tuple(str(place) for place, _ in enumerate(trials, 1)), 0),
        Column("trial", tuple(str(t.number) for t in trials), 0),
        Column(study.metric, tuple(number(t.objective) for t in trials), 0),
        *(
            Column(name, tuple(number(t.objectives[place] if t.objectives else None) for t in trials), 0)
            for place, name in enumerate(others, 1)
        ),
        *(
            Column(name, tuple(number((t.metrics or {}).get(name)) for t in trials), 3)
            for name in metrics
            if name not in (study.metric, *others)
        ),
        *(
            Column(name, tuple(number(t.hyperparameters.get(name)) for t in trials), 1)
            for name in searched_names(study, trials)
        ),
        Column("time", tuple(duration(t.seconds) for t in trials), 2),
        Column("sent", tuple(size(t.wire_bytes) for t in trials), 4),
        Column("seed", tuple(str(t.seed) for t in trials), 5),
        Column("island", tuple(str(t.island) for t in trials), 5),
    ]
    if len({t.provenance for t in trials}) > 1:
        columns.append(Column("provenance", tuple(number(t.provenance) for t in trials), 2))
    return columns


def _table(study: StudyRow, columns: Sequence[Column], num_trials: int) -> Table:
    rows = [[column.cells[place] for column in columns] for place in range(num_trials)]
    return table(f"{study.name}: {subject(study)}", [column.name for column in columns], rows)
