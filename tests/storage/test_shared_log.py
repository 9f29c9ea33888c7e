"""A log that several writers append to: all readers agree on its lines, whatever happens to a writer or to the lock."""

import contextlib
import os
import random

import pytest

from atoll.storage.shared_log import SharedLog, SharedLogError


@pytest.fixture
def logs(tmp_path):
    """Opens further views of one log."""
    SharedLog(tmp_path / "log").create()
    return lambda: SharedLog(tmp_path / "log")


def append(log, line):
    with log.turn():
        log.read()
        while not log.append(line):  # after a torn line
            log.read()


def test_all_read_the_same_lines_in_the_order_of_the_turns(logs):
    some, rng, written = [logs() for _ in range(3)], random.Random(0), []
    read = [[], [], []]
    for number in range(50):
        who = rng.randrange(3)
        with some[who].turn():
            read[who] += some[who].read()
            assert some[who].append({"n": number})
            read[who].append({"n": number})
        written.append({"n": number})
    for log, lines in zip(some, read, strict=True):
        assert lines + log.read() == written


def test_a_line_that_others_have_overtaken_does_not_count(logs):
    """As if the lock of a suspended writer had been broken."""
    late, other = logs(), logs()
    late.read()
    append(other, {"n": 1})
    assert not late.append({"n": 2})
    assert late.read() == [{"n": 1}]
    assert late.append({"n": 3})
    assert other.read() == [{"n": 3}]
    assert logs().read() == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("num_bytes", [1, 8, 9, 20])
def test_what_a_killed_writer_left_torn_does_not_count(logs, num_bytes):
    log = logs()
    append(log, {"n": 1})
    whole = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write(whole[:num_bytes])
    other = logs()
    assert other.read() == [{"n": 1}]
    append(other, {"n": 2})
    append(log, {"n": 3})
    assert logs().read() == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_line_that_was_changed_or_moved_does_not_count(logs):
    log = logs()
    for number in range(3):
        append(log, {"n": number})
    first, second, third = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(first.replace(b'"n":0', b'"n":7') + third + second)
    assert logs().read() == []


def test_a_turn_ends_with_an_error_and_the_lock_of_a_dead_writer_is_broken(logs, monkeypatch):
    log, other = logs(), logs()
    with contextlib.suppress(KeyError), log.turn():
        raise KeyError
    with other.turn():
        pass
    lock = log.path.with_name("log.lock")
    lock.touch()  # of a writer that was killed
    times = iter(range(0, 1000, 5))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    monkeypatch.setattr("time.sleep", lambda _: None)
    append(other, {"n": 1})
    assert not lock.exists()


def test_a_log_that_cannot_be_used_says_which(tmp_path):
    with pytest.raises(SharedLogError, match=f"the log of tickets {tmp_path}/none cannot be used"):
        SharedLog(tmp_path / "none").read()
    with pytest.raises(OSError, match="cannot be used"), SharedLog(tmp_path / "away" / "log").turn():
        pass


@pytest.mark.process
def test_processes_lose_no_line(tmp_path):
    SharedLog(tmp_path / "log").create()
    children = []
    for writer in range(3):
        if (child := os.fork()) == 0:
            code = 1
            with contextlib.suppress(BaseException):
                log = SharedLog(tmp_path / "log")
                for number in range(60):
                    append(log, {"w": writer, "n": number})
                code = 0
            os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    lines = SharedLog(tmp_path / "log").read()
    for writer in range(3):
        assert [line["n"] for line in lines if line["w"] == writer] == list(range(60))
