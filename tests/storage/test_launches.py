"""Launches: journals of their own, what comes too late, what was lost, and durations by a monotonic clock."""

import contextlib
import json
import os
import shutil
import zlib

import journals
import pytest

from atoll.platform.launch import lifecycle
from atoll.platform.search import resume
from atoll.storage import journal, launches
from atoll.storage.events import Migrated, ProvenanceRecorded, Restarted, TrialStarted
from atoll.storage.journal import JournalError, JournalWriter, read_chunk
from atoll.storage.launches import JournalTail, next_launch, replay
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store


@pytest.fixture
def folder(tmp_path):
    return journals.start_folder(tmp_path / "s")


@pytest.fixture
def recorded(folder, tmp_path):
    """The trials in a store after another recorder has caught up: number and attempt, and state."""

    def record():
        with contextlib.closing(Store(f"sqlite:///{tmp_path}/atoll.db")) as store:
            recorder = Recorder(folder, lambda: store, journals.study_row(folder.path))
            recorder.catch_up()
            study = store.study()
            return {(trial.number, trial.attempt): (trial.state, trial.objective) for trial in store.trials(study)}

    return record


def begin(folder, *events):
    with next_launch(folder.journals) as lines:
        for event in events:
            lines.append(event)
        return lines.launch


def trial(folder, number, objective, launch=1, attempt=0, **changes):
    """A whole trial in a launch."""
    lines = JournalWriter(folder.root_journal(0, launch), launch)
    journals.start_trial(lines, number, attempt)
    journals.end_trial(lines, number, objective, attempt, **changes)
    lines.close()


def test_each_launch_has_its_own_files(folder):
    assert launches.newest(folder.journals) == 0
    assert begin(folder) == 1
    trial(folder, 0, 0.5)
    assert begin(folder) == 2
    trial(folder, 1, 0.5, launch=2)
    assert [file.path.name for file in launches.files(folder.journals)] == [
        "root-00000.jsonl", "launcher.jsonl", "launcher.2.jsonl", "root-00000.2.jsonl",
    ]  # fmt: skip
    assert launches.newest(folder.journals) == 2
    assert [event.number for event in replay(folder.journals, since=2) if isinstance(event, TrialStarted)] == [1]


def test_two_launchers_that_no_lock_keeps_apart_have_different_launches(folder, monkeypatch):
    begin(folder)
    monkeypatch.setattr(launches, "newest", lambda _: 0)  # they look at the same time
    assert begin(folder) == 2
    assert begin(folder) == 3


def test_what_ranks_write_after_a_later_launch_has_begun_never_counts(folder, recorded):
    begin(folder)
    late = JournalWriter(folder.root_journal(0))
    journals.start_trial(late, 0)
    assert recorded() == {(0, 0): ("running", None)}
    lost = journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "gone"})
    begin(folder, lost)
    trial(folder, 0, 0.5, launch=2, attempt=1)
    journals.end_trial(late, 0, 0.9)  # of the orphan, whose trial was lost
    journals.start_trial(late, 1)
    journals.end_trial(late, 1, 0.9)
    trial(folder, 1, 0.6, launch=2)  # the same number and attempt
    begin(folder)  # which closes the late rank's journal once more, where it is longer
    expected = {(0, 0): ("lost", None), (0, 1): ("complete", 0.5), (1, 0): ("complete", 0.6)}
    assert recorded() == expected
    problems = []
    past = resume.read(replay(folder.journals, problems))
    assert {key: (trial.state, trial.objective) for key, trial in past.trials.items()} == expected
    (problem,) = (each for each in problems if "stand after later ones" not in each)  # two writers took turns here
    assert "ranks of launch 1 wrote them after a later launch had begun" in problem


def test_what_was_recorded_of_a_late_rank_is_taken_back(folder, recorded, caplog):
    begin(folder)
    late = JournalWriter(folder.root_journal(0))
    journals.start_trial(late, 0)
    size = folder.root_journal(0).stat().st_size
    journals.end_trial(late, 0, 0.9)
    assert recorded() == {(0, 0): ("complete", 0.9)}
    ends = {"root-00000.jsonl": size}  # the launch began before the recorder looked
    lines = JournalWriter(folder.launcher_journal(2), 2, ends)
    lines.append(journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "gone"}))
    assert recorded() == {(0, 0): ("lost", None)}
    assert "the study is recorded anew from the journals" in caplog.text


