"""A rank notices that its launcher has ended: by its process on the same host, by its lock on others."""

import os
from dataclasses import replace

import pytest

from atoll.platform.ranks import launcher_watch
from atoll.platform.ranks.launcher_watch import SILENCE, LauncherWatch
from atoll.storage.process import Process


@pytest.fixture
def clock(monkeypatch):
    """Sets what the monotonic clock shows."""
    now = [1000.0]
    monkeypatch.setattr(launcher_watch.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, 1000.0 + seconds)


def test_a_launcher_of_this_host_is_looked_up(tmp_path):
    mine = Process.current()
    assert not LauncherWatch(mine, tmp_path / "lock").is_over()
    assert LauncherWatch(replace(mine, started="1"), tmp_path / "lock").is_over()


@pytest.mark.parametrize("elsewhere", [{"hostname": "elsewhere"}, {"system": "another container"}])
def test_a_launcher_elsewhere_is_over_once_it_no_longer_refreshes_its_lock(tmp_path, clock, elsewhere):
    lock = tmp_path / "lock"
    lock.touch()
    watch = LauncherWatch(replace(Process.current(), started="1", **elsewhere), lock)
    for seconds in (0, 50, 100, 150):
        clock(seconds)
        os.utime(lock, (seconds, seconds))  # hosts' clocks may differ: only that it changes counts
        assert not watch.is_over()
    clock(150 + SILENCE)
    assert not watch.is_over()
    clock(151 + SILENCE)
    assert watch.is_over()


def test_a_lock_that_is_never_there_counts_as_silent(tmp_path, clock):
    watch = LauncherWatch(replace(Process.current(), hostname="elsewhere"), tmp_path / "lock")
    assert not watch.is_over()
    clock(SILENCE + 1)
    assert watch.is_over()


def test_without_a_lock_nothing_is_known_of_other_hosts(clock):
    watch = LauncherWatch(replace(Process.current(), hostname="elsewhere"), None)
    clock(1e6)
    assert not watch.is_over()
