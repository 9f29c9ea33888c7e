"""Which process is meant by a name in a file."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from atoll.storage.process import Process, start_of


def test_this_process_is_here_and_has_not_ended():
    mine = Process.current()
    assert mine.is_here
    assert not mine.has_ended()
    assert mine.pid == os.getpid()


def test_its_word_is_one_argument_and_names_it():
    mine = Process.current()
    assert " " not in str(mine)
    assert Process.parse(str(mine)) == mine
    with pytest.raises(ValueError, match="not enough values"):
        Process.parse("12")


@pytest.mark.process
@pytest.mark.parametrize("is_reaped", [False, True])
def test_a_process_that_has_ended(is_reaped):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ended = replace(Process.current(), pid=child.pid, started=start_of(child.pid))
        assert not ended.has_ended()
        child.kill()
        if is_reaped:
            child.wait()
        else:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie
        assert ended.has_ended()


def test_a_number_that_is_used_again_is_another_process():
    assert replace(Process.current(), started="1").has_ended()


@pytest.mark.parametrize("elsewhere", [{"hostname": "elsewhere"}, {"system": "another container"}])
def test_of_processes_elsewhere_nothing_is_known(elsewhere):
    there = replace(Process.current(), started="1", **elsewhere)
    assert not there.is_here
    assert not there.has_ended()
