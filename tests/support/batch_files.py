"""The files that `atoll submit` reads, and the double of a search for jobs that need no real one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import yaml

CLUSTER = {
    "name": "here",
    "ranks_per_node": 2,
    "node": {"microseconds": 5, "gigabytes_per_second": 200},
    "network": {"microseconds": 3, "gigabytes_per_second": 25},
}
STUDY = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 4, "topology": {"ranks": 2}}


def write(folder: Path, study: dict | None = None, **batch: object) -> None:
    """Write study.yaml and cluster.yaml into a folder."""
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | (study or {})))
    (folder / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER | {"batch": {"system": "slurm"} | batch}))


def with_double(folder: Path, search: str) -> str:
    """A folder for `batch.venv` whose `atoll search` is these lines of bash; `atoll job` is the real one."""
    programs = folder / "double" / "bin"
    programs.mkdir(parents=True)
    real = shlex.join([sys.executable, "-m", "atoll.platform.cli"])
    lines = [
        "#!/bin/bash",
        f'[ "$1" = search ] || exec {real} "$@"',
        f'printf "%s\\n" "$*" >>{shlex.quote(str(folder / "searched"))}',
        search,
    ]
    (programs / "atoll").write_text("\n".join(lines) + "\n")
    (programs / "atoll").chmod(0o755)
    return str(programs.parent)
