"""A base install in a fresh virtual environment, without torch and MPI, reads a store."""

import subprocess
import sys

import boards
import pandas as pd
import pytest
from conftest import ROOT

PROGRAM = """
import importlib.util as u
for name in ("torch", "mpi4py", "propulate", "sklearn", "scipy", "pyarrow"):
    assert u.find_spec(name) is None, name
import atoll
study = atoll.open("atoll.db").study("s")
assert study.trials()["state"].tolist() == ["complete", "failed", "complete", "complete"]
assert study.importance().sum() > 0.99
assert len(study.figure("history").data) == 2
assert study.figure("importance").data[0].x is not None
study.report("python.html")
study.export("best.yaml")
"""


@pytest.mark.long
def test_a_base_install_reads_a_store_into_a_table_a_file_a_figure_and_a_report(tmp_path):
    boards.study(tmp_path, [0.5, None, 0.7, 0.6]).close()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    bin_folder = tmp_path / "venv" / "bin"

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Pip itself is not installed, and what is imported is compiled then: both take longer than all that is run.
    install = ("--python", bin_folder / "python", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt")
    run(sys.executable, "-m", "pip", *install, ROOT)
    run(bin_folder / "python", "-c", PROGRAM)
    run(bin_folder / "atoll", "table", "s", "-o", "t.csv")
    assert pd.read_csv(tmp_path / "t.csv")["objective.accuracy"].tolist()[2:] == [0.7, 0.6]
    run(bin_folder / "atoll", "report", "s", "-o", "shell.html")
    for page in ("python.html", "shell.html"):
        assert "Best accuracy: 0.7 in trial 2" in (tmp_path / page).read_text()
    assert "trial 1 of s: failed" in run(bin_folder / "atoll", "trial", "s", "1")
