"""Writes files so that a crash, of this process or of the host, leaves the old file or the whole new one."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

# The system takes away what the user's umask says.
FILE_MODE = 0o666


_PARTIAL = ".partial"


def left_overs(folder: Path) -> Iterator[Path]:
    """The files in a folder whose writers have died."""
    return folder.glob(f".*{_PARTIAL}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file next to `path` to be written, which then replaces it, on disk as well; it keeps the former's mode."""
    path = path.resolve()  # a link stays one
    partial = path.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
    try:
        yield partial
        with contextlib.suppress(FileNotFoundError):
            partial.chmod(stat.S_IMODE(path.stat().st_mode))
        _sync(partial)
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # such as of a write on a full disk, which names no file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, or into what is no regular file, such as /dev/stdout."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's new files on disk, too."""
    with contextlib.suppress(OSError):  # not every file system can
        _sync(folder)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
