"""Where commands print."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A console without highlighting; on a rank one without a terminal.

    Open MPI gives each rank a pseudo-terminal, wherever mpirun's own output goes.
    """
    return Console(highlight=False, force_terminal=False if "OMPI_COMM_WORLD_SIZE" in os.environ else None, **options)
