"""Signals before a search handles them, and those that a process ignores."""

import os
import signal
import subprocess
import sys

import pytest

from atoll.platform import stop_signals

pytestmark = pytest.mark.process

# The first import of the command line takes as long as those of many ranks on few cores do.
SLOW_IMPORT = """
import os, signal, sys
sys.argv = ["atoll", *sys.argv[2:]]

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "atoll.platform.cli":
            os.kill(os.getpid(), int(os.environ["NUMBER"]))
            print("still importing", flush=True)
            raise SystemExit(0)

sys.meta_path.insert(0, Slow())
from atoll.__main__ import main
main()
"""


def run(number, *arguments, ignored=()):
    """The command line, whose process gets a signal while it imports."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in ignored}
    try:
        return subprocess.run(
            [sys.executable, "-c", SLOW_IMPORT, "-", *arguments],
            env=os.environ | {"NUMBER": str(int(number))},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize("number", stop_signals.STOP_SIGNALS)
def test_a_signal_during_the_imports_ends_a_search_with_the_code_of_one_that_can_go_on(number):
    done = run(number, "search", "study.yaml")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == f"stopped by {number.name} while no trial was running\n"


def test_other_commands_keep_their_handlers():
    assert run(signal.SIGUSR1, "studies").returncode == -signal.SIGUSR1


def test_what_was_ignored_at_the_start_stays_ignored():
    done = run(signal.SIGHUP, "search", "study.yaml", ignored=[signal.SIGHUP])
    assert (done.returncode, done.stdout) == (0, "still importing\n")
