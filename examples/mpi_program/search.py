"""Searches the settings of a program that has an mpiexec of its own: python search.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import atoll

PROGRAM = [sys.executable, str(Path(__file__).resolve().parent / "program.py")]
RANKS = 2
# By these variables a process takes itself for a rank of atoll's MPI job: the program's mpiexec must not see them.
OF_THE_JOB = ("PMI", "HYD", "MPI_LOCAL", "OMPI_COMM", "PRTE", "PRRTE")


def distance(trial):
    command = ["mpiexec", "-n", str(RANKS), *PROGRAM, str(trial["rate"]), str(trial["steps"])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_JOB)}
    program = subprocess.Popen(
        command, env=environment, cwd=trial.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        printed, _ = program.communicate()
    except BaseException:  # a stop or a timeout: mpiexec ends its ranks if it is asked to, but not if it is killed
        program.terminate()
        program.wait()
        raise
    found = re.search(r"^distance (\S+)$", printed, re.MULTILINE)
    if program.returncode or not found:
        raise RuntimeError(f"exit code {program.returncode}: {printed[-1000:]}")  # why the trial failed
    return float(found[1])


if __name__ == "__main__":
    space = {"rate": atoll.Float(0.01, 0.5, log=True), "steps": atoll.Int(1, 20)}
    study = atoll.search(
        distance, space=space, trials=8, workers=2, trial_timeout=60, name="program", resume="--resume" in sys.argv
    )
    print(study.best(1)[["trial", "objective.value", "hp.rate", "hp.steps"]])
