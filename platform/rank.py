"""The program that `mpiexec` starts: one rank of a search, or of one configuration's training.

python -m atoll.platform.rank search FOLDER
python -m atoll.platform.rank train CONFIGURATION.json RESULT.jsonl
"""

from __future__ import annotations

import sys
import traceback


def main(arguments: list[str]) -> None:
    """Run one rank; what it raises ends the whole MPI job, as peers would wait for it for ever."""
    import mpi4py

    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    try:
        _dispatch(arguments, MPI.COMM_WORLD)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)


def _dispatch(arguments: list[str], world: object) -> None:
    from mpi4py import MPI

    assert isinstance(world, MPI.Comm)
    if arguments[0] == "search":
        from atoll.platform import search
        from atoll.storage.folder import StudyFolder

        search.run(StudyFolder(arguments[1]), world)
    else:
        from atoll.platform import training

        training.run(arguments[1], arguments[2], world)


if __name__ == "__main__":
    main(sys.argv[1:])
