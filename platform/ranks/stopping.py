"""A rank's answer to signals: a request to stop."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from atoll.platform import stop_signals


def stop_on_signals(request: Path) -> None:
    """Request a clean stop of the launcher's ranks, by making a file, on a signal from Slurm or through mpiexec.

    If the request cannot be written, as on a full disk, the signal has no effect: an exception here would be one of the
    running trial, which would have failed. The launcher, which got the same signal, ends the ranks.
    """

    def asked(_number: int, _frame: object) -> None:
        with suppress(OSError):
            request.touch()

    stop_signals.handle(asked)
