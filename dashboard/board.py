"""A study's trials as columns that follow the store: read once, then only what is new or had not ended."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atoll.analysis import pareto
from atoll.dashboard import thinning
from atoll.storage import browse
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store

MAX_BOARDS = 16
MAX_SAMPLE = 5000


def _kind(name: str) -> type:
    """What NumPy holds a column as: a float where values may be missing, for which NaN stands."""
    column = TrialRow.__table__.c[name]
    if column.type.python_type is str:
        return object
    return float if column.nullable else column.type.python_type


KINDS = {name: _kind(name) for name in browse.SCALAR_COLUMNS}


def objectives(study: StudyRow) -> list[dict[str, Any]]:
    """Name and direction of each objective, the first is the one that places go by where it is the only one."""
    return list(study.objectives or [{"name": study.metric, "direction": study.direction}])


class Board:
    """The trials of one study.

    Attributes:
        study: its row, as it was when the board was last brought up to date.
        trials: a row for each trial with `browse.SCALAR_COLUMNS`, `objectives.NAME` where there are several, and
            `place`: 1 is the best; NaN for what is not complete.
        revision: changes with the trials or the study; the same in every process that shows them.
    """

    def __init__(self, store: Store, study: StudyRow) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._hyperparameters: dict[int, dict[str, Any]] = {}
        self.study = study
        self.revision = ""
        self._about: tuple[object, ...] = ()
        self.trials = self._ranked(self._frame([]))

    def refresh(self, study: StudyRow) -> Board:
        """Read what is new; `study` is its row as it is now."""
        with self._lock:
            self.study = study
            about = (study.id, study.started, study.name, study.state, study.num_trials, study.archived)
            known = self.trials
            new = browse.scalar_columns(self._store, study.id, int(known["id"].max()) if len(known) else 0)
            # Lines of a trial that was given up for lost may still come while the study runs.
            open_states = ("running", "lost") if study.state == "running" else ("running",)
            states: dict[int, str] = dict(
                known.loc[known["state"].isin(open_states), ["id", "state"]].itertuples(index=False)
            )
            again = browse.scalar_columns_of(self._store, states) if states else []
            changed = [row for row in again if row.state != states[row.id]]
            if new or changed:
                kept = known[~known["id"].isin([row.id for row in changed])].drop(columns="place")
                added = self._frame([*new, *changed])
                self.trials = self._ranked(pd.concat([kept, added]).sort_values("id") if len(known) else added)
            elif not states and self._about == about:
                return self
            running = self.trials.loc[self.trials["state"] == "running", "id"].tolist()
            steps = sum(browse.newest_progress(self._store, running).values()) if running else 0
            ended = int(self.trials["finished"].notna().sum())
            self.revision = str((*about, len(self.trials), ended, sorted(self.counts().items()), steps))
            self._about = about
        return self

    @property
    def target(self) -> float | None:
        """The target, where it is the objective's."""
        return self.study.target if self.study.curve_metric in (None, self.study.metric) else None

    def best(self, number: int | None) -> list[int]:
        """The ids of so many of the best, or of the whole Pareto front."""
        complete = self.trials[self.trials["place"].notna()].sort_values("place")
        if number is None:
            return [int(id_) for id_ in complete["id"].to_numpy()[pareto.front(self.losses(complete).tolist())]]
        return [int(id_) for id_ in complete["id"].head(number)]

    @property
    def objectives(self) -> list[dict[str, Any]]:
        """Name and direction of each of the study's objectives."""
        return objectives(self.study)

    def _frame(self, rows: Sequence[Any]) -> pd.DataFrame:
        *narrow, several = zip(*rows, strict=True) if rows else ([] for _ in (*browse.SCALAR_COLUMNS, "objectives"))
        columns: dict[str, NDArray[Any]] = {
            name: np.array(values, KINDS[name]) for name, values in zip(browse.SCALAR_COLUMNS, narrow, strict=True)
        }
        for index, objective in enumerate(self.study.objectives or ()):
            values = [one[index] if one else None for one in several]
            columns[f"objectives.{objective['name']}"] = np.array(values, dtype=float)
        return pd.DataFrame(columns)

    def _ranked(self, frame: pd.DataFrame) -> pd.DataFrame:
        """With places: by the objective, of several by Pareto front and crowding distance; equals by number."""
        frame = frame.reset_index(drop=True)
        place = np.full(len(frame), math.nan)
        complete = np.flatnonzero(frame["state"].to_numpy() == "complete")
        if len(complete):
            losses = self.losses(frame)[complete]
            if self.study.objectives:
                order = np.array(pareto.order(losses.tolist()))
            else:
                order = np.lexsort((frame["number"].to_numpy()[complete], losses[:, 0]))
            place[complete[order]] = np.arange(1, len(complete) + 1)
        return frame.assign(place=place)

    def losses(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Objectives (trials, objectives) as what is to be minimised; what is missing is infinite."""
        names = [f"objectives.{o['name']}" for o in self.study.objectives] if self.study.objectives else ["objective"]
        signs = [-1.0 if o["direction"] == "maximize" else 1.0 for o in self.objectives]
        values = frame[names].to_numpy(dtype=float) * np.array(signs)
        return np.where(np.isnan(values), math.inf, values)

    def held(self, ids: Iterable[int]) -> pd.DataFrame:
        """The hyperparameters of these trials as columns, in the order of `ids`."""
        ids = [int(id_) for id_ in ids]
        cache = self._hyperparameters
        missing = [id_ for id_ in ids if id_ not in cache]
        if missing:
            if len(cache) > 4 * MAX_SAMPLE:  # samples drift while a search goes on
                cache = {id_: cache[id_] for id_ in ids if id_ in cache}
            # A dictionary of its own: others may be reading the one before.
            self._hyperparameters = cache = cache | browse.hyperparameters(self._store, missing)
        return pd.DataFrame([cache.get(id_, {}) for id_ in ids], index=ids)

    def sample(self, max_trials: int = MAX_SAMPLE) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Complete trials, the best first, and their hyperparameters row by row.

        All of them, or the best half of `max_trials` and the rest evenly by place.
        """
        complete = self.trials[self.trials["place"].notna()].sort_values("place")
        best = min(len(complete), max_trials // 2)
        rest = best + thinning.evenly(len(complete) - best, max_trials - best)
        trials = complete.iloc[np.concatenate([np.arange(best), rest])]
        return trials.reset_index(drop=True), self.held(trials["id"]).reset_index(drop=True)

    def counts(self) -> dict[str, int]:
        """How many trials are in each state."""
        return {str(state): int(count) for state, count in self.trials["state"].value_counts().items()}


class Boards:
    """The boards of the studies that were looked at last."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._boards: OrderedDict[tuple[int, float], Board] = OrderedDict()

    def known(self, study: StudyRow) -> str | None:
        """The revision of the study's board when it was last read; None where it was not yet."""
        board = self._boards.get((study.id, study.started))
        return board.revision or None if board else None

    def of(self, name: str) -> Board:
        """The board of the study called `name`, up to date. Raises StoreError where there is none."""
        study = self.store.study(name)
        key = study.id, study.started  # SQLite gives the id of a deleted study again
        with self._lock:
            board = self._boards.pop(key, None) or Board(self.store, study)
            self._boards[key] = board
            while len(self._boards) > MAX_BOARDS:
                self._boards.popitem(last=False)
        return board.refresh(study)
