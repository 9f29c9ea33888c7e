"""Without the optional packages, commands work or say in a line what to install."""

import json
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


SEARCH = 'install with `python -m pip install -c constraints.txt -e ".[search]"`\n'


@pytest.mark.parametrize("arguments", [("methods",), ("methods", "daso", "--json"), ("workloads",)], ids=" ".join)
def test_what_needs_torch_says_what_to_install(tmp_path, arguments):
    done = called(*arguments, cwd=tmp_path, code=1)
    assert done.stderr == f"error: this needs torch, which is not installed; {SEARCH}"


def test_doctor_goes_on_without_torch(tmp_path):
    done = called("doctor", cwd=tmp_path, code=1)
    assert done.stderr == ""
    assert f"FIX packages: a search needs mpi4py, torch, cmaes, sortedcontainers; {SEARCH}" in done.stdout
    assert "ok  store: sqlite:///atoll.db holds 0 studies\n" in done.stdout
    assert "workloads" not in done.stdout
    named = called("doctor", "--workload", "digits_mlp", cwd=tmp_path, code=1)
    assert "FIX workloads: cannot be examined without torch\n" in named.stdout


READING = [
    ("--help",), ("studies",), ("leaderboard",), ("export", "s"), ("spaces",), ("table",), ("table", "--curves"),
    ("trial", "s", "1"), ("logs", "s"), ("report", "s", "-o", "s.html"), ("report", "s", "--json"),
]  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What each of these commands returned and printed, in one process: to start takes longer than most of them."""
    folder = tmp_path_factory.mktemp("base")
    boards.study(folder, [0.5, None, 0.7]).close()
    command = [sys.executable, SUPPORT / "base_install.py", "--each"]
    done = subprocess.run(
        command, cwd=folder, input=json.dumps(READING), capture_output=True, text=True, timeout=120, check=True
    )
    return dict(zip(READING, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_what_needs_none_of_them_works(read, arguments):
    code, out, err = read[arguments]
    assert code in (0, None), err
    assert "Traceback" not in err
    assert out


def test_a_parquet_file_needs_an_extra(tmp_path):
    boards.study(tmp_path, [0.5])
    done = called("table", "-o", "t.parquet", cwd=tmp_path, code=1)
    assert "needs pyarrow, which is not installed; install with" in done.stderr
    assert '".[parquet]"' in done.stderr


def test_another_missing_module_is_no_matter_of_an_extra():
    from atoll.platform.launch import extras

    assert extras.advice(ModuleNotFoundError("no", name="my_module")) is None
    assert "[speech]" in extras.advice(ModuleNotFoundError("no", name="soundfile.lib"))
