"""The ranks of `atoll train` as threads, in place of an MPI job."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from atoll.communication.thread_world import run_in_threads
from atoll.platform.ranks import train


class ThreadJob:
    """What `mpiexec.start_ranks` returns, as far as `atoll train` uses it."""

    returncode: int | None = None

    def __init__(self, num_ranks: int, arguments: Sequence[str], log: Path) -> None:
        program, *files = arguments
        assert program == "train"
        self._size, self._files, self._log = num_ranks, files, log
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            run_in_threads(self._size, lambda world: train.run(*self._files, world))
            self.returncode = 0
        except Exception:
            self._log.write_text(traceback.format_exc())
            self.returncode = 1

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> None:
        """Return when it has ended."""
        self._thread.join(timeout)
