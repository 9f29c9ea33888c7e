"""What a trial prints is in its rank's log, whoever prints it and however the process ends."""

import os
import subprocess
import sys

import pytest
from ranks import SUPPORT

from atoll.storage import rank_logs
from atoll.storage.folder import StudyFolder

pytestmark = pytest.mark.process

# A rank with two trials; what is printed between them is not a trial's.
PROGRAM = f"""
import ctypes, os, subprocess, sys
sys.path.append({str(SUPPORT)!r})
from atoll.platform.trial.output import RankLog
from atoll.storage.folder import StudyFolder
log = RankLog(StudyFolder(".").rank_log(3))
libc = ctypes.CDLL(None)
print("before")
with log.receiving((0, 0)):
    print("python")
    print("error", file=sys.stderr)
    libc.puts(b"library")
    subprocess.run(["echo", "process"])
    sys.stdout.write("no end")
print("between")
try:
    with log.receiving((1, 2)):
        libc.printf(b"buffered")
        raise ValueError
except ValueError:
    print("after")
with log.receiving(None):
    print("of no trial")
with log.receiving((2, 0)):
    print("last words")
    libc.puts(b"of a library")
    {{END}}
print("not reached by all")
"""


def run(folder, end):
    program = PROGRAM.replace("{END}", end)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, env=buffered)


def texts(folder):
    return {output.trial: output.text for output in rank_logs.read(StudyFolder(folder))}


@pytest.mark.parametrize("end", ["pass", "os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)"])
def test_each_trials_output_is_its_own(tmp_path, end):
    done = run(tmp_path, end)
    found = texts(tmp_path)
    assert sorted(found[0, 0].splitlines()) == sorted(["python", "error", "library", "process", "no end"])
    assert found[1, 2] == "buffered\n"  # the next heading ends the line
    assert found[2, 0].startswith("last words\nof a library\n")
    outside = ["before", "between", "after", "of no trial"]
    assert done.stdout.splitlines() == [*outside, *(["not reached by all"] if end == "pass" else [])]


def test_a_log_that_cannot_be_written_leaves_the_output_where_it_was(tmp_path):
    (tmp_path / "logs").write_text("a file, not a folder")
    done = run(tmp_path, "pass")
    assert done.returncode == 0
    assert "python\n" in done.stdout
    assert "library\n" in done.stdout


def test_closed_descriptors_stay_closed(tmp_path):
    program = (
        "import os; from pathlib import Path; from atoll.platform.trial.output import RankLog\n"
        "log = RankLog(Path('logs/rank-00000.log')); os.close(1)\n"
        "with log.receiving((0, 0)): os.write(1, b'x')\n"
        "try: os.write(1, b'y')\n"
        "except OSError: os.write(2, b'closed')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.startswith("closed")
    assert texts(tmp_path)[0, 0] == "x"
