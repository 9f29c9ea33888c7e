"""The launches of a study: each has journals of its own, and closes those of earlier ones.

A launch begins whenever a launcher takes the study over: to start its ranks, to start them again, or to end it.
`launcher.jsonl` and `root-00000.jsonl` belong to the first launch, `launcher.2.jsonl` and `root-00000.2.jsonl` to the
second. The first line of a launcher's journal holds the sizes that the journals of the launches that it closes had when
it was opened. What is beyond them was written later, by ranks that outlived their launcher: it is never read, so a
trial's rows cannot mix two attempts, however many ranks still write. Launches of several launchers that search one
study at once stay open side by side.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.storage.events import Event, TrialKey, TrialStarted
from atoll.storage.files import FILE_MODE, sync_folder
from atoll.storage.journal import MAX_BYTES, Chunk, JournalError, JournalWriter, read_all, read_chunk, read_opening
from atoll.storage.text import counted

LAUNCHER = "launcher"
_NAME = re.compile(r"(?P<writer>launcher|root-[0-9]{5,})(\.(?P<launch>[2-9]|[1-9][0-9]+))?\.jsonl")


@dataclass(frozen=True)
class JournalFile:
    """A journal's file.

    Attributes:
        path, writer, launch: the file, its writer, and the launch that it belongs to, from 1.
        end: the number of bytes that count; None while the file is open.
    """

    path: Path
    writer: str
    launch: int
    end: int | None = None

    @property
    def is_of_launcher(self) -> bool:
        """Whether the launcher writes it."""
        return self.writer == LAUNCHER

    @property
    def order(self) -> tuple[int, int]:
        """The place among a study's journals: a launcher's lines on earlier launches come before its ranks'.

        Before version 3 all launches shared one journal, whose last line ended the study.
        """
        comes_last = self.is_of_launcher == (self.launch == 1)
        return self.launch, int(comes_last)


def file_name(writer: str, launch: int) -> str:
    """The name of a writer's journal in a launch."""
    return f"{writer}.jsonl" if launch == 1 else f"{writer}.{launch}.jsonl"


def files(folder: Path) -> list[JournalFile]:
    """The journals of a folder in the order in which they are to be read.

    Other files, such as copies, and what is no file are left alone.
    """
    found = []
    for entry in os.scandir(folder) if folder.exists() else ():
        if (match := _NAME.fullmatch(entry.name)) is not None and entry.is_file():
            launch = int(match["launch"] or 1)
            found.append(JournalFile(Path(entry.path), match["writer"], launch))
    return sorted(found, key=lambda file: (file.order, file.path.name))


def sizes(folder: Path) -> dict[str, int]:
    """The journals' sizes now, by file name."""
    return {file.path.name: _size(file.path) for file in files(folder)}


def whole_sizes(folder: Path) -> dict[str, int]:
    """The same without what is being written: up to the last end of a line."""
    return {file.path.name: _whole_size(file.path) for file in files(folder)}


def _whole_size(path: Path) -> int:
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        while end:
            start = max(0, end - (1 << 16))
            file.seek(start)
            if (last := file.read(end - start).rfind(b"\n")) >= 0:
                return start + last + 1
            end = start
    return 0


def _size(path: Path) -> int:
    with path.open("rb") as file:  # opening makes a network file system ask its server
        return os.fstat(file.fileno()).st_size


def newest(folder: Path) -> int:
    """The number of the last launch; 0 before the first."""
    return max((file.launch for file in files(folder) if file.is_of_launcher), default=0)


@contextmanager
def next_launch(folder: Path, closes: Collection[int] | None = None) -> Iterator[JournalWriter]:
    """Begin the next launch: the launcher's journal, which closes those of earlier launches at their present sizes.

    Args:
        folder: the study's journals.
        closes: the launches to close; the others are those of other launchers. Default: all.
    """
    path, launch = _new_launch(folder)
    ended = [file for file in files(folder) if closes is None or file.launch in closes]
    ends = {file.path.name: _size(file.path) for file in ended if file.path != path}
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
    launch = newest(folder)
    while True:
        launch += 1
        path = folder / file_name(LAUNCHER, launch)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        except FileExistsError:  # by another launcher, which a file system without locks has let in
            continue
        sync_folder(folder)
        return path, launch


def closed_files(folder: Path, known: dict[str, Mapping[str, int]] | None = None) -> list[JournalFile]:
    """The journals of a folder, with the ends at which later launches have closed them.

    Args:
        folder: the study's journals.
        known: what launchers' journals said before, by file name; what new ones say is added.
    """
    found, known = files(folder), {} if known is None else known
    for file in found:
        new = file.is_of_launcher and file.launch > 1 and file.path.name not in known
        if new and (opening := read_opening(file.path)) is not None:
            known[file.path.name] = opening.ends
    ends = _earliest(known.values())
    return [replace(file, end=ends.get(file.path.name)) for file in found]


