"""What all pages share: the store, boards, background work, links, and whether readers may edit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from dash.exceptions import PreventUpdate
from sqlalchemy.exc import DBAPIError

from atoll.dashboard.board import Board, Boards
from atoll.storage import urls
from atoll.storage.liveness import true_state_of
from atoll.storage.models import BenchmarkRow, StudyRow
from atoll.storage.store import DEFAULT_URL, Store, StoreError, StudySummary

# A busy store or a deleted study must not end in a traceback.
UNREADABLE = (StoreError, DBAPIError)


class Background:
    """Work that takes longer than a page may wait, done once per key in two threads; results are kept."""

    MAX_KEPT = 64

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="background")
        self._futures: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, work: Callable[[], Any], patience: float = 0.0) -> Any:
        """The result of `work` for `key`, or None if it takes longer than `patience` seconds. Raises its error."""
        with self._lock:
            future = self._futures.get(key)
            if future is None:
                future = self._futures[key] = self._pool.submit(work)
                while len(self._futures) > self.MAX_KEPT:
                    self._futures.popitem(last=False)
        try:
            return future.result(timeout=patience)
        except TimeoutError:
            return None
        except Exception:
            # The error may be temporary: the next call tries again.
            with self._lock:
                self._futures.pop(key, None)
            raise


@dataclass(frozen=True)
class Context:
    """What all pages of an app share."""

    store: Store
    base_path: str = "/"
    allow_edit: bool = False
    background: Background = field(default_factory=Background)
    boards: Boards = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "boards", Boards(self.store))

    def link(self, page: str = "", **query: object) -> str:
        """A page's address; names go into the query, where a slash is not taken for a part of the path."""
        present = {name: str(value) for name, value in query.items() if value is not None}
        return f"{self.base_path}{page}{'?' + urlencode(present) if present else ''}"

    @property
    def store_option(self) -> str:
        """The --store option of a command, with a hidden password; empty for the default store."""
        return urls.option(self.store.url, urls.parse(DEFAULT_URL))

    def studies(self) -> list[StudySummary]:
        """All studies, the newest first, in their true states: that of one whose launcher has died is interrupted."""
        summaries = self.store.studies()
        for summary in summaries:
            summary.study.state = true_state_of(summary.study)
        return summaries

    def stamp(self, subject: StudyRow | BenchmarkRow) -> str:
        """A key that changes when a trial of the study completes, or a study of the benchmark begins or ends."""
        if isinstance(subject, StudyRow):
            board = self.boards.of(subject.name)
            return f"study {subject.id} {subject.started} {subject.state} {board.counts().get('complete', 0)}"
        studies = self.store.studies_of(subject)
        return f"benchmark {subject.uid} {[(s.id, s.state, s.finished) for s in studies]}"

    def board(self, name: str | None) -> Board:
        """The board of a study for a callback, which ends quietly if the study cannot be read."""
        try:
            return self.boards.of(str(name))
        except UNREADABLE:
            raise PreventUpdate from None
