"""The launches of a study: each has journals of its own, and closes those of earlier ones.

A launch begins whenever a launcher takes the study over: to start its ranks, to start them again, or to end it.
`launcher.jsonl` and `root-00000.jsonl` belong to the first launch, `launcher.2.jsonl` and `root-00000.2.jsonl` to the
second. The first line of a launcher's journal holds the sizes that earlier journals had when it was opened. What is
beyond them was written later, by ranks that outlived their launcher: it is never read, so a trial's rows cannot mix
two attempts, however many ranks still write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    def is_launchers(self) -> bool:
        """Whether the launcher writes it."""
        return self.writer == LAUNCHER

    @property
    def order(self) -> tuple[int, int]:
        """The place among a study's journals: a launcher's lines on earlier launches come before its ranks'.

        Before version 3 all launches shared one journal, whose last line ended the study.
        """
        return self.launch, int(self.is_launchers) if self.launch == 1 else 1 - int(self.is_launchers)


def file_name(writer: str, launch: int) -> str:
    """The name of a writer's journal in a launch."""
    return f"{writer}.jsonl" if launch == 1 else f"{writer}.{launch}.jsonl"


def files(folder: Path, ends: Mapping[str, int] | None = None) -> list[JournalFile]:
    """The journals of a folder in the order in which they are to be read, with what they hold at `ends`.

    Other files, such as copies, and what is no file are left alone.
    """
    found = []
    for entry in os.scandir(folder) if folder.exists() else ():
        if (match := _NAME.fullmatch(entry.name)) is not None and entry.is_file():
            launch = int(match["launch"] or 1)
            found.append(JournalFile(Path(entry.path), match["writer"], launch, (ends or {}).get(entry.name)))
    return sorted(found, key=lambda file: (file.order, file.path.name))


def sizes(folder: Path) -> dict[str, int]:
    """The journals' sizes now, by file name."""
    return {file.path.name: _size(file.path) for file in files(folder)}


def _size(path: Path) -> int:
    with path.open("rb") as file:  # opening makes a network file system ask its server
        return os.fstat(file.fileno()).st_size


def newest(folder: Path) -> int:
    """The number of the last launch; 0 before the first."""
    return max((file.launch for file in files(folder) if file.is_launchers), default=0)
