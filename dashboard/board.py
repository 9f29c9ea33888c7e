"""A study's trials as columns that follow the store: read once, then only what is new or had not ended."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atoll.analysis import pareto
from atoll.storage import browse
from atoll.storage.models import Study
from atoll.storage.store import Store

MAX_BOARDS = 8
MAX_SAMPLE = 5000
ENDED = ("complete", "pruned", "failed", "lost")


class Board:
    """The trials of one study.

    Attributes:
        study: its row, as it was when the board was last brought up to date.
        trials: a row for each trial with the columns of `browse.NARROW`, `objectives.NAME` where there are several, and
            `place`: 1 is the best; NaN for what is not complete.
        revision: changes with the trials or the study.
    """

    def __init__(self, store: Store, study: Study) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._held: dict[str, dict[int, dict[str, Any]]] = {"hp": {}, "metric": {}}
        self._steps: dict[int, int] = {}
        self.study = study
        self.revision = 0
        self.trials = self._ranked(self._frame([]))

    def refresh(self, study: Study) -> Board:
        """Read what is new; `study` is its row as it is now."""
        with self._lock:
            state = (self.study.state, self.study.name, self.study.num_trials, self.study.archived)
            has_changed = state != (study.state, study.name, study.num_trials, study.archived)
            self.study = study
            known = self.trials
            running = known.loc[~known["state"].isin(ENDED), "id"]
            new = browse.narrow_trials(self._store, study.id, int(known["id"].max()) if len(known) else 0)
            again = browse.narrow_again(self._store, running) if len(running) else []
            ended = [row for row in again if row.state in ENDED]
            for row in ended:
                self._held["metric"].pop(row.id, None)
            if new or ended:
                kept = known[~known["id"].isin([row.id for row in ended])] if ended else known
                joined = pd.concat([kept.drop(columns="place"), self._frame([*new, *ended])]) if len(known) else None
                self.trials = self._ranked(self._frame(new) if joined is None else joined.sort_values("id"))
            still = running[~running.isin([row.id for row in ended])].tolist()
            steps = dict(browse.newest_progress(self._store, still)) if still else {}
            if new or ended or has_changed or steps != self._steps:
                self.revision += 1
            self._steps = steps
        return self

    @property
    def objectives(self) -> list[dict[str, Any]]:
        """Name and direction of each objective, the first is the one that places go by where it is the only one."""
        single = [{"name": self.study.metric, "direction": self.study.direction}]
        return list(self.study.objectives or single)

    def _frame(self, rows: Sequence[Any]) -> pd.DataFrame:
        names = [*browse.NARROW, "objectives"]
        frame = pd.DataFrame.from_records([tuple(row) for row in rows], columns=names)
        numbers = ("objective", "seconds", "wire_bytes", "started", "finished")
        frame = frame.astype(dict.fromkeys(numbers, float))
        several = frame.pop("objectives")
        if self.study.objectives:
            for index, objective in enumerate(self.study.objectives):
                values = [one[index] if one else None for one in several]
                frame[f"objectives.{objective['name']}"] = np.array(values, dtype=float)
        return frame

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

    def with_place(self, max_trials: int = MAX_SAMPLE) -> pd.DataFrame:
        """Complete trials, the best first: all, or the best half of `max_trials` and the rest evenly by place."""
        complete: pd.DataFrame = self.trials[self.trials["place"].notna()].sort_values("place")
        if len(complete) <= max_trials:
            return complete
        best = max_trials // 2
        rest = np.linspace(best, len(complete) - 1, max_trials - best).astype(int)
        chosen: pd.DataFrame = complete.iloc[np.concatenate([np.arange(best), rest])]
        return chosen

    def held(self, ids: Iterable[int], holder: Literal["hp", "metric"] = "hp") -> pd.DataFrame:
        """The hyperparameters or metrics of these trials as columns, in the order of `ids`."""
        ids = [int(id_) for id_ in ids]
        cache = self._held[holder]
        missing = [id_ for id_ in ids if id_ not in cache]
        found = browse.held(self._store, missing, holder) if missing else {}
        if len(cache) + len(found) > 4 * MAX_SAMPLE:  # samples drift while a search goes on
            kept = set(ids)
            self._held[holder] = cache = {id_: content for id_, content in cache.items() if id_ in kept}
        ended = set(self.trials.loc[self.trials["state"].isin(ENDED), "id"]) if holder == "metric" else found.keys()
        cache |= {id_: content for id_, content in found.items() if id_ in ended}
        rows = [cache.get(id_) or found.get(id_) or {} for id_ in ids]
        return pd.DataFrame(rows, index=ids)

    def sample(self, max_trials: int = MAX_SAMPLE) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Complete trials with a place, and their hyperparameters row by row."""
        trials = self.with_place(max_trials)
        return trials.reset_index(drop=True), self.held(trials["id"]).reset_index(drop=True)

    def names(self, holder: Literal["hp", "metric"] = "hp") -> list[str]:
        """The hyperparameters or metrics that the first and the newest trials have, in their order."""
        ids = self.trials["id"].to_numpy()
        ended = self.trials.loc[self.trials["state"].eq("complete"), "id"].to_numpy()
        some = np.concatenate([ids[:50], ids[-150:], ended[-100:]])
        return [str(name) for name in self.held(dict.fromkeys(some.tolist()), holder).columns]

    def counts(self) -> dict[str, int]:
        """How many trials are in each state."""
        return {str(state): int(count) for state, count in self.trials["state"].value_counts().items()}


class Boards:
    """The boards of the studies that were looked at last."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._boards: OrderedDict[int, Board] = OrderedDict()

    def of(self, name: str) -> Board:
        """The board of the study called `name`, up to date. Raises StoreError where there is none."""
        study = self.store.study(name)
        with self._lock:
            board = self._boards.pop(study.id, None) or Board(self.store, study)
            self._boards[study.id] = board
            while len(self._boards) > MAX_BOARDS:
                self._boards.popitem(last=False)
        return board.refresh(study)
