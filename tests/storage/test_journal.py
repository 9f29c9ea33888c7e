"""Journals: whole lines, torn lines, foreign lines, offsets."""

import json
import math

import pytest

from atoll.storage.journal import JournalError, JournalTail, JournalWriter, read_chunk, replay


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    writer = JournalWriter(tmp_path / "a.jsonl")
    writer.append("progress", {"step": 1})
    chunk = read_chunk(tmp_path / "a.jsonl")
    assert [event["event"] for event in chunk.events] == ["progress"]
    assert chunk.offset == (tmp_path / "a.jsonl").stat().st_size


def test_a_torn_last_line_waits_and_a_later_writer_ends_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"event":"x"}\n{"event":"to')
    chunk = read_chunk(path)
    assert len(chunk.events) == 1
    assert chunk.offset == 14
    JournalWriter(path).append("y")
    chunk = read_chunk(path, chunk.offset)
    assert [event["event"] for event in chunk.events] == ["y"]
    assert chunk.num_skipped == 1


def test_foreign_lines_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\nhello\n[1]\n{"no":"event"}\n\xff\xfe\n{"event":"x"}\n')
    chunk = read_chunk(path)
    assert len(chunk.events) == 1
    assert chunk.num_skipped == 5


def test_a_line_longer_than_a_chunk_is_read_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    JournalWriter(path).append("x", {"text": "y" * 10_000})
    chunk = read_chunk(path, max_bytes=100)
    assert len(chunk.events[0]["text"]) == 10_000


def test_no_line_twice_in_chunks_of_any_size(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = JournalWriter(path)
    for number in range(50):
        writer.append("x", {"number": number})
    seen, offset = [], 0
    while (chunk := read_chunk(path, offset, max_bytes=97)).offset > offset:
        seen += [event["number"] for event in chunk.events]
        offset = chunk.offset
    assert seen == list(range(50))


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    JournalWriter(tmp_path / "a.jsonl").append(
        "x", {"loss": math.nan, "all": [math.inf, 1.0], "deep": {"x": -math.inf}}
    )
    line = (tmp_path / "a.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: 1 / 0)["all"] == [None, 1.0]


def test_a_tail_reads_new_lines_only(tmp_path):
    writer = JournalWriter(tmp_path / "a.jsonl")
    writer.append("x")
    tail = JournalTail(tmp_path)
    chunks = tail.read()
    assert tail.read().keys() == chunks.keys()  # nothing is passed over before it is recorded
    tail.advance(chunks)
    assert tail.read() == {}
    writer.append("y")
    assert [event["event"] for chunk in tail.read().values() for event in chunk.events] == ["y"]


def test_replay_orders_by_time(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"event":"first","time":1}\n')
    (tmp_path / "a.jsonl").write_text('{"event":"second","time":2}\n')
    assert [event["event"] for event in replay(tmp_path)] == ["first", "second"]


def test_a_journal_on_a_full_disk_says_so(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    with pytest.raises(JournalError, match=r"the journal .*a.jsonl cannot be written \(No space left on device\)"):
        JournalWriter(tmp_path / "a.jsonl").append("x")
