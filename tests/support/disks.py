"""File systems that are small or read-only, for tests of what happens then."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def small(path: Path, size: str, **options: str) -> Iterator[Path]:
    """A file system of so many bytes, such as 64k, at `path`; skips without the right to mount."""
    path.mkdir(exist_ok=True)
    given = ",".join(f"{name}={value}" for name, value in {"size": size, **options}.items())
    _run("mount", "-t", "tmpfs", "-o", given, "tmpfs", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """The folder as on a read-only mount; skips without the right to mount."""
    _run("mount", "--bind", path, path)
    try:
        _run("mount", "-o", "remount,ro,bind", path)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def as_another_user(folder: Path) -> Iterator[None]:
    """The body has no right to write into the folders of this user; root becomes another one."""
    user, before = os.geteuid(), folder.stat().st_mode
    if user == 0:
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(0o755)
        os.seteuid(NOBODY)
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        os.seteuid(user)
        if user != 0:
            folder.chmod(before)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As under `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting needs rights: {done.stderr.strip()}")
