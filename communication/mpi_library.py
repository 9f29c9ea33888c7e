"""The name and version of an MPI library, from what the library says of itself."""

from __future__ import annotations

import re
import sys


def short_name(text: str) -> str:
    """Name and version of a library, from `MPI_Get_library_version`, which may have pages of text.

    Examples: `MPICH 5.0.2`, `Open MPI 5.0.11`, `Intel(R) MPI Library 2021.11 for Linux* OS`.
    """
    if found := re.search(r"Open MPI v?([^\s,]+)", text):
        return f"Open MPI {found[1]}"
    if found := re.search(r"^MPICH Version:\s*(\S+)", text, re.MULTILINE):
        return f"MPICH {found[1]}"
    lines = text.replace("\0", "").strip().splitlines() or [""]
    first = re.sub(r"^MPI VERSION\s*:\s*", "", lines[0])
    return " ".join(first.partition(",")[0].partition(" (ANL")[0].split())


def loaded() -> str | None:
    """The library that this process has started, as a rank; None in other processes."""
    module = sys.modules.get("mpi4py.MPI")
    return None if module is None else short_name(module.Get_library_version())
