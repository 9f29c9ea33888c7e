"""The state of the git repository that holds a file, asked of git; unknown without git."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

TIMEOUT = 2.0  # a huge tree on a slow file system must not delay a search
MAX_CHANGED = 20


def root_of(path: Path) -> Path | None:
    """The folder of the repository that holds `path`; None if none does."""
    return next((folder for folder in path.parents if (folder / ".git").exists()), None)


def state(root: Path, files: Sequence[Path]) -> tuple[str, list[str]] | None:
    """The commit of a repository, and what differs from it; None if git does not tell, or takes too long.

    Args:
        root: the repository's folder.
        files: files that count as different if the repository does not track them.

    Returns:
        The commit ("(initial)" before the first), and at most MAX_CHANGED paths of changed tracked files and of
        untracked `files`.
    """
    status = _git(root, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--no-renames", "-z")
    names = [str(path.relative_to(root)) for path in files]
    tracked = _git(root, "ls-files", "-z", "--", *names)
    if status is None or tracked is None:
        return None
    entries = [entry for entry in status.split("\0") if entry]
    commit = next((entry.split()[-1] for entry in entries if entry.startswith("# branch.oid ")), "")
    # "1 XY sub mH mI mW hH hI path", or, of a conflict, "u" with two fields more.
    modified = {entry.split(" ", 8 if entry[0] == "1" else 10)[-1] for entry in entries if entry[0] in "1u"}
    untracked = {*names} - {*tracked.split("\0")}
    return commit, sorted(modified | untracked)[:MAX_CHANGED]


def _git(root: Path, *arguments: str) -> str | None:
    """The output of a git command that only reads; None if it fails or takes too long."""
    # A repository's own configuration may name a program to run as its file system monitor.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
