"""One launcher per study: a file that the operating system locks for its holder, and that names the holder.

The system's lock (flock) ends with its holder, however that ends, and no two processes have it: on one host in all of
its containers, and on network file systems that support it. Where a file system has no locks, launchers take turns, and
the name in the file counts: its holder is looked up by its process, or counts as dead if it has not refreshed the file
for a while.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atoll.storage.files import FILE_MODE, rights
from atoll.storage.process import Process, system

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
TRIES = 10  # somebody who only looks has the lock for an instant


class Locked(Exception):
    """Another process holds the lock; the message names it."""


class Lock:
    """The lock of one study, held from `acquire` to `release`."""

    SILENCE = 60.0
    REFRESH_INTERVAL = 5.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refreshed = 0.0
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, if necessary over from a dead holder. Raises Locked."""
        try:
            file = self._locked_file()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._acquire_by_name()
            return
        # A host that knows no locks, or an older atoll, holds it by its name alone.
        if (holder := self._named_holder()) is not None and not holder.get("has_flock"):
            os.close(file)
            raise Locked(running_as(holder))
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_identity() | {"has_flock": True}).encode(), 0)
            os.fsync(file)
        except OSError as error:  # such as of a full disk, which names no file
            os.close(file)
            error.filename = str(self._path)
            raise
        self._file = file

    def _locked_file(self) -> int:
        """The file, locked for this process. Raises Locked, and OSError if the file system has no locks."""
        for _ in range(TRIES):
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, FILE_MODE & rights())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                time.sleep(0.01)
                continue
            except OSError:
                os.close(file)
                raise
            if _is_still(self._path, file):
                return file
            os.close(file)  # the study was deleted, and the file with it
        raise Locked(running_as(self._content()))

    def _acquire_by_name(self) -> None:
        mine = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        mine.write_text(json.dumps(_identity()))
        try:
            with self._takeover():
                if (holder := self._named_holder()) is not None:
                    raise Locked(running_as(holder))
                mine.replace(self._path)
        finally:
            mine.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _takeover(self) -> Iterator[None]:
        """Only one launcher at a time looks whether the holder is dead, and takes its place."""
        turn = self._path.with_name(f"{self._path.name}.takeover")
        for _ in range(10 * TRIES):
            try:
                os.mkdir(turn)
                break
            except FileExistsError:
                with contextlib.suppress(OSError):
                    if time.time() - turn.stat().st_mtime > self.SILENCE:  # its maker has died within an instant
                        turn.rmdir()
                time.sleep(0.05)
        else:
            raise Locked(f"{self._path} could not be taken, because several launchers compete for it; try again")
        try:
            yield
        finally:
            turn.rmdir()

    def refresh(self) -> None:
        """Show that the holder is alive; to be called often, touches the file at intervals.

        A file system that is away for a while does no harm. A file that was removed is made again.

        Raises:
            Locked: if another process has taken the lock meanwhile.
        """
        if time.monotonic() - self._refreshed <= self.REFRESH_INTERVAL:
            return
        self._refreshed = time.monotonic()
        with contextlib.suppress(OSError):
            if self._file is not None and not _is_still(self._path, self._file):
                self._take_again(self._file)
            os.utime(self._path)

    def _take_again(self, removed: int) -> None:
        self.acquire()
        os.close(removed)

    def release(self) -> None:
        """Release the lock."""
        if self._file is None:
            self._path.unlink(missing_ok=True)
            return
        # The file stays: another process may be about to lock this very file.
        os.ftruncate(self._file, 0)
        os.close(self._file)
        self._file = None

    def holder(self) -> dict[str, Any] | None:
        """The live process that holds the lock; None if there is none."""
        try:
            file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._content()
        except OSError:
            return self._named_holder()
        finally:
            os.close(file)
        holder = self._named_holder()
        return None if holder is None or holder.get("has_flock") else holder

    def _content(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError):  # it is being written
            content = {}
        return {"hostname": "a host", "process": "unknown", "since": time.time()} | content

    def _named_holder(self) -> dict[str, Any] | None:
        """The process that the file names, unless it has ended, or is elsewhere and silent."""
        try:
            holder: dict[str, Any] = json.loads(self._path.read_text())
            silence = time.time() - self._path.stat().st_mtime
            number, started = int(holder["process"]), holder.get("started")
            process = Process(str(holder["hostname"]), number, started, holder.get("system", system()))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_over = process.has_ended() if process.is_here else silence > self.SILENCE
        return None if is_over else holder


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def running_as(holder: dict[str, Any]) -> str:
    """Who runs a study, for messages."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(holder["since"]))
    return (
        f"this study is running as process {holder['process']} on {holder['hostname']} (since {since}); stop it first, "
        "or wait"
    )


def _identity() -> dict[str, Any]:
    process = Process.current()
    return {
        "hostname": process.hostname,
        "process": process.pid,
        "started": process.started,
        "system": process.system,
        "since": time.time(),
    }
