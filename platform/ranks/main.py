"""The program that `mpiexec` starts: one rank of a search, of a training, or of the MPI check.

python -m atoll.platform.ranks.main --launcher=PROCESS search FOLDER LAUNCH
python -m atoll.platform.ranks.main --launcher=PROCESS train CONFIGURATION.json RESULT.jsonl
python -m atoll.platform.ranks.main --launcher=PROCESS doctor RESULT.json
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from atoll.platform.exit_codes import EXIT_JOURNAL
from atoll.platform.ranks import launcher_watch
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalError
from atoll.storage.process import Process

if TYPE_CHECKING:
    from mpi4py import MPI


def main(arguments: list[str]) -> None:
    """Run one rank; an exception aborts the whole MPI job, as the peers would wait forever."""
    launcher, *arguments = arguments
    program, *files = arguments
    lock = StudyFolder(files[0]).lock if program == "search" else None
    launcher_watch.end_with(Process.parse(launcher.removeprefix("--launcher=")), lock)
    import mpi4py

    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    try:
        _dispatch(arguments, MPI.COMM_WORLD)
    except BaseException as error:
        try:
            traceback.print_exc()
            sys.stderr.flush()
        finally:  # the log may be on the disk that is full
            MPI.COMM_WORLD.Abort(EXIT_JOURNAL if isinstance(error, JournalError) else 1)
    MPI.Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written, and unloading torch and other libraries takes seconds if ranks share cores.
    os._exit(0)


def _dispatch(arguments: list[str], comm: MPI.Comm) -> None:
    from atoll.communication.mpi_world import MpiWorld

    program, *files = arguments
    if program == "search":
        from atoll.platform.ranks import search

        folder = StudyFolder(files[0])
        search.stop_on_signals(folder)
        search.run(folder, int(files[1]), MpiWorld(comm))
    elif program == "doctor":
        from atoll.platform.ranks import mpi_check

        mpi_check.run(files[0], comm)
    else:
        from atoll.platform.ranks import train

        train.run(files[0], files[1], MpiWorld(comm))


if __name__ == "__main__":
    main(sys.argv[1:])
