"""Journals: one JSON object per line and one writer per file, so no lock is needed, and NFS and Lustre are safe.

Lines are written without buffering, so a killed process loses nothing. They are synced to disk at most once a second
and at the end of trials longer than a second, so a lost host loses at most trials that are requeued. The first line has
the version of the format. A torn last line is ignored; a line that is not an event, or is invalid, is skipped, counted
and reported. The events are in `events`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from atoll.storage import events
from atoll.storage.events import Event, JournalOpened, Line, MalformedLine
from atoll.storage.text import may_be_unstorable, storable

MAX_BYTES = 4 << 20


class JournalError(OSError):
    """A journal cannot be written; the search must end, as its results could not be recorded."""


class JournalVersionError(ValueError):
    """A journal from a later version of atoll."""


class JournalWriter:
    """Appends events to one file. Raises JournalError if a line cannot be written completely."""

    SYNC_INTERVAL = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = time.monotonic()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._end_torn_line(os.fstat(self._file).st_size)
            is_of_this_version = self._declares_this_version()
        if not is_of_this_version:
            self.append(JournalOpened(version=events.VERSION))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JournalError(
                error.errno,
                f"the journal {self._path} cannot be written ({error.strerror}); recorded results stay readable: "
                "free some disk space, then continue with --resume",
            ) from None

    def _end_torn_line(self, size: int) -> None:
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def _declares_this_version(self) -> bool:
        """Whether the first line does. A resumed journal of an earlier version declares it where this one begins."""
        line = _load(os.pread(self._file, 200, 0).partition(b"\n")[0])
        return line is not None and line["event"] == JournalOpened.name and line.get("version") == events.VERSION

    def append(self, event: Event, *, sync: bool = False) -> None:
        """Write one line: the event's name, the current time, and the event's fields.

        Args:
            event: the event to write.
            sync: whether the line must be on disk on return.
        """
        data = _dump({"event": event.name, "time": time.time(), **event.to_line()}).encode() + b"\n"
        with self._explained():
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, "a line was written only partly")
            if sync or time.monotonic() - self._synced > self.SYNC_INTERVAL:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close the file."""
        with self._explained():
            os.fsync(self._file)
            os.close(self._file)


def _dump(content: object) -> str:
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:  # rare: the usual line is traversed once
        return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)


def _finite(content: object) -> object:
    """The content with null for NaN and infinite numbers, which JSON does not have."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


@dataclass(frozen=True)
class Chunk:
    """Whole lines of one journal.

    Attributes:
        events: the events, without the version's line.
        start, offset: the positions of the first byte and after the last byte.
        num_skipped: number of lines that are not events, or not valid.
        malformed: the errors of invalid lines of known events.
    """

    events: list[Event]
    start: int
    offset: int
    num_skipped: int
    malformed: list[str] = field(default_factory=list)


def read_chunk(path: Path, offset: int = 0, max_bytes: int = MAX_BYTES) -> Chunk:
    """Read complete lines from byte `offset` on; an incomplete last line is left for later.

    Raises:
        JournalVersionError: for a journal from a later version.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(max_bytes)
        if data and b"\n" not in data:
            data += file.readline()
    data = data[: data.rfind(b"\n") + 1]
    chunk = Chunk([], offset, offset + len(data), 0)
    num_skipped = 0
    for raw in data.splitlines():
        line = _load(raw)
        try:
            event = None if line is None else events.parse(line)
        except MalformedLine as error:
            chunk.malformed.append(str(error))
            event = None
        if event is None:
            num_skipped += 1
        elif isinstance(event, JournalOpened):
            _check_version(event, path)
        else:
            chunk.events.append(event)
    return replace(chunk, num_skipped=num_skipped)


def _load(raw: bytes) -> Line | None:
    try:
        line = json.loads(raw, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if may_be_unstorable(raw):
        line = storable(line)
    return line if isinstance(line, dict) and isinstance(line.get("event"), str) else None


def _check_version(opened: JournalOpened, path: Path) -> None:
    if opened.version > events.VERSION:
        raise JournalVersionError(
            f"the journal {path} has version {opened.version}; this version of atoll reads versions 1 to "
            f"{events.VERSION}"
        )


class JournalTail:
    """Follows all journals of a folder, each from its last position."""

    def __init__(self, folder: Path, offsets: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._offsets = dict(offsets or {})

    def read(self) -> dict[str, Chunk]:
        """The new complete lines of the journals, by file name."""
        chunks = {}
        grown = [(path, self._offsets.get(path.name, 0)) for path in sorted(self._folder.glob("*.jsonl"))]
        grown = [(path, offset) for path, offset in grown if path.stat().st_size > offset]
        for path, offset in grown:
            # Divide a fixed amount of memory among the journals, however many workers there are.
            chunk = read_chunk(path, offset, max(MAX_BYTES // len(grown), 1 << 16))
            if chunk.offset > offset:
                chunks[path.name] = chunk
        return chunks

    def advance(self, chunks: Mapping[str, Chunk]) -> None:
        """Continue after `chunks` at the next read."""
        self._offsets.update({name: chunk.offset for name, chunk in chunks.items()})


def replay(folder: Path, problems: list[str] | None = None) -> list[Event]:
    """All events of a folder's journals, in the order of their times.

    Args:
        folder: the study's journals.
        problems: receives a sentence for each journal with invalid lines of known events.
    """
    timed: list[tuple[float, Event]] = []
    for path in sorted(folder.glob("*.jsonl")):
        offset, now = 0, 0.0
        malformed: list[str] = []
        while (chunk := read_chunk(path, offset)).offset > offset:
            offset = chunk.offset
            malformed += chunk.malformed
            for event in chunk.events:
                now = max(now, event.time)  # a clock that is set back must not change the order within a file
                timed.append((now, event))
        if malformed and problems is not None:
            problems.append(f"ignored {len(malformed)} invalid lines of {path}; the first: {malformed[0]}")
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]
