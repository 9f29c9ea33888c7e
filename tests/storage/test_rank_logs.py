"""The ranks' logs: which trial printed what."""

import pytest

from atoll.storage import rank_logs
from atoll.storage.folder import StudyFolder


@pytest.fixture
def folder(tmp_path):
    made = StudyFolder(tmp_path)
    made.create()
    return made


def write(folder, rank, *parts, mode="wb"):
    """Write a rank's log; a trial (number, attempt, time) stands for its heading."""
    with folder.rank_log(rank).open(mode) as file:
        for part in parts:
            file.write(part if isinstance(part, bytes) else rank_logs.heading(part[:2], part[2]))


def texts(outputs):
    return [(output.rank, output.trial, output.text) for output in outputs]


def test_trials_come_in_the_order_of_their_starts(folder):
    folder.log.write_bytes(b"from mpiexec\xff\n")
    write(folder, 0, (0, 0, 10.0), b"a\n", (2, 1, 30.5), b"b", b"\nc\n")
    write(folder, 1, (1, 0, 20.0), b"d\n", (2, 1, 30.25), b"e\n")
    assert texts(rank_logs.read(folder)) == [
        (None, None, "from mpiexec\N{REPLACEMENT CHARACTER}\n"),
        (0, (0, 0), "a\n"), (1, (1, 0), "d\n"), (1, (2, 1), "e\n"), (0, (2, 1), "b\nc\n"),
    ]  # fmt: skip
    assert texts(rank_logs.read(folder, 2)) == [(1, (2, 1), "e\n"), (0, (2, 1), "b\nc\n")]
    assert texts(rank_logs.read(folder, 2, ranks={0})) == [(0, (2, 1), "b\nc\n")]
    assert texts(rank_logs.read(folder, 2, attempt=0)) == []
    assert texts(rank_logs.read(folder, ranks={1})) == [(1, (1, 0), "d\n"), (1, (2, 1), "e\n")]
    assert texts(rank_logs.OutputTail(folder, ranks={1}).read()) == texts(rank_logs.read(folder, ranks={1}))


def test_a_silent_trial_is_told_from_one_that_no_log_has(folder):
    write(folder, 0, (0, 0, 1.0), (1, 0, 2.0), b"x\n")
    assert texts(rank_logs.read(folder, 0)) == [(0, (0, 0), "")]
    assert texts(rank_logs.read(folder, 2)) == []


def test_what_only_looks_like_a_heading_is_output(folder):
    imitation = b"==> trial 7, attempt 0 <==\n  ==> trial 7, attempt 0, 2026-01-01T00:00:00.000000Z <==\n"
    write(folder, 0, (0, 0, 1.0), imitation)
    assert texts(rank_logs.read(folder, 0)) == [(0, (0, 0), imitation.decode())]


def test_other_files_are_left_alone(folder):
    (folder.log.parent / "rank-0.log").write_text("x")
    (folder.log.parent / "rank-00000.log.old").write_text("x")
    assert list(rank_logs.read(folder)) == []
    assert list(rank_logs.read(StudyFolder(folder.path / "none"))) == []


def test_a_tail_gives_whole_lines_once_and_all_at_the_end(folder):
    tail = rank_logs.OutputTail(folder)
    assert tail.read() == []
    write(folder, 0, (0, 0, 1.0), b"a\nb")
    assert texts(tail.read()) == [(0, (0, 0), "a\n")]
    write(folder, 0, b"c\n", (1, 0, 2.0), b"d\n", mode="ab")
    write(folder, 1, (1, 0, 2.0), b"e", mode="ab")
    folder.log.write_text("mpiexec\n")
    assert texts(tail.read()) == [(None, None, "mpiexec\n"), (0, (0, 0), "bc\n"), (0, (1, 0), "d\n")]
    assert tail.read() == []
    assert texts(tail.read(last=True)) == [(1, (1, 0), "e")]


def test_a_tail_of_one_trial_leaves_others_out(folder):
    tail = rank_logs.OutputTail(folder, 1)
    folder.log.write_text("mpiexec\n")
    write(folder, 0, (0, 0, 1.0), b"a\n", (1, 0, 2.0), b"d\n", (2, 0, 3.0), b"f\n")
    assert texts(tail.read()) == [(0, (1, 0), "d\n")]


def test_titles_tell_trial_rank_and_time():
    assert rank_logs.Output(3, (12, 1), 0.5, "").title == "==> trial 12, attempt 1, rank 3, 1970-01-01 00:00:00 UTC <=="
    assert rank_logs.Output(None, None, 0.0, "x").title == "==> ranks.log <=="
