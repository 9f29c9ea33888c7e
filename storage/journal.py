"""Journals: one JSON object a line, one writer a file, so that no lock is needed and NFS and Lustre are safe.

A line is handed to the system as it is written, so a killed process loses nothing, and synced to disk at most once a
second and at the end of any trial longer than a second, so a lost host loses at most what is queued again. The first
line names the version of the format. A torn last line is ignored; a line that is not an event, or lacks what its event
needs, is skipped, counted and told. `events` has what the lines say.
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
from typing import Any

from atoll.storage import events
from atoll.storage.events import Event, JournalOpened, Line, MalformedLine

MAX_BYTES = 4 << 20


class JournalError(OSError):
    """A journal cannot be written: nothing may be trained that could not be recorded."""


class JournalVersionError(ValueError):
    """A journal was written by a later version of atoll."""


class JournalWriter:
    """Appends events to one file. Raises JournalError when a line cannot be written whole."""

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
            self.append(JournalOpened())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JournalError(
                error.errno,
                f"the journal {self._path} cannot be written ({error.strerror}); what was recorded stays readable: "
                "make room, then go on with --resume",
            ) from None

    def _end_torn_line(self, size: int) -> None:
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def _declares_this_version(self) -> bool:
        """Whether the first line does. A resumed journal of an earlier version declares it where this one begins."""
        line = _load(os.pread(self._file, 200, 0).partition(b"\n")[0])
        return line is not None and line["event"] == JournalOpened.name and line.get("version") == events.VERSION

    def append(self, event: Event, *, sync: bool = False) -> None:
        """Write one line: the event's name, the present time, and the event's fields.

        Args:
            event: what to write.
            sync: whether the line must be on disk when this returns.
        """
        data = _dump({"event": event.name, "time": time.time(), **event.to_line()}).encode() + b"\n"
        with self._explained():
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, "it took a part of a line only")
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
    except ValueError:  # rare, so that the usual line is walked through once
        return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)


def _finite(content: object) -> object:
    """The same with null for numbers that JSON does not have."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


@dataclass(frozen=True)
class Chunk:
    """Whole lines of one journal.

    Attributes:
        events: what the lines say; the version's line is left out.
        start, offset: the first byte, and the one after the last.
        num_skipped: lines that are not events, or not understood.
        malformed: what is wrong with those that name an event of ours.
    """

    events: list[Event]
    start: int
    offset: int
    num_skipped: int
    malformed: list[str] = field(default_factory=list)


def read_chunk(path: Path, offset: int = 0, max_bytes: int = MAX_BYTES) -> Chunk:
    """Read whole lines from byte `offset` on; a line without its end is left for later.

    Raises:
        JournalVersionError: for a journal of a later version.
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
    if b"\\u0000" in raw:
        line = _without_nul(line)
    return line if isinstance(line, dict) and isinstance(line.get("event"), str) else None


def _check_version(opened: JournalOpened, path: Path) -> None:
    if opened.version > events.VERSION:
        raise JournalVersionError(
            f"the journal {path} has version {opened.version}; this atoll reads versions 1 to {events.VERSION}"
        )


def _without_nul(content: Any) -> Any:
    """The same without NUL characters, which PostgreSQL does not take."""
    if isinstance(content, str):
        return content.replace("\x00", "")
    if isinstance(content, dict):
        return {_without_nul(key): _without_nul(value) for key, value in content.items()}
    return [_without_nul(value) for value in content] if isinstance(content, list) else content


class JournalTail:
    """Follows all journals of a folder, each from where it was left."""

    def __init__(self, folder: Path, offsets: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._offsets = dict(offsets or {})

    def read(self) -> dict[str, Chunk]:
        """The new whole lines of every journal that has some, by file name."""
        chunks = {}
        grown = [(path, self._offsets.get(path.name, 0)) for path in sorted(self._folder.glob("*.jsonl"))]
        grown = [(path, offset) for path, offset in grown if path.stat().st_size > offset]
        for path, offset in grown:
            # A share of what is held in memory at once, however many workers there are.
            chunk = read_chunk(path, offset, max(MAX_BYTES // len(grown), 1 << 16))
            if chunk.offset > offset:
                chunks[path.name] = chunk
        return chunks

    def advance(self, chunks: Mapping[str, Chunk]) -> None:
        """Do not read `chunks` again."""
        self._offsets.update({name: chunk.offset for name, chunk in chunks.items()})


def replay(folder: Path, problems: list[str] | None = None) -> list[Event]:
    """All events of a folder's journals, in the order of their times.

    Args:
        folder: the study's journals.
        problems: gets a sentence for every journal with lines of known events that cannot be read.
    """
    timed: list[tuple[float, Event]] = []
    for path in sorted(folder.glob("*.jsonl")):
        offset, now = 0, 0.0
        malformed: list[str] = []
        while (chunk := read_chunk(path, offset)).offset > offset:
            offset = chunk.offset
            malformed += chunk.malformed
            for event in chunk.events:
                now = max(now, event.time)  # a clock that steps back must not change the order of a file
                timed.append((now, event))
        if malformed and problems is not None:
            problems.append(f"{len(malformed)} lines of {path} were ignored; the first: {malformed[0]}")
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]
