"""Cached trial tables: each study is read once, later reads fetch only new trials and those that had not ended."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atoll.analysis import leaderboard, pareto
from atoll.dashboard import thinning
from atoll.storage import browse
from atoll.storage.liveness import true_state_of
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import Store

MAX_BOARDS = 16
MAX_SAMPLE = 5000


def _kind(name: str) -> type:
    """A column's type in NumPy: float if values may be missing, as NaN stands for them."""
    column = TrialRow.__table__.c[name]
    if column.type.python_type is str:
        return object
    return float if column.nullable else column.type.python_type


KINDS = {name: _kind(name) for name in browse.SCALAR_COLUMNS}


class Board:
    """The cached trial table of a study.

    Attributes:
        study: its row at the last refresh.
        trials: a row for each trial with the columns of `browse.SCALAR_COLUMNS`, `objectives.NAME` of several
            objectives, and `place`: 1 is the best; NaN for trials that are not complete.
        revision: changes with the trials or the study, and is the same in every process that serves them.
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
        """Read what has changed since the last refresh; `study` is its current row."""
        with self._lock:
            self.study = study
            true_state = true_state_of(study)
            about = (study.id, study.started, study.name, true_state, study.num_trials, study.archived)
            known = self.trials
            new = browse.scalar_columns(self._store, study.id, int(known["id"].max()) if len(known) else 0)
            # While the study runs, a lost trial may still report.
            open_states = ("running", "lost") if study.state == "running" else ("running",)
            again_started = {row.number for row in new if row.attempt}  # their earlier attempts may be continued ones
            may_change = known["state"].isin(open_states) | known["number"].isin(again_started)
            states: dict[int, str] = dict(known.loc[may_change, ["id", "state"]].itertuples(index=False))
            again = browse.scalar_columns_of(self._store, states) if states else []
            changed = [row for row in again if row.state != states[row.id]]
            if new or changed:
                kept = known[~known["id"].isin([row.id for row in changed])].drop(columns="place")
                added = self._frame([*new, *changed])
                self.trials = self._ranked(pd.concat([kept, added]).sort_values("id") if len(known) else added)
            elif not states and self._about == about:
                return self
            if true_state != "running":  # its launcher may have died before it could end them
                self.trials = self.trials.assign(state=self.trials["state"].replace("running", "lost"))
            running = self.trials.loc[self.trials["state"] == "running", "id"].tolist()
            steps = sum(browse.newest_progress(self._store, running).values()) if running else 0
            ended = int(self.trials["finished"].notna().sum())
            self.revision = str((*about, len(self.trials), ended, sorted(self.counts().items()), steps))
            self._about = about
        return self

    @property
    def target(self) -> float | None:
        """The target, if it applies to the objective."""
        return self.study.target if self.study.curve_metric in (None, self.study.metric) else None

    def best(self, number: int | None) -> list[int]:
        """The ids of the `number` best trials; None for the Pareto front."""
        complete = self.trials[self.trials["place"].notna()].sort_values("place")
        if number is None:
            return [int(id_) for id_ in complete["id"].to_numpy()[pareto.front(self.losses(complete).tolist())]]
        return [int(id_) for id_ in complete["id"].head(number)]

    @property
    def objectives(self) -> list[dict[str, Any]]:
        """Each objective's name and direction."""
        return self.study.all_objectives

    def _frame(self, rows: Sequence[Any]) -> pd.DataFrame:
        *narrow, several = zip(*rows, strict=True) if rows else ([] for _ in (*browse.SCALAR_COLUMNS, "objectives"))
        columns: dict[str, NDArray[Any]] = {
            name: np.array(values, KINDS[name]) for name, values in zip(browse.SCALAR_COLUMNS, narrow, strict=True)
        }
        for index, objective in enumerate(self.study.objectives or ()):
            values = [row[index] if row else None for row in several]
            columns[f"objectives.{objective['name']}"] = np.array(values, dtype=float)
        return pd.DataFrame(columns)

    def _ranked(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Add places, by the objective, or by Pareto front and crowding distance for several; ties by number."""
        frame = frame.reset_index(drop=True)
        place = np.full(len(frame), math.nan)
        complete = np.flatnonzero(frame["state"].to_numpy() == "complete")
        if len(complete):
            complete = complete[np.argsort(frame["number"].to_numpy()[complete], kind="stable")]
            order = leaderboard.ranking(self.study, self.losses(frame)[complete].tolist())
            place[complete[order]] = np.arange(1, len(complete) + 1)
        return frame.assign(place=place)

    def losses(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Objectives to minimize, (trials, objectives); a missing one is infinite."""
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
            if len(cache) > 4 * MAX_SAMPLE:  # the sample drifts while a search runs
                cache = {id_: cache[id_] for id_ in ids if id_ in cache}
            # A new dictionary, because other threads may be reading the old one.
            self._hyperparameters = cache = cache | browse.hyperparameters(self._store, missing)
        return pd.DataFrame([cache.get(id_, {}) for id_ in ids], index=ids)

    def sample(self, max_trials: int = MAX_SAMPLE) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Complete trials, the best first, and their hyperparameters in the same order.

        All of them, or at most `max_trials`: half are the best, the rest evenly spaced by place.
        """
        complete = self.trials[self.trials["place"].notna()].sort_values("place")
        best = min(len(complete), max_trials // 2)
        rest = best + thinning.evenly(len(complete) - best, max_trials - best)
        trials = complete.iloc[np.concatenate([np.arange(best), rest])]
        return trials.reset_index(drop=True), self.held(trials["id"]).reset_index(drop=True)

    def counts(self) -> dict[str, int]:
        """The number of trials in each state."""
        return {str(state): int(count) for state, count in self.trials["state"].value_counts().items()}


class Boards:
    """The boards of the studies that were read most recently."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._boards: OrderedDict[tuple[int, float], Board] = OrderedDict()

    def known(self, study: StudyRow) -> str | None:
        """The revision of the study's board; None if it has not been read."""
        board = self._boards.get((study.id, study.started))
        return board.revision or None if board else None

    def of(self, name: str) -> Board:
        """The current board of the study called `name`. Raises StoreError if it does not exist."""
        study = self.store.study(name)
        key = study.id, study.started  # SQLite reuses the id of a deleted study
        with self._lock:
            board = self._boards.pop(key, None) or Board(self.store, study)
            self._boards[key] = board
            while len(self._boards) > MAX_BOARDS:
                self._boards.popitem(last=False)
        return board.refresh(study)
