"""A workload that prints in every way, and can end its process; its seed tells the trial."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

from atoll.platform.workloads.digits import DigitsMlp

_LIBC = ctypes.CDLL(None)


class Printing(DigitsMlp):
    """Prints when a trial makes its model; `ABORT=N` ends a rank of the process that makes the Nth of its models."""

    num_models = 0

    def model(self):
        Printing.num_models += 1
        print("from python")
        print("from stderr", file=sys.stderr)
        _LIBC.puts(b"from a library")
        subprocess.run(["echo", "from a process"], check=True)
        if os.environ.get("ABORT") == str(Printing.num_models):
            _LIBC.puts(b"last words")
            _LIBC.fflush(None)
            os.abort()
        return super().model()
