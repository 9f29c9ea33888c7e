"""What every page is given: the store, boards, work in the background, links, and whether readers may write."""

from __future__ import annotations

import shlex
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
from atoll.storage.models import BenchmarkRow, StudyRow
from atoll.storage.store import DEFAULT_URL, Store, StoreError

# A page must not end in a traceback because the store is busy, or what it shows is gone.
UNREADABLE = (StoreError, DBAPIError)


class Background:
    """Work that takes longer than a page may wait: done once for each key, in two threads, and kept."""

    MAX_KEPT = 64

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="background")
        self._found: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, work: Callable[[], Any], patience: float = 0.0) -> Any:
        """What `work` returns for `key`, or None while it goes on, after `patience` seconds. Raises what it raises."""
        with self._lock:
            future = self._found.get(key)
            if future is None:
                future = self._found[key] = self._pool.submit(work)
                while len(self._found) > self.MAX_KEPT:
                    self._found.popitem(last=False)
        try:
            return future.result(timeout=patience)
        except TimeoutError:
            return None
        except Exception:
            # What went wrong may be over in a moment: the next one who asks tries again.
            with self._lock:
                self._found.pop(key, None)
            raise


@dataclass(frozen=True)
class Context:
    """Shared by all pages of one app."""

    store: Store
    base_path: str = "/"
    allow_edit: bool = False
    background: Background = field(default_factory=Background)
    boards: Boards = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "boards", Boards(self.store))

    def link(self, page: str = "", **query: object) -> str:
        """A page's address; names go into the query, where no sign can be mistaken for a part of the path."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return f"{self.base_path}{page}{'?' + urlencode(given) if given else ''}"

    @property
    def store_option(self) -> str:
        """What a command must be told of the store, with a password hidden; nothing of the default."""
        url = str(self.store)
        return "" if url == DEFAULT_URL else f" --store {shlex.quote(url)}"

    def stamp(self, subject: StudyRow | BenchmarkRow) -> str:
        """Changes when a study of a benchmark begins or ends, or a trial of a study is complete."""
        if isinstance(subject, StudyRow):
            board = self.boards.of(subject.name)
            return f"study {subject.id} {subject.started} {subject.state} {board.counts().get('complete', 0)}"
        studies = self.store.studies_of(subject)
        return f"benchmark {subject.uid} {[(s.id, s.state, s.finished) for s in studies]}"

    def board(self, name: str | None) -> Board:
        """The board of a study for a callback, which ends quietly where the study cannot be read."""
        try:
            return self.boards.of(str(name))
        except UNREADABLE:
            raise PreventUpdate from None