def test_a_tail_that_a_crashed_host_lost_is_noticed_and_trained_again(folder, recorded, caplog, tmp_path):
    begin(folder, ProvenanceRecorded(version=1, sha256="a", record={}))
    path = folder.root_journal(0)
    trial(folder, 0, 0.5)
    size = path.stat().st_size
    trial(folder, 1, 0.6)
    assert recorded() == {(0, 0): ("complete", 0.5), (1, 0): ("complete", 0.6)}
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    store.annotate(store.trials(store.study())[0], "mine")
    os.truncate(path, size)
    begin(folder)
    past = resume.read(replay(folder.journals))
    assert [ticket.number for ticket in past.tickets(2, [])] == [1]
    trial(folder, 1, 0.7, launch=2)
    assert recorded() == {(0, 0): ("complete", 0.5), (1, 0): ("complete", 0.7)}
    assert "root-00000.jsonl lost lines that the store holds" in caplog.text
    assert store.trials(store.study())[0].note == "mine"
    assert len(store.provenances(store.study())) == 1
    assert not folder.quarantine.exists()
    caplog.clear()
    assert len(recorded()) == 2
    assert not caplog.text


def test_journals_that_are_away_for_a_while_have_lost_nothing(folder, recorded, caplog):
    begin(folder)
    trial(folder, 0, 0.5)
    assert recorded() == {(0, 0): ("complete", 0.5)}
    folder.journals.rename(folder.path / "away")
    with pytest.raises(FileNotFoundError, match="the journals are not there"):
        recorded()
    (folder.path / "away").rename(folder.journals)
    assert recorded() == {(0, 0): ("complete", 0.5)}
    assert not caplog.text


def test_lines_in_another_order_are_told(folder):
    begin(folder)
    path = folder.root_journal(0)
    trial(folder, 0, 0.5)
    problems = []
    replay(folder.journals, problems)
    assert problems == []
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *reversed(others)]))
    replay(folder.journals, problems)
    assert len(problems) == 1
    assert f"1 line of {path} stands after later ones" in problems[0]


def test_zeros_in_place_of_a_lost_tail_are_noticed(folder, recorded):
    begin(folder)
    path = folder.root_journal(0)
    trial(folder, 0, 0.5)
    size = path.stat().st_size
    trial(folder, 1, 0.6)
    assert len(recorded()) == 2
    whole = path.stat().st_size
    os.truncate(path, size)
    os.truncate(path, whole)
    assert recorded() == {(0, 0): ("complete", 0.5)}


def test_the_end_of_a_trial_that_its_journal_has_lost_is_taken_back(folder, recorded, caplog):
    """In the middle of what was recorded; the launcher then ends the trial as lost, and it is trained again."""
    begin(folder)
    trial(folder, 0, 0.5)
    assert recorded() == {(0, 0): ("complete", 0.5)}
    path = folder.root_journal(0)
    *before, end = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*before, bytes(len(end)), b""]))
    problems = []
    replay(folder.journals, problems)
    (problem,) = problems
    assert f"a line of {len(end)} bytes is not an event" in problem
    begin(folder, journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "gone"}))
    trial(folder, 0, 0.6, launch=2, attempt=1)
    assert recorded() == {(0, 0): ("lost", None), (0, 1): ("complete", 0.6)}
    assert "the journals lost the end of trial 0 (attempt 0)" in caplog.text


def test_a_trial_whose_start_its_journal_has_lost_is_recorded_as_it_was_trained_again(folder, recorded, caplog):
    begin(folder)
    trial(folder, 0, 0.5)
    assert recorded() == {(0, 0): ("complete", 0.5)}
    path = folder.root_journal(0)
    path.write_bytes(path.read_bytes().replace(b'"trial_started"', b'"trial_startex"'))
    begin(folder)
    trial(folder, 0, 0.6, launch=2)
    assert recorded() == {(0, 0): ("complete", 0.6)}
    assert not folder.quarantine.exists()
    assert "the journals lost the start of trial 0 (attempt 0)" in caplog.text


def test_the_next_attempt_at_a_trial_is_no_contradiction(folder, recorded, caplog):
    begin(folder)
    trial(folder, 0, None, state="lost")
    assert recorded() == {(0, 0): ("lost", None)}
    begin(folder)
    trial(folder, 0, 0.6, launch=2, attempt=1)
    assert recorded() == {(0, 0): ("lost", None), (0, 1): ("complete", 0.6)}
    assert "the journals lost" not in caplog.text


