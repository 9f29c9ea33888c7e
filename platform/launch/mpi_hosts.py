"""The hosts of an allocation, and the options by which each launcher puts a number of ranks on each of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from atoll.platform.launch.mpi_launcher import Launcher

_TIMEOUT = 20.0
# By what a launcher says of its version: the option, up to the number.
_PER_HOST = {
    "Open MPI": ("--map-by", "ppr:{}:node:oversubscribe"),
    "HYDRA": ("-ppn", "{}"),
    "Intel(R) MPI": ("-ppn", "{}"),
    "slurm ": ("--ntasks-per-node={}",),
    "PALS": ("--ppn", "{}"),
}
_PLACING = re.compile(r"-{1,2}(map-by|ppn|perhost|npernode|N|ntasks-per-node|ppr)\b")
_LISTS = ("-hosts", "--hosts", "-host", "--host", "-H", "-w", "--nodelist")
_FILES = ("-f", "-hostfile", "--hostfile", "-machinefile", "--machinefile")


def per_host(launcher: Launcher, number: int) -> tuple[str, ...]:
    """Options that start `number` ranks on each host; none if the launcher has such options already, or is unknown."""
    if any(_PLACING.match(word) for word in launcher.command[1:]):
        return ()
    said = version(launcher.command[0])
    return tuple(part.format(number) for part in next((_PER_HOST[name] for name in _PER_HOST if name in said), ()))


@cache
def version(program: str) -> str:
    """What a launcher says of its version; empty if it says nothing."""
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def of_allocation(environment: Mapping[str, str]) -> list[str]:
    """The hosts that Slurm, PBS or LSF have given to this job, in their order; none outside of a job."""
    if names := environment.get("SLURM_JOB_NODELIST") or environment.get("SLURM_NODELIST"):
        return list(expanded(names))
    for variable in ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE"):
        if (file := environment.get(variable)) and Path(file).is_file():
            return _unique(Path(file).read_text().split("\n"))
    return _unique(environment.get("LSB_HOSTS", "").split())


def of_options(command: Sequence[str]) -> list[str]:
    """The hosts that a launcher's options name, in a list or in a file."""
    for option, value in _values(command[1:]):
        if option in _LISTS:
            return _unique(expanded(value)) if option in ("-w", "--nodelist") else _unique(value.split(","))
        if option in _FILES and Path(value).is_file():
            return _unique(Path(value).read_text().split("\n"))
    return []


def _values(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, option in enumerate(options):
        name, separator, value = option.partition("=")
        yield (name, value) if separator else (option, options[number + 1] if number + 1 < len(options) else "")


def _unique(lines: Sequence[str] | Iterator[str]) -> list[str]:
    """The hosts of lines such as `node1 slots=4` or `node1:4`, each once."""
    names = (re.split(r"[\s:]", line.strip(), maxsplit=1)[0] for line in lines)
    return list(dict.fromkeys(name for name in names if name and not name.startswith("#")))


def expanded(names: str) -> Iterator[str]:
    """The hosts of Slurm's short form.

    Example: `n[1-2,07-09]-ib,login` means n1-ib, n2-ib, n07-ib, n08-ib, n09-ib and login.
    """
    for name in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", names):
        before, bracket, rest = name.partition("[")
        if not bracket:
            yield name
            continue
        ranges, _, after = rest.partition("]")
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                yield from expanded(f"{before}{number:0{len(first)}d}{after}")
