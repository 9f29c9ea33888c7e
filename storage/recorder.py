"""Loads complete journal lines into the database, in batches, exactly once.

The database may be locked, unavailable or slow: the recorder retries at increasing intervals, and training continues.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from atoll.storage.files import FILE_MODE, rights
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import Chunk, JournalVersionError
from atoll.storage.launches import JournalTail
from atoll.storage.store import Contradicted, Overtaken, Rejected, Store
from atoll.storage.text import counted, storable

log = logging.getLogger("atoll.recorder")


class Recorder:
    """Records one study's folder in one store.

    Args:
        folder: the study's files.
        open_store: opens the store; called again after a failure.
        study: the study's row, for a store that does not know it yet.
    """

    def __init__(self, folder: StudyFolder, open_store: Callable[[], Store], study: dict[str, Any]) -> None:
        self._folder = folder
        self._open_store = open_store
        self._study = study
        self._store: Store | None = None
        self._study_id = 0
        self._tail = JournalTail(folder.journals)

    def catch_up(self) -> int:
        """Record all complete lines; returns their number. Raises DBAPIError or StoreError.

        If a SQLite file was deleted or replaced meanwhile, the one in its place gets all lines that it lacks.
        """
        num_lines = self._record_lines()
        if self._store is not None and self._store.has_moved():
            num_lines += self._record_lines()
        return num_lines

    def _record_lines(self) -> int:
        store = self._connect()
        num_lines = 0
        if lost := self._tail.lost():
            self._rebuild(store, f"{', '.join(lost)} lost lines that the store holds")
        while chunks := self._tail.read():
            try:
                self._set_aside(store.record(self._study_id, chunks))
            except Contradicted as error:
                self._rebuild(store, str(error))
                continue
            self._tail.advance(chunks)
            _tell_malformed(chunks)
            num_lines += sum(len(chunk.events) for chunk in chunks.values())
        return num_lines

    def _connect(self) -> Store:
        if self._store is not None and self._store.has_moved():
            words = "the store %s was deleted or replaced; this study is recorded again, others are by `atoll record`"
            log.warning(words, self._store)
            self._store.abandon()
            self._store = None
        if self._store is None:
            store = self._open_store()
            self._study_id = store.add_study(storable(self._study))  # its folder's name may not be UTF-8
            self._tail = JournalTail(self._folder.journals, store.offsets(self._study_id))
            self._store = store
        return self._store

    def _set_aside(self, rejected: list[Rejected]) -> None:
        if rejected:
            log.warning("the store rejected %s: see %s", counted(len(rejected), "line"), self._folder.quarantine)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(os.open(self._folder.quarantine, flags, FILE_MODE & rights()), "a") as file:
                file.writelines(json.dumps(asdict(line)) + "\n" for line in rejected)

    def _rebuild(self, store: Store, reason: str) -> None:
        """Record the study anew: the database has lines that the journals no longer hold, or that never counted.

        A resumed search has trained those trials again, or will.
        """
        log.warning(
            "%s, as after a crash of their host, or because ranks wrote them after a later launch had begun: the study "
            "is recorded anew from the journals",
            reason,
        )
        self._tail = JournalTail(self._folder.journals)
        self._set_aside(store.rebuild(self._study_id, self._all_chunks()))

    def _all_chunks(self) -> Iterator[dict[str, Chunk]]:
        while chunks := self._tail.read():
            yield chunks
            self._tail.advance(chunks)

    def reset(self) -> None:
        """Drop the connection; the next try continues from the offsets in the database."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def close(self) -> None:
        """Close the store."""
        self.reset()


def _tell_malformed(chunks: Mapping[str, Chunk]) -> None:
    for name, chunk in chunks.items():
        if chunk.malformed:
            log.warning(
                "%s of %s cannot be read; the first: %s",
                counted(len(chunk.malformed), "line"),
                name,
                chunk.malformed[0],
            )


class RecorderThread(threading.Thread):
    """Records while something else runs.

    Attributes:
        failure: the last error; None after a success.
    """

    INTERVAL = 0.2
    LONGEST_INTERVAL = 5.0
    COMPLAINT_INTERVAL = 60.0

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(name="recorder", daemon=True)
        self._recorder = recorder
        self._stopping = threading.Event()
        self._complained = -self.COMPLAINT_INTERVAL
        self.failure: Exception | None = None

    def run(self) -> None:
        """Record until `finish` is called and everything is recorded."""
        interval = self.INTERVAL
        while True:
            stopping = self._stopping.is_set()
            if self._try_once():
                interval = self.INTERVAL
                if stopping:
                    break
            else:
                interval = min(2 * interval, self.LONGEST_INTERVAL)
            if stopping:
                time.sleep(interval)
            else:
                self._stopping.wait(interval)
        self._recorder.close()

    def _try_once(self) -> bool:
        try:
            self._recorder.catch_up()
        except Exception as error:  # on any error the search must continue, and the next try may succeed
            self._recorder.reset()
            if not isinstance(error, Overtaken):
                self.failure = error
                self._complain(error)
            return False
        self.failure = None
        return True

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained >= self.COMPLAINT_INTERVAL:
            self._complained = time.monotonic()
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            what = (
                "the journals cannot be read"
                if isinstance(error, JournalVersionError | FileNotFoundError)
                else "the store cannot be written"
            )
            log.warning("%s (%s); the search continues, and the journals keep all", what, reason)

    def finish(self, timeout: float) -> bool:
        """Record the remaining lines; returns whether this succeeded within `timeout` seconds."""
        self._stopping.set()
        self.join(timeout)
        return not self.is_alive() and self.failure is None
