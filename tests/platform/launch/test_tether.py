"""A command that ends with the process that asked for it."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from atoll.platform.launch import tether

pytestmark = pytest.mark.process

TETHER = [sys.executable, "-I", "-S", tether.__file__]
PARENT = (
    "import os, subprocess, sys, time\n"
    "command = [*sys.argv[1:], str(os.getpid()), 'sleep', '60']\n"
    "print(subprocess.Popen(command, start_new_session=True).pid, flush=True)\n"
    "time.sleep(60)"
)


def test_the_system_ends_it_however_its_parent_ended():
    with subprocess.Popen([sys.executable, "-c", PARENT, *TETHER], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        deadline = time.monotonic() + 20
        while child.name() != "sleep":  # the number stays, as with mpiexec
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_starts_if_the_parent_ended_before():
    assert subprocess.run([*TETHER, "1", "touch", "/dev/null"], timeout=20).returncode == 1


def test_its_exit_code_is_the_commands():
    command = [*TETHER, str(os.getpid()), "bash", "-c", "exit 7"]
    assert subprocess.run(command, timeout=20).returncode == 7


def test_a_command_that_cannot_be_started_is_named():
    done = subprocess.run([*TETHER, str(os.getpid()), "/nowhere/mpiexec"], timeout=20, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "/nowhere/mpiexec cannot be started: No such file or directory\n"
