"""Journals: one JSON object per line and one writer per file, so no lock is needed, and NFS and Lustre are safe.

Lines are written without buffering, so a killed process loses nothing. They are synced to disk at most once a second
and at the end of trials longer than a second, so a lost host loses at most trials that are requeued. The first line has
the version of the format. A torn last line is ignored; a line that is not an event, is invalid, or has changed since it
was written (its checksum tells) is skipped, counted and reported. The events are in `events`, the files in `launches`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic_core import from_json

from atoll.storage import events
from atoll.storage.events import Event, JournalOpened, Line, MalformedLine
from atoll.storage.files import FILE_MODE, make_folder, sync_folder
from atoll.storage.text import may_be_unstorable, storable

MAX_BYTES = 4 << 20

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)

# The last field of a line: the CRC-32 of the bytes before it.
_CHECKSUM = b',"crc":"%08x"}'
_CHECKSUM_BYTES = len(_CHECKSUM % 0)


class JournalError(OSError):
    """A journal cannot be written; the search must end, as its results could not be recorded."""


class JournalVersionError(ValueError):
    """A journal from a later version of atoll."""


class JournalWriter:
    """Appends events to one file. Raises JournalError if a line cannot be written completely.

    Args:
        path: the file.
        launch: the launch that it belongs to.
        ends: the sizes of earlier launches' journals, which this launcher's journal closes.

    Attributes:
        launch: the launch.
    """

    SYNC_INTERVAL = 1.0

    def __init__(self, path: Path, launch: int = 1, ends: Mapping[str, int] | None = None) -> None:
        self._path = path
        self.launch = launch
        self._opened = self._synced = time.monotonic()
        with self._explained():
            make_folder(path.parent)
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
            if is_new:
                sync_folder(path.parent)
        try:
            self._begin(launch, ends or {})
        except OSError:
            os.close(self._file)
            raise

    def _begin(self, launch: int, ends: Mapping[str, int]) -> None:
        with self._explained():
            self._end_torn_line(os.fstat(self._file).st_size)
            is_of_this_version = self._declares_this_version()
        if not is_of_this_version:
            self.append(JournalOpened(version=events.VERSION, launch=launch, ends=ends), sync=bool(ends))

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
        # Not the time but the seconds since the opening measure durations: a clock may be set.
        elapsed = round(time.monotonic() - self._opened, 6)
        data = _sealed(_dump({"event": event.name, "time": time.time(), "elapsed": elapsed, **event.to_line()}))
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


def _sealed(line: str) -> bytes:
    """A line with its checksum, the way `_is_intact` expects it."""
    data = line[:-1].encode()
    return data + _CHECKSUM % zlib.crc32(data) + b"\n"


def _is_intact(raw: bytes) -> bool:
    """Whether a line agrees with its checksum; lines of versions before 3 have none."""
    data, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    return not checksum.startswith(_CHECKSUM[:8]) or checksum == _CHECKSUM % zlib.crc32(data)


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
        malformed: what is wrong with lines that are no events, and with invalid lines of known events.
    """

    events: list[Event]
    start: int
    offset: int
    num_skipped: int
    malformed: list[str] = field(default_factory=list)


def read_chunk(path: Path, offset: int = 0, max_bytes: int = MAX_BYTES, end: int | None = None) -> Chunk:
    """Read complete lines from byte `offset` on; an incomplete last line is left for later.

    Args:
        path: the journal.
        offset: the position of the first byte.
        max_bytes: the number of bytes to read at most, unless a line is longer.
        end: the number of the journal's bytes that count. Default: all.

    Raises:
        JournalVersionError: for a journal from a later version.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(max_bytes)
        if data and b"\n" not in data:
            data += file.readline()
    if end is not None:
        data = data[: max(0, end - offset)]
    data = data[: data.rfind(b"\n") + 1]
    chunk = Chunk([], offset, offset + len(data), 0)
    num_skipped = 0
    for raw in data.splitlines():
        line = _load(raw)
        if line is None and raw:
            chunk.malformed.append(f"a line of {len(raw)} bytes is not an event: {raw[:40]!r}")
        try:
            event = None if line is None else _event(line, raw)
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


def _event(line: Line, raw: bytes) -> Event | None:
    if not _is_intact(raw):
        raise MalformedLine(f"a line of {line['event']} has changed since it was written: its checksum is wrong")
    return events.parse(line)


def _load(raw: bytes) -> Line | None:
    try:
        line = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except (ValueError, RecursionError):  # rare: what only the slower one reads, such as a lone surrogate
        try:
            line = _DECODER.decode(raw.decode("utf-8", "surrogatepass"))
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


def read_all(path: Path, malformed: list[str] | None = None, end: int | None = None) -> Iterator[Event]:
    """All events of one journal, one after another; none if there is no file.

    Args:
        path: the journal's file.
        malformed: receives the errors of invalid lines of known events.
        end: the number of the journal's bytes that count. Default: all.
    """
    offset = 0
    while path.exists() and (chunk := read_chunk(path, offset, end=end)).offset > offset:
        offset = chunk.offset
        if malformed is not None:
            malformed += chunk.malformed
        yield from chunk.events


def read_opening(path: Path) -> JournalOpened | None:
    """The first line of a journal; None while it is being written.

    A damaged one, or one of a version that had none, is that of a journal which closes no other.
    """
    with path.open("rb") as file:
        raw = file.readline()
    if not raw.endswith(b"\n"):
        return None
    raw = raw.rstrip(b"\n")
    line = _load(raw)
    try:
        event = None if line is None else _event(line, raw)
    except MalformedLine:
        event = None
    return event if isinstance(event, JournalOpened) else JournalOpened(version=1)
