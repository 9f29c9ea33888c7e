"""Without the optional packages, commands work or say in a line what to install."""

import subprocess
import sys

import boards
import pytest
from ranks import SUPPORT

pytestmark = pytest.mark.process


def called(*arguments, cwd, code):
    command = [sys.executable, SUPPORT / "base_install.py", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done


SEARCH = 'install with `python -m pip install -c constraints.txt -e ".[search]"` (Python 3.11 or 3.12)\n'


@pytest.mark.parametrize("arguments", [("methods",), ("methods", "daso", "--json"), ("workloads",)], ids=" ".join)
def test_what_needs_torch_says_what_to_install(tmp_path, arguments):
    done = called(*arguments, cwd=tmp_path, code=1)
    assert done.stderr == f"error: this needs torch, which is not installed; {SEARCH}"


def test_doctor_goes_on_without_torch(tmp_path):
    done = called("doctor", cwd=tmp_path, code=1)
    assert done.stderr == ""
    assert f"FIX packages: a search needs mpi4py, torch, propulate, cmaes, sortedcontainers; {SEARCH}" in done.stdout
    assert "ok  store: sqlite:///atoll.db holds 0 studies\n" in done.stdout
    assert "FIX workloads: cannot be examined without torch\n" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",), ("studies",), ("leaderboard",), ("export", "s"), ("spaces",), ("table",), ("table", "--curves"),
        ("trial", "s", "1"), ("logs", "s"), ("report", "s", "-o", "s.html"), ("report", "s", "--json"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_needs_none_of_them_works(tmp_path, arguments):
    boards.study(tmp_path, [0.5, None, 0.7])
    assert called(*arguments, cwd=tmp_path, code=0).stdout


def test_a_parquet_file_needs_an_extra(tmp_path):
    boards.study(tmp_path, [0.5])
    done = called("table", "-o", "t.parquet", cwd=tmp_path, code=1)
    assert "needs pyarrow, which is not installed; install with" in done.stderr
    assert '".[parquet]"' in done.stderr


def test_another_missing_module_is_no_matter_of_an_extra():
    from atoll.platform.launch import extras

    assert extras.advice(ModuleNotFoundError("no", name="my_module")) is None
    assert "[speech]" in extras.advice(ModuleNotFoundError("no", name="soundfile.lib"))
