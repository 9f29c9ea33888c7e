"""Start a command that the system kills when the process that asked for it ends, however that happens.

python -I -S tether.py PARENT COMMAND ...

PARENT is the number of the process that runs this. It is a program of its own because a launcher has threads, which
must not run Python code between fork and exec. It imports nothing of atoll, so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Become `command`. Where the system knows no such tie, only the ranks watch their launcher."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the tie was made
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
