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
SHARE = "ATOLL_SHARE"
_RIGHTS = {"none": 0o700, "group": 0o770, "all": 0o777}

_PARTIAL = ".partial"


def rights() -> int:
    """Who may use new stores and folders of studies, as a mask of modes: their owner, or whom ATOLL_SHARE names.

    Files in a folder that only its owner can enter need no protection of their own: user code makes them as it likes.

    Raises:
        ValueError: if ATOLL_SHARE is not none, group or all.
    """
    given = os.environ.get(SHARE) or "none"
    if given not in _RIGHTS:
        raise ValueError(f"ATOLL_SHARE must be {', '.join(_RIGHTS)}; got {given!r}")
    return _RIGHTS[given]


def make_folder(path: Path) -> None:
    """Make a folder and its parents, for those whom ATOLL_SHARE names; what is there keeps its mode."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=rights(), exist_ok=True)


def left_overs(folder: Path) -> Iterator[Path]:
    """The files in a folder whose writers have died."""
    return folder.glob(f".*{_PARTIAL}")


@contextlib.contextmanager
def replacing(path: Path, mode: int = FILE_MODE) -> Iterator[Path]:
    """A new file next to `path` to be written, which then replaces it, on disk as well; it keeps the former's mode.

    Args:
        path: the file.
        mode: of a file that is new, before the umask.
    """
    path = path.resolve()  # a link stays one
    partial = path.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
    try:
        if mode != FILE_MODE:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
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


def write_whole(path: Path, text: str, mode: int = FILE_MODE) -> None:
    """Write a text file, or into what is no regular file, such as /dev/stdout; `mode` is as in `replacing`."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    with replacing(path, mode) as partial:
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
