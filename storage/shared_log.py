"""A log that processes on several hosts append to in one order: each has read all earlier lines before it writes.

Writers take turns by a lock of Optuna's journal storage, which is safe on NFS: a file that only one of them can create.
The lock of a writer that was killed is broken after a while, and so might be that of one that was only suspended.
Therefore each line names the position at which its writer saw the log end: a line at another position does not count,
whoever wrote it, and has a checksum, so whatever happens to the lock, all readers agree on the lines and their order.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atoll.storage.files import FILE_MODE
from atoll.storage.journal import JournalError

Line = dict[str, Any]

BROKEN_AFTER = 10  # seconds for which a lock does not change until its holder counts as dead


class SharedLogError(JournalError):
    """The log cannot be read or written: the search must end."""


class SharedLog:
    """One process's view of the log.

    Args:
        path: the file, which `create` makes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        from optuna.storages.journal import JournalFileOpenLock  # which most ranks do not need

        self._lock = JournalFileOpenLock(str(path), grace_period=BROKEN_AFTER)
        self._position = 0
        self._is_torn = False

    def create(self) -> None:
        """Make an empty log."""
        with self._explained():
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, FILE_MODE))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """No other process writes meanwhile; to be held for milliseconds."""
        with self._explained():
            self._lock.acquire()
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # it was broken
                self._lock.release()

    def read(self) -> list[Line]:
        """The lines that count since the last call, and no torn one at the end."""
        with self._explained(), self.path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        lines = []
        end = data.rfind(b"\n") + 1
        self._is_torn = end < len(data)
        for raw in data[:end].splitlines(keepends=True):
            if (line := _read(raw, self._position)) is not None:
                lines.append(line)
            self._position += len(raw)
        return lines

    def append(self, line: Line) -> bool:
        """Write a line, if nobody else has written since the last `read`; returns whether it counts.

        If not, `read`, and decide anew.
        """
        with self._explained():
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                if self._is_torn:  # by a writer that was killed: the next `read` passes over it
                    os.write(file, b"\n")
                    return False
                data = _written(line, self._position)
                if os.write(file, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                landed = os.lseek(file, 0, os.SEEK_CUR) - len(data)
            finally:
                os.close(file)  # a network file system writes now
        if landed != self._position:
            return False
        self._position += len(data)
        return True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SharedLogError:
            raise
        except OSError as error:
            raise SharedLogError(
                error.errno, f"the log of tickets {self.path} cannot be used ({error.strerror or error})"
            ) from None


def _written(line: Line, position: int) -> bytes:
    data = json.dumps({"at": position, **line}, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _read(raw: bytes, position: int) -> Line | None:
    """A line that stands where its writer meant it to stand, and has not changed since; else None."""
    checksum, _, data = raw.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(data):
        return None
    line: Line = json.loads(data)
    return line if line.pop("at") == position else None
