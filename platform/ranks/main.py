"""The program that `mpiexec` starts: one rank of a search, of a training, or of the MPI check.

python -m atoll.platform.ranks.main --launcher=PROCESS search FOLDER LAUNCH [function]
python -m atoll.platform.ranks.main --launcher=PROCESS train CONFIGURATION.json RESULT.jsonl
python -m atoll.platform.ranks.main --launcher=PROCESS doctor RESULT.json [links]
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.platform.exit_codes import EXIT_JOURNAL
from atoll.platform.ranks import launcher_watch, terminations
from atoll.platform.ranks.stopping import stop_on_signals
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalError
from atoll.storage.process import Process

if TYPE_CHECKING:
    from mpi4py import MPI

    from atoll.platform.trial.fork_server import ForkServer


def main(arguments: list[str]) -> None:
    """Run one rank; an exception aborts the whole MPI job, as the peers would wait forever."""
    launcher, *arguments = arguments
    program, *files = arguments
    lock, server = None, None
    if program == "search":
        folder = StudyFolder(files[0])
        number = _launcher_of(folder, int(files[1]))
        notes = folder.signals(int(files[1]), socket.gethostname(), os.getpid())
        stop_on_signals(folder.launcher_stop_request(number), notes)  # before the imports
        lock = folder.launcher_lock(number)
        server = _fork_server(folder)  # before threads, and before MPI
    launcher_watch.end_with(Process.parse(launcher.removeprefix("--launcher=")), lock)
    import mpi4py

    mpi4py.rc.thread_level = _thread_level(program, files)
    from mpi4py import MPI

    try:
        _dispatch(arguments, MPI.COMM_WORLD, server)
    except BaseException as error:
        terminations.note_no_more()
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


def _launcher_of(folder: StudyFolder, launch: int) -> int:
    """The number of a launch's launcher; without the imports that `LaunchSettings` takes."""
    return int(json.loads(folder.launch_settings(launch).read_text())["member"]["launcher"])


def _thread_level(program: str, files: list[str]) -> str:
    """A rank that calls a user's function has a second thread meanwhile, and the function may use MPI as it likes."""
    calls = False
    if program == "train":
        calls = json.loads(Path(files[0]).read_text())["calls_function"]
    elif program == "search":
        calls = json.loads(StudyFolder(files[0]).definition.read_text())["definition"].get("objective") is not None
    return "multiple" if calls else "serialized"


def _fork_server(folder: StudyFolder) -> ForkServer | None:
    """Start the process from which trials are forked, if the study asks for it."""
    if json.loads(folder.definition.read_text())["definition"].get("isolate") != "process":
        return None  # without the imports, which take seconds
    from atoll.platform.ranks import search

    return search.start_server(search.load_study(folder))


def _dispatch(arguments: list[str], comm: MPI.Comm, server: ForkServer | None) -> None:
    program, *files = arguments
    if program == "doctor":
        from atoll.platform.ranks import mpi_check

        mpi_check.run(files[0], comm, links=len(files) > 1)
        return
    from atoll.communication.mpi_world import MpiWorld

    if program == "search":
        from atoll.platform.ranks import search

        folder = StudyFolder(files[0])
        if len(files) > 2:
            _receive_function(comm)
        search.run(folder, int(files[1]), MpiWorld(comm), server=server)
    else:
        from atoll.platform.ranks import train

        train.run(files[0], files[1], MpiWorld(comm))


def _receive_function(comm: MPI.Comm) -> None:
    """The function that trials call, which rank 0 reads from its standard input."""
    from atoll.platform.study import traveling

    content = None
    if comm.rank == 0:
        size = int.from_bytes(sys.stdin.buffer.read(8), "big")
        content = sys.stdin.buffer.read(size)
        if not size or len(content) != size:
            raise EOFError("the function that the search calls did not arrive: the pipe from the launcher has ended")
    traveling.unpack(comm.bcast(content))


if __name__ == "__main__":
    main(sys.argv[1:])
