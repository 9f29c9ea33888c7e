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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic_core import from_json

from atoll.storage import events, launches
from atoll.storage.events import Event, JournalOpened, Line, MalformedLine
from atoll.storage.files import FILE_MODE, sync_folder
from atoll.storage.launches import LAUNCHER, JournalFile
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
            path.parent.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def next_launch(folder: Path) -> Iterator[JournalWriter]:
    """Begin the next launch: the launcher's journal, which closes those of earlier launches at their present sizes."""
    path, launch = _new_launch(folder)
    ends = {name: size for name, size in launches.sizes(folder).items() if name != path.name}
    try:
        lines = JournalWriter(path, launch, ends)
    except JournalError:  # the disk is full: nothing has begun
        path.unlink(missing_ok=True)
        raise
    try:
        yield lines
    finally:
        lines.close()


def _new_launch(folder: Path) -> tuple[Path, int]:
    """The launcher's journal of the next launch, which is made here, and the launch's number."""
    launch = launches.newest(folder)
    while True:
        launch += 1
        path = folder / launches.file_name(LAUNCHER, launch)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        except FileExistsError:  # by another launcher, which a file system without locks has let in
            continue
        sync_folder(folder)
        return path, launch


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


def _ends(found: Iterable[JournalFile], known: dict[str, Mapping[str, int]]) -> dict[str, int]:
    """The bytes that count of journals which later launches have closed, by file name.

    Args:
        found: the journals.
        known: what launchers' journals said before, by file name; what they say now is added.
    """
    for file in found:
        if file.is_launchers and file.launch > 1 and file.path.name not in known:
            with file.path.open("rb") as lines:
                first = lines.readline()
            if first.endswith(b"\n"):  # otherwise it is being written
                opened = _opened(first.rstrip(b"\n"))
                known[file.path.name] = opened.ends if opened is not None else {}
    ends: dict[str, int] = {}
    for closed in known.values():
        for name, size in closed.items():
            ends[name] = min(size, ends.get(name, size))
    return ends


def _opened(raw: bytes) -> JournalOpened | None:
    line = _load(raw)
    try:
        event = None if line is None else _event(line, raw)
    except MalformedLine:
        return None
    return event if isinstance(event, JournalOpened) else None


class JournalTail:
    """Follows all journals of a folder, each from its last position."""

    def __init__(self, folder: Path, offsets: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._offsets = dict(offsets or {})
        self._ends: dict[str, Mapping[str, int]] = {}

    def _files(self) -> list[JournalFile]:
        found = launches.files(self._folder)
        ends = _ends(found, self._ends)
        return [replace(file, end=ends.get(file.path.name)) for file in found]

    def read(self) -> dict[str, Chunk]:
        """The new complete lines of the journals, by file name, in the order of the launches.

        The lines of a launch follow when those of earlier ones have been read.
        """
        grown = [file for file in self._files() if _num_bytes(file) > self._offsets.get(file.path.name, 0)]
        chunks: dict[str, Chunk] = {}
        order: tuple[int, int] | None = None
        for file in grown:
            if chunks and file.order != order:
                break
            order, offset = file.order, self._offsets.get(file.path.name, 0)
            # Divide a fixed amount of memory among the journals, however many workers there are.
            chunk = read_chunk(file.path, offset, max(MAX_BYTES // len(grown), 1 << 16), file.end)
            if chunk.offset > offset:
                chunks[file.path.name] = chunk
        return chunks

    def advance(self, chunks: Mapping[str, Chunk]) -> None:
        """Continue after `chunks` at the next read."""
        self._offsets.update({name: chunk.offset for name, chunk in chunks.items()})

    def lost(self) -> list[str]:
        """The journals that no longer hold what was read of them.

        Their host may have crashed before it had synced their last lines, or a later launch has closed them before
        that place.
        """
        there = {file.path.name: file for file in self._files()}
        return [name for name, offset in self._offsets.items() if offset and not _holds(there.get(name), offset)]


def _num_bytes(file: JournalFile) -> int:
    size = file.path.stat().st_size
    return size if file.end is None else min(size, file.end)


def _holds(file: JournalFile | None, offset: int) -> bool:
    """Whether a line of the journal that counts ends at `offset`; after a crash there may be zeros."""
    if file is None or _num_bytes(file) < offset:
        return False
    with file.path.open("rb") as lines:
        lines.seek(offset - 1)
        return lines.read(1) == b"\n"


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


def launchers_events(folder: Path) -> Iterator[Event]:
    """The events of the launchers' journals of a folder, launch by launch."""
    for file in launches.files(folder):
        if file.is_launchers:
            yield from read_all(file.path)


def replay(folder: Path, problems: list[str] | None = None, since: int = 1) -> list[Event]:
    """All events of a folder's journals: by launch, the launcher's first, then the ranks' in the order of their times.

    Args:
        folder: the study's journals.
        problems: receives a sentence for each journal with invalid lines, with lines that came too late, and with lost
            ones.
        since: the first launch.
    """
    found = launches.files(folder)
    ends = _ends(found, {})
    timed: list[tuple[int, bool, float, Event]] = []
    for file in (replace(file, end=ends.get(file.path.name)) for file in found if file.launch >= since):
        now, malformed = 0.0, list[str]()
        for event in read_all(file.path, malformed, file.end):
            now = max(now, event.time)  # a clock that is set back must not change the order within a file
            is_ranks = not file.is_launchers or event.elapsed is None  # before version 3, times are all there is
            timed.append((file.launch, is_ranks, now, event))
        if problems is not None:
            problems += _problems(file, malformed)
    return [event for *_, event in sorted(timed, key=lambda entry: entry[:3])]


def _problems(file: JournalFile, malformed: list[str]) -> Iterator[str]:
    if malformed:
        yield f"ignored {len(malformed)} invalid lines of {file.path}; the first: {malformed[0]}"
    difference = 0 if file.end is None else file.path.stat().st_size - file.end
    if difference > 0:
        yield (
            f"ignored {difference} bytes of {file.path}: ranks of launch {file.launch} wrote them after a later launch "
            "had begun"
        )
    elif difference < 0:
        yield (
            f"{file.path} has lost its last {-difference} bytes, as after a crash of its host: their trials are queued "
            "again"
        )