def _earliest(closings: Iterable[Mapping[str, int]]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for closing in closings:
        for name, size in closing.items():
            ends[name] = min(size, ends.get(name, size))
    return ends


class JournalTail:
    """Follows all journals of a folder, each from its last position.

    Args:
        folder: the study's journals.
        offsets: the positions, in bytes, by file name. Default: the beginning.
        without: a launch whose journals are passed over.
    """

    def __init__(self, folder: Path, offsets: Mapping[str, int] | None = None, without: int | None = None) -> None:
        self._folder = folder
        self._offsets = dict(offsets or {})
        self._without = without
        self._ends: dict[str, Mapping[str, int]] = {}

    def read(self) -> dict[str, Chunk]:
        """The new complete lines of the journals, by file name, in the order of the launches.

        The lines of closed launches come first, one launch after another; then those of all open ones, which may be
        several launchers'.
        """
        grown = [file for file in closed_files(self._folder, self._ends) if self._has_grown(file)]
        closed = [file for file in grown if file.end is not None]
        groups = [[file for file in closed if file.order == order] for order in dict.fromkeys(f.order for f in closed)]
        # A closed journal may end in the middle of a line, which is no reason to wait.
        for group in (*groups, [file for file in grown if file.end is None]):
            if chunks := self._chunks(group):
                return chunks
        return {}

    def _chunks(self, files: Sequence[JournalFile]) -> dict[str, Chunk]:
        chunks: dict[str, Chunk] = {}
        for file in files:
            offset = self._offsets.get(file.path.name, 0)
            # Divide a fixed amount of memory among the journals, however many workers there are.
            chunk = read_chunk(file.path, offset, max(MAX_BYTES // len(files), 1 << 16), file.end)
            if chunk.offset > offset:
                chunks[file.path.name] = chunk
        return chunks

    def _has_grown(self, file: JournalFile) -> bool:
        offset = self._offsets.get(file.path.name, 0)
        is_read = file.end is not None and offset >= file.end  # asks no file system
        return file.launch != self._without and not is_read and _num_bytes(file) > offset

    @property
    def offsets(self) -> dict[str, int]:
        """The position in each journal, in bytes."""
        return dict(self._offsets)

    def advance(self, chunks: Mapping[str, Chunk]) -> None:
        """Continue after `chunks` at the next read."""
        self._offsets.update({name: chunk.offset for name, chunk in chunks.items()})

    def lost(self) -> list[str]:
        """The journals that no longer hold what was read of them.

        Their host may have crashed before it had synced their last lines, or a later launch has closed them before
        that place.

        Raises:
            FileNotFoundError: if the whole folder is away, as on a file system that is not mounted: this loses nothing.
        """
        if self._offsets and not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the journals are not there", str(self._folder))
        there = {file.path.name: file for file in closed_files(self._folder, self._ends)}
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


def launchers_events(folder: Path) -> Iterator[Event]:
    """The events of the launchers' journals of a folder, launch by launch."""
    for file in files(folder):
        if file.is_of_launcher:
            yield from read_all(file.path)


def replay(
    folder: Path,
    problems: list[str] | None = None,
    since: int = 1,
    *,
    until: Mapping[str, int] | None = None,
) -> list[Event]:
    """All events of a folder's journals: by launch, the launcher's first, then the ranks' in the order of their times.

    Args:
        folder: the study's journals.
        problems: receives a sentence for each journal with invalid lines, with lines that came too late, and with lost
            ones.
        since: the first launch.
        until: the sizes up to which journals count, by file name; others do not count at all. Default: all of them.
    """
    timed: list[tuple[int, bool, float, Event]] = []
    for file in (_cut(file, until) for file in closed_files(folder) if file.launch >= since):
        now, malformed = 0.0, list[str]()
        elapsed, num_early = 0.0, 0
        for event in read_all(file.path, malformed, file.end):
            now = max(now, event.time)  # a clock that is set back must not change the order within a file
            if event.elapsed is not None:
                num_early += event.elapsed < elapsed  # its writer counts upwards, whatever the clock does
                elapsed = max(elapsed, event.elapsed)
            is_ranks = not file.is_of_launcher or event.elapsed is None  # before version 3, times are all there is
            timed.append((file.launch, is_ranks, now, event))
        if problems is not None:
            problems += _problems(file, malformed, num_early)
    return [event for *_, event in sorted(timed, key=lambda entry: entry[:3])]


def _cut(file: JournalFile, until: Mapping[str, int] | None) -> JournalFile:
    if until is None:
        return file
    end = until.get(file.path.name, 0)
    return replace(file, end=end if file.end is None else min(file.end, end))


def events_of(folder: Path, launches: Collection[int]) -> Iterator[Event]:
    """The events of some launches, one journal after another."""
    for file in closed_files(folder):
        if file.launch in launches:
            yield from read_all(file.path, end=file.end)


def started_in(folder: Path, launches: Collection[int]) -> set[TrialKey]:
    """The attempts that were started in some launches."""
    return {event.key for event in events_of(folder, launches) if isinstance(event, TrialStarted)}


def _problems(file: JournalFile, malformed: list[str], num_early: int) -> Iterator[str]:
    if num_early:
        yield (
            f"{counted(num_early, 'line')} of {file.path} {'stands' if num_early == 1 else 'stand'} after later ones: "
            "somebody has changed their order, so trials may seem lost or unended, and are trained again"
        )
    if malformed:
        yield f"ignored {counted(len(malformed), 'invalid line')} of {file.path}; the first: {malformed[0]}"
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
