"""Leads what a trial prints into its rank's log, so that one trial's output can be told from another's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from atoll.storage.events import TrialKey
from atoll.storage.files import FILE_MODE, make_folder
from atoll.storage.rank_logs import heading

_LIBC = ctypes.CDLL(None)
_LINE_BUFFERED = 1  # _IOLBF
_STREAMS = (1, 2)


class RankLog:
    """A rank's log. If it cannot be opened or written, such as on a full disk, output stays where it would go.

    Descriptors are redirected, not Python's streams: libraries in C and processes that a trial starts print, too. The
    log is written without a pipe, so what a crashing process has printed is there.

    Args:
        path: the log's file.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            make_folder(path.parent)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
        _buffer_lines()

    @contextlib.contextmanager
    def receiving(self, trial: TrialKey | None) -> Iterator[None]:
        """Standard output and error lead here in this context; not without a trial."""
        if trial is None or not self._begin(trial):
            yield
            return
        kept = self._redirect()
        try:
            yield
        finally:
            _flush()
            for stream, file in kept.items():
                _put_back(stream, file)

    def receive(self, trial: TrialKey) -> None:
        """Standard output and error lead here until this process ends."""
        if self._begin(trial):
            for file in self._redirect().values():
                if file is not None:
                    os.close(file)

    def _begin(self, trial: TrialKey) -> bool:
        """Write the heading, on a line of its own; returns whether the log can be written."""
        if self._file is None:
            return False
        try:
            size = os.fstat(self._file).st_size
            torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
            line = (b"\n" if torn else b"") + heading(trial, time.time())
            return os.write(self._file, line) == len(line)
        except OSError:
            return False

    def _redirect(self) -> dict[int, int | None]:
        """Lead the streams here; returns copies of the descriptors that they had, None for those that are closed."""
        assert self._file is not None
        _flush()
        kept: dict[int, int | None] = {}
        for stream in _STREAMS:
            try:
                kept[stream] = os.dup(stream)
            except OSError:
                kept[stream] = None
            os.dup2(self._file, stream)
        return kept


def _buffer_lines() -> None:
    """Let Python's and C's streams write each line at once, so that a crash loses none, and in order."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # another kind of stream
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with contextlib.suppress(ValueError):  # a C library that has another name for it
        _LIBC.setvbuf(ctypes.c_void_p.in_dll(_LIBC, "stdout"), None, _LINE_BUFFERED, ctypes.c_size_t(0))


def _put_back(stream: int, file: int | None) -> None:
    if file is None:
        os.close(stream)
    else:
        os.dup2(file, stream)
        os.close(file)


def _flush() -> None:
    """Write what Python's and C's streams hold."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have replaced it
            stream.flush()
    _LIBC.fflush(None)
