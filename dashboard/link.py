"""The link with the dashboard's token: printed, unless others can read what is printed.

A batch job's output and a log are files that anybody may read with the usual umask. The link then goes to a file of
the user's own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from atoll.storage.store import StoreError


def others_can_read(stream: TextIO) -> bool:
    """Whether a stream goes to a file that other users may read; terminals and pipes are the user's own."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # such as a stream in memory
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def own_folder() -> Path:
    """The folder for atoll's own files of this user, by the XDG Base Directory Specification; it may not exist.

    Raises:
        StoreError: if the user has no home.
    """
    given = os.environ.get("XDG_STATE_HOME") or ""
    try:
        return (Path(given) if os.path.isabs(given) else Path.home() / ".local/state") / "atoll"
    except RuntimeError:
        raise StoreError("this user has no home for private files: set XDG_STATE_HOME to a folder") from None


@contextlib.contextmanager
def kept(url: str, port: int) -> Iterator[Path]:
    """A file that has the link and that only its owner can read, until the dashboard ends.

    Raises:
        StoreError: if it cannot be made.
    """
    file = own_folder() / f"dashboard-{socket.gethostname()}-{port}.link"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # of a dashboard that was killed
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(f"{url}\n")
    except OSError as error:
        raise StoreError(
            f"others can read this output, so the link with the token must go to a private file, and {file} cannot be "
            f"written ({error.strerror}): set XDG_STATE_HOME to another folder, or print to a terminal"
        ) from None
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
