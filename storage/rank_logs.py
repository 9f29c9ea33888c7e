"""The output of trials: each rank has a log, in which a line names the trial that printed what follows.

A rank's standard output and error lead to its log (`StudyFolder.rank_log`) during a trial, and to `ranks.log`, with the
messages of mpiexec, before, between and after its trials.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from atoll.storage.events import TrialKey
from atoll.storage.folder import StudyFolder

_HEADING = re.compile(rb"==> trial (\d{1,9}), attempt (\d{1,9}), (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z <==\n")
_RANK = re.compile(r"rank-(\d{5,})\.log")


def heading(trial: TrialKey, time: float) -> bytes:
    """The line before a trial's output.

    Args:
        trial: its number and attempt.
        time: its start on this rank, in seconds since the epoch.
    """
    when = datetime.fromtimestamp(time, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return f"==> trial {trial[0]}, attempt {trial[1]}, {when}Z <==\n".encode()


@dataclass(frozen=True)
class Output:
    """What one rank printed during one trial, or a part of it.

    Attributes:
        rank: the world rank; None for `ranks.log`.
        trial: the trial's number and attempt; None in `ranks.log`.
        started: the trial's start on this rank, in seconds since the epoch; 0 in `ranks.log`.
        text: the output; bytes that are not UTF-8 are replaced.
    """

    rank: int | None
    trial: TrialKey | None
    started: float
    text: str

    @property
    def title(self) -> str:
        """Where the text comes from, as a line."""
        if self.trial is None:
            return "==> ranks.log <=="
        number, attempt = self.trial
        when = datetime.fromtimestamp(self.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        again = f", attempt {attempt}" if attempt else ""
        return f"==> trial {number}{again}, rank {self.rank}, {when} <=="


def read(
    folder: StudyFolder, number: int | None = None, attempt: int | None = None, ranks: Collection[int] = ()
) -> Iterator[Output]:
    """What the ranks printed: `ranks.log`, then trials in the order of their starts, rank by rank.

    A trial that printed nothing has an empty text. Processes that a trial has started and left may print into later
    ones.

    Args:
        folder: the study's files.
        number, attempt: only this trial's, or this attempt's.
        ranks: only of these world ranks, without `ranks.log`. Default: of all.
    """
    if number is None and not ranks and folder.log.exists():
        yield Output(None, None, 0.0, folder.log.read_text(encoding="utf-8", errors="replace"))
    chosen = [_outputs(rank, path) for rank, path in _logs(folder) if not ranks or rank in ranks]
    for output in heapq.merge(*chosen, key=lambda output: (output.started, output.rank or 0)):
        assert output.trial is not None
        if number in (None, output.trial[0]) and attempt in (None, output.trial[1]):
            yield output


def _logs(folder: StudyFolder) -> list[tuple[int, Path]]:
    """The ranks with their logs, by rank."""
    if not folder.log.parent.is_dir():
        return []
    found = ((_RANK.fullmatch(path.name), path) for path in folder.log.parent.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def _outputs(rank: int, path: Path) -> Iterator[Output]:
    current, parts = None, list[bytes]()
    with path.open("rb") as file:
        for line in file:
            if (match := _HEADING.fullmatch(line)) is None:
                parts.append(line)
                continue
            if current is not None:
                yield replace(current, text=_text(parts))
            current, parts = _empty(rank, match), []
    if current is not None:
        yield replace(current, text=_text(parts))


def _empty(rank: int, match: re.Match[bytes]) -> Output:
    when = datetime.fromisoformat(match[3].decode()).replace(tzinfo=UTC)
    return Output(rank, (int(match[1]), int(match[2])), when.timestamp(), "")


def _text(parts: Iterable[bytes]) -> str:
    return b"".join(parts).decode(errors="replace")


class OutputTail:
    """Follows what the ranks print.

    Args:
        folder: the study's files.
        number, attempt, ranks: see `read`.
    """

    def __init__(
        self, folder: StudyFolder, number: int | None = None, attempt: int | None = None, ranks: Collection[int] = ()
    ) -> None:
        self._folder = folder
        self._number = number
        self._attempt = attempt
        self._ranks = ranks
        self._offsets: dict[Path, int] = {}
        self._current: dict[Path, Output] = {}

    def read(self, *, last: bool = False) -> list[Output]:
        """The lines that were added since the last call, log by log.

        Args:
            last: whether to return lines without an end, too.
        """
        files: list[tuple[int | None, Path]] = [
            (rank, path) for rank, path in _logs(self._folder) if not self._ranks or rank in self._ranks
        ]
        if self._number is None and not self._ranks and self._folder.log.exists():
            files.insert(0, (None, self._folder.log))
        return [output for rank, path in files for output in self._added(rank, path, last)]

    def _added(self, rank: int | None, path: Path, last: bool) -> Iterator[Output]:
        current, parts = self._current.get(path, Output(rank, None, 0.0, "")), list[bytes]()
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            for line in file:
                if not line.endswith(b"\n") and not last:
                    break
                self._offsets[path] = self._offsets.get(path, 0) + len(line)
                match = None if rank is None else _HEADING.fullmatch(line)
                if match is None:
                    parts.append(line)
                    continue
                yield from self._wanted(current, parts)
                current, parts = _empty(int(rank or 0), match), []
        self._current[path] = current
        yield from self._wanted(current, parts)

    def _wanted(self, current: Output, parts: Iterable[bytes]) -> Iterator[Output]:
        number, attempt = current.trial or (None, None)
        if parts and self._number in (None, number) and self._attempt in (None, attempt):
            yield replace(current, text=_text(parts))
