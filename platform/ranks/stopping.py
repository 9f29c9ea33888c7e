"""A rank's answer to signals: a request to stop the whole search."""

from __future__ import annotations

from contextlib import suppress

from atoll.platform import stop_signals
from atoll.storage.folder import StudyFolder


def stop_on_signals(folder: StudyFolder) -> None:
    """Request a clean stop of the whole search on a signal from Slurm or from the user through mpiexec.

    If the request cannot be written, as on a full disk, the signal has no effect: an exception here would be one of the
    running trial, which would have failed. The launcher, which got the same signal, ends the ranks.
    """

    def asked(_number: int, _frame: object) -> None:
        with suppress(OSError):
            folder.stop_request.touch()

    stop_signals.handle(asked)
