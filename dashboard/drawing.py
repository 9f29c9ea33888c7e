"""The figures of a study by name: what the pages draw, and what `atoll.StudyResults.figure` returns."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from atoll.analysis import importance as evaluation
from atoll.dashboard.board import Board
from atoll.dashboard.figures import islands, parallel, style
from atoll.dashboard.figures import study as figures
from atoll.dashboard.figures import trial as trial_figures
from atoll.dashboard.figures.islands import Relative
from atoll.storage import browse
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store

MAX_CURVES = 8
MAX_RELATIVES = 150


def history(_store: Store, board: Board, against: figures.Axis = "trials") -> go.Figure:
    """Every complete trial's objective, and the best so far."""
    _check("against", against, list(figures.AXES))
    study = board.study
    return figures.best_so_far(
        board.trials, study.metric, study.direction, board.target, against=against, started=study.started
    )


def parallel_coordinates(_store: Store, board: Board, brush: Mapping[str, Any] | None = None) -> go.Figure:
    """A line for each trial, over its hyperparameters and the objective."""
    sample, hyperparameters = board.sample()
    axes = parallel.dimensions(sample, hyperparameters, board.study.metric)
    return parallel.figure(sample, axes, brush or {}, _num_complete(board), board.study.direction)


def importance(store: Store, board: Board, method: evaluation.Method = "PED-ANOVA") -> go.Figure:
    """The importance of each hyperparameter. Raises ImportanceError if the method needs a missing package."""
    found, used = shares(store, board, method)
    return figures.importance(found, method, used)


def shares(store: Store, board: Board, method: evaluation.Method) -> tuple[dict[str, float], int]:
    """The importance of each hyperparameter, and the number of complete trials that it is computed from."""
    _check("method", method, get_args(evaluation.Method))
    complete = board.trials[board.trials["place"].notna()]
    some = complete.iloc[evaluation.sample(len(complete))]
    held = browse.hyperparameters(store, some["id"].tolist())
    rows = [held.get(int(id_), {}) for id_ in some["id"]]
    return evaluation.importance(rows, some["objective"].tolist(), board.study.direction, method), len(some)


def slices(_store: Store, board: Board, hyperparameters: Sequence[str] | None = None) -> go.Figure:
    """The objective against each hyperparameter. Default: all."""
    sample, held = board.sample()
    names = list(held.columns) if hyperparameters is None else [name for name in hyperparameters if name in held]
    return figures.slices(sample, held, names, board.study.metric)


def contour(_store: Store, board: Board, x: str | None = None, y: str | None = None) -> go.Figure:
    """The best objective over two hyperparameters. Default: the first two."""
    sample, held = board.sample()
    first = [*held.columns, None, None]
    x, y = x or first[0], y or first[1]
    if x not in held or y not in held:
        return style.message("Choose two hyperparameters.")
    return figures.contour(sample, held, x, y, board.study.metric, board.study.direction)


def pareto(_store: Store, board: Board, x: str | None = None, y: str | None = None) -> go.Figure:
    """The front of two objectives. Default: the first two."""
    names = [objective["name"] for objective in board.objectives]
    if len(names) < 2:
        return style.message(f"This study has one objective, {names[0]}; a Pareto front needs at least two.")
    first, second = (x, y) if x in names and y in names and x != y else names[:2]
    return figures.pareto(board.trials, board.objectives, str(first), str(second))


def timeline(_store: Store, board: Board) -> go.Figure:
    """Each worker's time."""
    return figures.timeline(board.trials, board.study.started, board.study.finished or time.time())


def failures(store: Store, board: Board) -> go.Figure:
    """The number of trials that failed or were lost, by reason."""
    return figures.failures(browse.reasons(store, board.study.id))


def curves(
    store: Store, board: Board, trials: Sequence[int] | None = None, against: trial_figures.Axis = "epoch"
) -> go.Figure:
    """The training curves of trials by number, at most `MAX_CURVES`. Default: the best ones."""
    _check("against", against, list(trial_figures.AXES))
    if trials is None:
        return curves_of(store, board, board.best(MAX_CURVES), against)
    last = board.trials.groupby("number")["id"].last()  # of a trial that was lost, the last attempt
    ids = [int(last[number]) for number in trials if number in last.index][:MAX_CURVES]
    return curves_of(store, board, ids, against)


def curves_of(store: Store, board: Board, ids: Sequence[int], against: trial_figures.Axis = "epoch") -> go.Figure:
    """The training curves of trials by id."""
    numbers = board.trials.set_index("id")["number"]
    number_of = {id_: int(numbers[id_]) for id_ in ids}
    reports = trial_figures.reports_frame(store.progress(number_of), number_of)
    metric = board.study.curve_metric or board.study.metric
    return trial_figures.curves(reports, metric, board.study.target, against)


