"""Journals: whole lines, torn lines, foreign lines, offsets."""

import json
import math

import pytest

from atoll.storage import events
from atoll.storage.events import Migrated, Proposed, Restarted
from atoll.storage.journal import JournalError, JournalVersionError, JournalWriter, read_chunk
from atoll.storage.launches import JournalTail, replay


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    writer = JournalWriter(tmp_path / "a.jsonl")
    writer.append(Restarted(reason="r"))
    chunk = read_chunk(tmp_path / "a.jsonl")
    assert [event.name for event in chunk.events] == ["restarted"]
    assert chunk.offset == (tmp_path / "a.jsonl").stat().st_size


def test_a_torn_last_line_waits_and_a_later_writer_ends_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"event":"restarted","time":1,"reason":"x"}\n{"event":"to')
    chunk = read_chunk(path)
    assert len(chunk.events) == 1
    assert chunk.offset == 44
    JournalWriter(path).append(Restarted(reason="y"))
    chunk = read_chunk(path, chunk.offset)
    assert [event.reason for event in chunk.events] == ["y"]
    assert chunk.num_skipped == 1


def test_foreign_lines_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\nhello\n[1]\n{"no":"event"}\n\xff\xfe\n{"event":"restarted","time":1,"reason":"x"}\n')
    chunk = read_chunk(path)
    assert len(chunk.events) == 1
    assert chunk.num_skipped == 5


def test_a_line_longer_than_a_chunk_is_read_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    JournalWriter(path).append(Restarted(reason="y" * 10_000))
    first = read_chunk(path, max_bytes=100)
    chunk = read_chunk(path, first.offset, max_bytes=100)
    assert len(chunk.events[0].reason) == 10_000


def test_no_line_twice_in_chunks_of_any_size(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = JournalWriter(path)
    for number in range(50):
        writer.append(Migrated(number=number, from_island=0, to_island=1))
    seen, offset = [], 0
    while (chunk := read_chunk(path, offset, max_bytes=97)).offset > offset:
        seen += [event.number for event in chunk.events]
        offset = chunk.offset
    assert seen == list(range(50))


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    odd = {"all": [math.inf, 1.0], "deep": {"x": -math.inf}}
    JournalWriter(tmp_path / "a.jsonl").append(Proposed(number=0, hyperparameters={"loss": math.nan}, proposal=odd))
    line = (tmp_path / "a.jsonl").read_text().splitlines()[-1]
    read = json.loads(line, parse_constant=lambda name: 1 / 0)
    assert read["hyperparameters"] == {"loss": None}
    assert read["proposal"] == {"all": [None, 1.0], "deep": {"x": None}}


def test_a_tail_reads_new_lines_only(tmp_path):
    writer = JournalWriter(tmp_path / "root-00000.jsonl")
    writer.append(Restarted(reason="x"))
    tail = JournalTail(tmp_path)
    chunks = tail.read()
    assert tail.read().keys() == chunks.keys()  # nothing is passed over before it is recorded
    tail.advance(chunks)
    assert tail.read() == {}
    writer.append(Restarted(reason="y"))
    assert [event.reason for chunk in tail.read().values() for event in chunk.events] == ["y"]


def test_replay_orders_by_time(tmp_path):
    (tmp_path / "root-00001.jsonl").write_text('{"event":"restarted","time":1,"reason":"first"}\n')
    (tmp_path / "root-00000.jsonl").write_text('{"event":"restarted","time":2,"reason":"second"}\n')
    assert [event.reason for event in replay(tmp_path)] == ["first", "second"]


def test_the_first_line_names_the_version_and_there_is_one(tmp_path):
    for _ in range(2):
        JournalWriter(tmp_path / "a.jsonl").close()
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(line)["event"] == "journal"
    assert json.loads(line)["version"] == events.VERSION


def test_a_resumed_journal_of_an_earlier_version_declares_where_this_one_begins(tmp_path):
    path = tmp_path / "root-00000.jsonl"
    path.write_text('{"event":"restarted","time":1,"reason":"x"}\n')
    JournalWriter(path).append(Restarted(reason="y"))
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
        "restarted",
        "journal",
        "restarted",
    ]
    assert [event.reason for event in replay(tmp_path)] == ["x", "y"]


def test_a_journal_of_a_later_version_is_not_read(tmp_path):
    (tmp_path / "root-00000.jsonl").write_text(json.dumps({"event": "journal", "version": events.VERSION + 1}) + "\n")
    with pytest.raises(
        JournalVersionError, match=f"has version {events.VERSION + 1}; this version of atoll reads versions 1 to"
    ):
        replay(tmp_path)


def test_a_journal_on_a_full_disk_says_so(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    with pytest.raises(JournalError, match=r"the journal .*a.jsonl cannot be written \(No space left on device\)"):
        JournalWriter(tmp_path / "a.jsonl").append(Restarted(reason="x"))
