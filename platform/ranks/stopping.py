"""A rank's answer to signals: a request to stop."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from atoll.platform import stop_signals
from atoll.platform.ranks import terminations


def stop_on_signals(request: Path, notes: Path | None = None) -> None:
    """Request a clean stop of the launcher's ranks, by making a file, on a signal from Slurm or through mpiexec.

    If the request cannot be written, as on a full disk, the signal has no effect: an exception here would be one of the
    running trial, which would have failed. The launcher, which got the same signal, ends the ranks.

    Args:
        request: the file to make.
        notes: this rank's own file of signals, if a launcher starts the ranks again when one has died. Then SIGTERM may
            be the process manager's, which ends the others, and the launcher decides (`terminations.py`). Inside
            someone's own mpirun either means the end of this run, which --resume continues.
    """
    rank = os.getpid()
    launcher_decides = notes is not None and terminations.note_terminations(notes)

    def asked(number: int, _frame: object) -> None:
        if os.getpid() != rank:  # a process that user code has forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        with suppress(OSError):
            if launcher_decides and number == signal.SIGTERM:
                terminations.note_again()
            else:
                request.touch()

    stop_signals.handle(asked)
