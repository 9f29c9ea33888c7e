"""Tells before anything starts that a folder cannot be written, or that its file system is full.

Only writing tells: permissions do not know of quotas, a read-only mount or a limit of the process.
"""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path

from sqlalchemy.engine import URL

NEEDED = 1 << 20  # bytes: a small study's journals, logs and definition
_BLOCK = os.urandom(1 << 16)  # zeros would take no space on file systems that compress


class NotWritable(OSError):
    """Files cannot be written there; the message has the path, the reason and what to do."""


def check_writable(path: Path, what: str, remedy: str, needed: int = NEEDED) -> None:
    """Write up to 1 MiB where `path` is, or is to be made, and remove it.

    Args:
        path: a folder, or a file that is to be written whole.
        what: its name in the message, such as "the study's folder".
        remedy: what to do, as the end of a sentence.
        needed: the bytes that must be free.

    Raises:
        NotWritable: if they cannot be written, or the folder cannot be made.
    """
    folder = path.absolute()
    try:
        if not folder.is_dir():
            folder = _existing(folder.parent)
        # It has no name, or loses it at once: nothing is left of it, however this process ends.
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            written = 0
            while written < min(needed, NEEDED):
                written += probe.write(_BLOCK) or 0
            os.fsync(probe.fileno())  # quotas of network file systems may be told only now
        status = os.statvfs(folder)
        if status.f_blocks and _free(status) < needed:
            raise OSError(errno.ENOSPC, "too little space")
    except OSError as error:
        reason = _reason(error, folder, needed)
        raise NotWritable(f"{what} {path.absolute()} cannot be written: {reason}{remedy and '; '}{remedy}") from None


def store_problem(url: URL) -> str | None:
    """Why a store's SQLite file, which may not exist, cannot be written from here; None for other stores.

    Args:
        url: the store's, with an absolute file.
    """
    file = url.database
    if url.get_backend_name() != "sqlite" or file in (None, "", ":memory:") or str(file).startswith("file:"):
        return None
    path = Path(str(file))
    try:
        if path.is_file():
            path.open("r+b").close()
        check_writable(path, "the store", "")  # SQLite makes a log next to it
    except NotWritable as error:
        return str(error)
    except OSError as error:
        return f"the store {path} cannot be written: {_reason(error, path, NEEDED)}"
    return None


def _existing(folder: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _free(status: os.statvfs_result) -> int:
    return status.f_bavail * status.f_frsize


def _reason(error: OSError, folder: Path, needed: int) -> str:
    if error.errno == errno.ENOSPC:
        status = os.statvfs(folder)
        free = _free(status)
        if free >= needed and status.f_files and not status.f_favail:
            return f"its file system has no inodes left for new files ({free:,} bytes are free)"
        return f"its file system is full: {free:,} bytes are free, and at least {needed:,} are needed"
    if error.errno == errno.EDQUOT:
        return f"your disk quota there is used up: less than {needed:,} bytes are left"
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return f"files may have at most {limit:,} bytes (ulimit -f), and at least {needed:,} are needed"
    if error.errno == errno.EROFS:
        return "its file system is mounted read-only"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user must not write to {folder}"
    if error.errno == errno.ENOTDIR:
        return f"{folder} is no folder"
    return error.strerror or str(error)
