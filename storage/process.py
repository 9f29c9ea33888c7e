"""Which process is meant by a name in a file: it lives, it has ended, or this host cannot know."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told apart from those that get its number later, and from those of other hosts and containers.

    Attributes:
        hostname: its host.
        pid: its process number, as its own container counts.
        started: when it started, in the system's format; None if the system does not tell.
        system: the boot of its kernel and its namespace of process numbers; two containers may have one hostname.
    """

    hostname: str
    pid: int
    started: str | None
    system: str

    @classmethod
    def current(cls) -> Process:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), start_of(os.getpid()), system())

    @property
    def is_here(self) -> bool:
        """Whether this process can see that one, if it lives."""
        return self.hostname == socket.gethostname() and self.system == system()

    def has_ended(self) -> bool:
        """Whether it is known to have ended. False for processes of other hosts and containers."""
        if not self.is_here:
            return False
        started = start_of(self.pid)
        return started is None or started != self.started

    def __str__(self) -> str:
        """One word, from which `parse` makes the same process."""
        return f"{self.pid}/{self.started or ''}/{self.system}/{self.hostname}"

    @classmethod
    def parse(cls, word: str) -> Process:
        """The process that `str` wrote; raises ValueError for anything else."""
        pid, started, system_, hostname = word.split("/", 3)
        return cls(hostname, int(pid), started or None, system_)


def start_of(pid: int) -> str | None:
    """The start time of a process on this host, in the system's format; None if there is no such process."""
    try:
        # The fields of proc(5) after the command, which may contain spaces: the state, ..., and field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(pid)
    return None if fields[0] in "ZX" else fields[19]


def _without_proc(pid: int) -> str | None:
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"


def children() -> dict[int, list[int]]:
    """The children of each process of this host; empty if the system does not tell."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if Path("/proc/self").exists() else ():
        if not entry.isdigit():
            continue
        try:
            # The fields of proc(5) after the command, which may contain spaces: the state, and the parent.
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found.setdefault(int(fields[1]), []).append(int(entry))
    return found


def with_descendants(processes: Iterable[int]) -> list[int]:
    """The processes, those that they have started, and so on."""
    of, found = children(), list(processes)
    for process in found:  # grows
        found += of.get(process, ())
    return found


@functools.cache
def system() -> str:
    """This kernel's boot and this process's namespace of process numbers; empty if the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""