def test_a_result_that_the_next_attempt_replaces_is_continued_whichever_line_is_recorded_first(folder, recorded):
    begin(folder)
    trial(folder, 0, None, state="pruned")
    trial(folder, 1, 0.5)
    assert recorded() == {(0, 0): ("pruned", None), (1, 0): ("complete", 0.5)}
    late = JournalWriter(folder.root_journal(1), 1)
    journals.start_trial(late, 2)
    assert recorded()[2, 0] == ("running", None)
    trial(folder, 0, 0.6, attempt=1)
    trial(folder, 2, 0.7, attempt=1)
    found = recorded()
    assert {key: found[key] for key in ((0, 0), (0, 1), (1, 0))} == {
        (0, 0): ("continued", None), (0, 1): ("complete", 0.6), (1, 0): ("complete", 0.5),
    }  # fmt: skip
    journals.end_trial(late, 2, None, state="pruned")
    found = recorded()
    assert (found[2, 0], found[2, 1]) == (("continued", None), ("complete", 0.7))


def test_what_is_no_journal_is_left_alone(folder):
    begin(folder)
    trial(folder, 0, 0.5)
    for name in ("root-00000 (copy).jsonl", "launcher.02.jsonl", "root-00000.0.jsonl", "launcher.1.jsonl", "x.jsonl"):
        shutil.copy(folder.root_journal(0), folder.journals / name)
    os.mkfifo(folder.root_journal(1))
    folder.root_journal(2).mkdir()
    folder.root_journal(3).symlink_to("nowhere")
    assert [file.path.name for file in launches.files(folder.journals)] == ["root-00000.jsonl", "launcher.jsonl"]
    assert len(replay(folder.journals)) == 2
    folder.launcher_journal(999_999_999).touch()
    assert begin(folder) == 1_000_000_000
    assert launches.newest(folder.journals) == 1_000_000_000


def test_a_tail_lost_after_its_journal_was_closed_is_told(folder):
    begin(folder)
    trial(folder, 0, 0.5)
    begin(folder)
    os.truncate(folder.root_journal(0), folder.root_journal(0).stat().st_size - 7)
    problems = []
    replay(folder.journals, problems)
    (problem,) = problems
    assert problem.endswith("lost its last 7 bytes, as after a crash of its host: their trials are queued again")


def test_a_changed_digit_is_not_believed(tmp_path):
    path = tmp_path / "a.jsonl"
    JournalWriter(path).append(Migrated(number=3, from_island=0, to_island=1))
    content = path.read_bytes()
    assert content.count(b'"number":3') == 1
    path.write_bytes(content.replace(b'"number":3', b'"number":4'))
    chunk = read_chunk(path)
    assert chunk.events == []
    assert chunk.num_skipped == 1
    assert chunk.malformed == ["a line of migrated has changed since it was written: its checksum is wrong"]


def test_every_line_carries_the_checksum_of_its_other_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    JournalWriter(path).append(Restarted(reason='with "crc":"00000000"}'))
    for line in path.read_bytes().splitlines():
        body, _, checksum = line.rpartition(b',"crc":"')
        assert checksum == b'%08x"}' % zlib.crc32(body)
        assert list(json.loads(line))[-1] == "crc"
    assert [event.reason for event in read_chunk(path).events] == ['with "crc":"00000000"}']


def test_lines_without_a_checksum_are_those_of_earlier_versions(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"event":"restarted","time":1,"reason":"x"}\n')
    assert [event.reason for event in read_chunk(path).events] == ["x"]


def test_a_clock_that_is_set_back_keeps_the_order_of_launches(folder, monkeypatch):
    monkeypatch.setattr(journal.time, "time", lambda: 5000.0)
    begin(folder, journals.event("study_started", {"definition": {}, "num_trials": 2}))
    trial(folder, 0, 0.5)
    monkeypatch.setattr(journal.time, "time", lambda: 10.0)
    begin(folder, journals.event("study_started", {"definition": {}, "num_trials": 2}))
    trial(folder, 1, 0.5, launch=2)
    names = [event.name for event in replay(folder.journals)]
    assert names == ["study_started", "trial_started", "trial_ended"] * 2


