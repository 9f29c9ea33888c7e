"""Two hosts of one machine: what a launcher starts there by ssh runs here, in a namespace with another hostname."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

# Hydra looks up the addresses of names; Open MPI lets its daemons call back.
NAMES = ("127.0.0.2", "127.0.0.3")
_UNSHARE = ["unshare", "--uts"]
_SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec unshare --uts sh -c "hostname $host && exec sh -c '$*'"
"""


def launcher(folder: Path, mpi: str, mpiexec: str) -> str:
    """The command of a launcher that starts ranks on both hosts; skips the test where hostnames cannot be changed."""
    tried = subprocess.run([*_UNSHARE, "hostname", "other"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"another hostname needs the right to make a namespace: {tried.stderr.strip()}")
    ssh = folder / "ssh.sh"
    ssh.write_text(_SSH)
    ssh.chmod(0o755)
    if mpi == "openmpi":
        return f"{mpiexec} --prtemca plm_ssh_agent {ssh} --host {','.join(f'{name}:2' for name in NAMES)}"
    return f"{mpiexec} -launcher-exec {ssh} -hosts {','.join(NAMES)}"