def ledger(store: Store, board: Board, trial: int | None = None) -> go.Figure:
    """A trial's communication per rank. Default: the best trial's."""
    number = _number(board, trial)
    if number is None:
        return style.message(figures.NOTHING)
    return ledger_of(store, browse.trial(store, board.study.id, number))


def ledger_of(store: Store, trial: TrialRow) -> go.Figure:
    """A trial's communication per rank."""
    names = ("operation", "scope", "overlapped", "wire_bytes", "seconds_waited")
    entries = [{name: getattr(entry, name) for name in names} for entry in store.ledger(trial.id)]
    num_steps = browse.newest_progress(store, [trial.id]).get(trial.id, 0)
    return trial_figures.ledger(pd.DataFrame(entries), num_steps, int(trial.configuration.get("ranks", 1)))


def populations(_store: Store, board: Board) -> go.Figure:
    """Each island's best individual so far, and the median of its newest."""
    study = board.study
    return islands.populations(board.trials, study.metric, study.direction, study.started)


def migrations(store: Store, board: Board) -> go.Figure:
    """The number of individuals sent from island to island."""
    moved = Counter((m.from_island, m.to_island) for m in store.migrations(board.study))
    return islands.migrations(moved, [int(island) for island in board.trials["island"].unique()])


def diversity(_store: Store, board: Board) -> go.Figure:
    """The diversity of each island over time."""
    return islands.diversity(_distances(board))


def _distances(board: Board) -> dict[int, tuple[list[float], list[float]]]:
    """The mean distance of each island's newest individuals, at moments of the study."""
    moments = islands.moments(board.trials)
    windows = [window for some in moments.values() for window in some]
    if not windows:
        return {}
    rows = np.unique(np.concatenate(windows))
    held = board.held(board.trials["id"].to_numpy()[rows])
    held.index = rows
    whole = islands.extents(held)
    started = board.trials["started"].to_numpy() - board.study.started
    return {
        island: (
            [float(started[window[-1]]) for window in some],
            [islands.mean_distance(held.loc[window], whole) for window in some],
        )
        for island, some in moments.items()
    }


def family(store: Store, board: Board, trial: int | None = None) -> go.Figure:
    """A trial and its ancestors. Default: the best trial's."""
    number = _number(board, trial)
    if number is None:
        return style.message(figures.NOTHING)
    found = browse.ancestry(store, board.study.id, number, MAX_RELATIVES)
    return islands.family_tree(relatives(found), number, board.study.metric)


def relatives(found: Mapping[int, TrialRow]) -> dict[int, Relative]:
    """Trials in the form that the family tree takes."""
    return {
        number: Relative(
            number,
            trial.island,
            (trial.proposal or {}).get("operator", "unknown"),
            tuple((trial.proposal or {}).get("parents", ())),
            trial.objective,
        )
        for number, trial in found.items()
    }


FIGURES: dict[str, Callable[..., go.Figure]] = {
    "history": history,
    "importance": importance,
    "parallel": parallel_coordinates,
    "slices": slices,
    "contour": contour,
    "pareto": pareto,
    "timeline": timeline,
    "failures": failures,
    "curves": curves,
    "ledger": ledger,
    "populations": populations,
    "migrations": migrations,
    "diversity": diversity,
    "family": family,
}


def options_of(name: str) -> list[str]:
    """The options of a figure."""
    return list(inspect.signature(FIGURES[name]).parameters)[2:]


def figure(store: Store, study: StudyRow, name: str, **options: Any) -> go.Figure:
    """A figure of a study as it is now.

    Raises:
        ValueError: for an unknown figure, option or choice; it lists the valid ones.
    """
    _check("the figure", name, list(FIGURES))
    for option in options:
        _check(f"the option of the figure {name}", option, options_of(name))
    board = Board(store, study).refresh(study)
    _check_names(board, name, options)
    return FIGURES[name](store, board, **options)


def _check_names(board: Board, name: str, options: Mapping[str, Any]) -> None:
    """Check the names of hyperparameters, of objectives and of trials; pages leave out what they do not know."""
    given = [options[key] for key in ("x", "y") if options.get(key) is not None]
    given += options.get("hyperparameters") or ()
    if given and name == "pareto":
        for one in given:
            _check("an objective", one, [objective["name"] for objective in board.objectives])
    elif given and len(board.trials):
        for one in given:
            _check("a hyperparameter", one, list(board.sample()[1].columns))
    known = set(board.trials["number"])
    for number in [*(options.get("trials") or ()), *([options["trial"]] if options.get("trial") is not None else [])]:
        if number not in known:
            raise ValueError(f"trials must be in the study, which has {len(known):,}; got {number!r}")


def _check(what: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices) or 'none'}; got {given!r}")


def _num_complete(board: Board) -> int:
    return int(board.trials["place"].notna().sum())


def _number(board: Board, trial: int | None) -> int | None:
    """The trial. Default: the best one, if any is complete."""
    best = board.trials.loc[board.trials["place"] == 1, "number"]
    return trial if trial is not None else int(best.iloc[0]) if len(best) else None