def test_a_clock_that_jumps_neither_spends_nor_gives_seconds(folder, monkeypatch):
    """Two launches of 40 seconds; the clock is set forward by a day, then back by two."""
    now = {"time": 1000.0, "monotonic": 0.0}
    monkeypatch.setattr(journal.time, "time", lambda: now["time"])
    monkeypatch.setattr(journal.time, "monotonic", lambda: now["monotonic"])
    for launch, jump in ((1, 86400.0), (2, -172800.0)):
        begin(folder, journals.event("study_started", {"definition": {}, "num_trials": 2}))
        lines = JournalWriter(folder.root_journal(0, launch), launch)
        journals.start_trial(lines, launch)
        now["time"] += jump
        now["monotonic"] += 40.0
        journals.report(lines, launch, 1)
    past = resume.read(replay(folder.journals))
    assert past.seconds == 80.0
    assert [trial.worker_seconds for trial in past.trials.values()] == [40.0, 40.0]


def test_restarts_do_not_count_the_time_in_between(folder, monkeypatch):
    now = {"monotonic": 0.0}
    monkeypatch.setattr(journal.time, "monotonic", lambda: now["monotonic"])
    begin(folder, journals.event("study_started", {"definition": {}, "num_trials": 2}))
    for launch in (1, 2):
        lines = JournalWriter(folder.root_journal(0, launch), launch)
        now["monotonic"] += 40.0
        journals.start_trial(lines, launch)
        begin(folder, Restarted(reason="died"))
        now["monotonic"] += 1000.0
    assert resume.read(replay(folder.journals)).seconds == 80.0


def test_lines_of_a_later_launch_wait_for_those_of_earlier_ones(folder, monkeypatch):
    """Also if the earlier ones take several reads."""
    monkeypatch.setattr(launches, "MAX_BYTES", 1)
    begin(folder)
    for number in range(300):
        trial(folder, number, 0.5)
    begin(folder, journals.event("trial_lost", {"number": 299, "attempt": 0, "reason": "x"}))
    trial(folder, 300, 0.5, launch=2)
    tail, seen = JournalTail(folder.journals), []
    while chunks := tail.read():
        seen += [(name, event.name) for name, chunk in chunks.items() for event in chunk.events]
        tail.advance(chunks)
    assert [name for name, _ in seen] == ["root-00000.jsonl"] * 600 + ["launcher.2.jsonl"] + ["root-00000.2.jsonl"] * 2


def test_a_launcher_that_died_before_its_first_line_holds_nobody_up(folder):
    begin(folder)
    trial(folder, 0, 0.5)
    folder.launcher_journal(2).touch()
    assert len(replay(folder.journals)) == 2
    assert begin(folder) == 3
    trial(folder, 1, 0.5, launch=3)
    assert len(JournalTail(folder.journals).read()) == 1
    assert len(replay(folder.journals)) == 4


def test_a_launch_that_cannot_be_written_has_not_begun_and_leaves_no_file_open(folder, monkeypatch):
    begin(folder)
    open_files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "write", lambda file, data: 0)
    with pytest.raises(JournalError, match="free some disk space"), next_launch(folder.journals):
        pass
    assert launches.newest(folder.journals) == 1
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_study_on_a_full_disk_is_not_ended_but_can_be_recorded(tmp_path, monkeypatch, caplog):
    definition = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 2}
    folder = journals.start_folder(tmp_path / "s", definition=definition)
    begin(folder, journals.event("study_started", {"definition": {}, "num_trials": 2}))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: 0)
        assert lifecycle.end_interrupted(folder) is None
    assert "the end of this study cannot be written: the journal" in caplog.text


def test_a_line_that_is_torn_when_its_journal_is_closed_keeps_no_later_launch_from_being_read(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    with next_launch(folder.journals):
        pass
    root = JournalWriter(folder.root_journal(0))
    journals.start_trial(root, 0)
    root.close()
    with folder.root_journal(0).open("ab") as file:
        file.write(b'{"event":"trial_end')
    with next_launch(folder.journals) as lines:
        journals.start_trial(lines, 1)
    tail, numbers = JournalTail(folder.journals), []
    while chunks := tail.read():
        tail.advance(chunks)
        numbers += [event.number for chunk in chunks.values() for event in chunk.events]
    assert numbers == [0, 1]


def test_sizes_up_to_the_last_whole_line(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    for name, content in (("root-00000.jsonl", b"a\nb"), ("root-00001.jsonl", b"c"), ("root-00002.jsonl", b"d\n")):
        (folder.journals / name).write_bytes(content + (b"x" * 200_000 if name == "root-00000.jsonl" else b""))
    assert launches.whole_sizes(folder.journals) == {
        "root-00000.jsonl": 2, "root-00001.jsonl": 0, "root-00002.jsonl": 2,
    }  # fmt: skip
