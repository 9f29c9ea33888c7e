"""The command that starts MPI jobs, as a study or ATOLL_MPIEXEC gives it: a program with options."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

_NUMBER = ("-n", "-np", "--np", "--ntasks")


def words(command: str, source: str) -> tuple[str, ...]:
    """The program and its options; a blank in the path of a file that exists separates nothing.

    Args:
        command: as in a shell.
        source: where it comes from, for the message.

    Raises:
        ValueError: if it cannot be read, is empty, or gives the number of ranks, which the study does.
    """
    if os.path.isfile(command):
        return (command,)
    try:
        found = tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(f"{source} must be a command as in a shell; got {command!r}: {error}") from None
    if not found:
        raise ValueError(f"{source} must be a command, such as `srun --mpi=pmix`; got {command!r}")
    if numbers := [word for word in found[1:] if word.partition("=")[0] in _NUMBER]:
        raise ValueError(
            f"{source} must not give the number of ranks, which is islands x workers x ranks of the study; got "
            f"{numbers[0]} in {command!r}"
        )
    return found


def located(command: str, folder: Path, *, inside: bool) -> str:
    """A study's launcher; a program with a slash is found from the study file's folder.

    Args:
        command: as in the study file.
        folder: that of the study file.
        inside: whether the program must lie there, as other code of the study must: its options may name programs, too.

    Raises:
        ValueError: if it cannot be used.
    """
    program, *options = words(command, "launcher")
    path = str((folder / Path(program).expanduser()).resolve()) if "/" in program else program
    found = shutil.which(path)
    if inside and (found is None or not Path(found).resolve().is_relative_to(folder.resolve())):
        raise ValueError(
            f"launcher: its program must lie in the study file's folder, as all its code; got {program!r}: put a "
            "script there (./start.sh), set ATOLL_MPIEXEC instead, or add --outside"
        )
    return shlex.join([path, *options])
