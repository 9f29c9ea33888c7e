"""The page of all studies."""

import boards
import journals
import pytest

from atoll.dashboard.context import Context
from atoll.dashboard.pages import studies, study
from atoll.storage.events import StudyEnded
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Lock


def test_time_left(tmp_path):
    store, _, recorder = boards.record(tmp_path, num_trials=10)
    recorder.catch_up()
    row = store.study()
    assert studies.time_left(row, 0, row.started + 50) == "unknown"
    assert studies.time_left(row, 5, row.started + 50) == "≈ 50 s"
    row.definition = {"seconds": 100.0}
    assert studies.time_left(row, 5, row.started + 50) == "≤ 50 s"
    row.state = "complete"
    assert studies.time_left(row, 5, row.started + 50) == ""


def test_archived_studies_are_listed_on_demand(tmp_path):
    context = Context(boards.study(tmp_path, [0.5]))
    context.store.archive(context.store.study(), True)
    summaries = context.store.studies()
    assert studies.rows(context, summaries, [], archived=False) == []
    assert studies.rows(context, summaries, [], archived=True)[0]["state"].endswith("archived")
    assert studies.summary(summaries, False).endswith("1 archived")


def ended(tmp_path, state, reason=None):
    store, _, recorder = boards.record(tmp_path)
    folder = StudyFolder(store.study().folder)
    JournalWriter(folder.launcher_journal()).append(StudyEnded(state=state, reason=reason))
    recorder.catch_up()
    return Context(store)


@pytest.mark.parametrize(
    ("state", "style"), [("complete", "color='green'"), ("failed", "color='red.9', variant='filled'")]
)
def test_a_failed_study_has_a_red_badge_with_the_word(tmp_path, state, style):
    context = ended(tmp_path, state, "all 3 trials failed")
    (row,) = studies.rows(context, context.studies(), [], archived=False)
    assert row["state"] == state
    (state_column,) = [one for one in studies.COLUMNS if one["field"] == "state"]
    assert state_column["cellRenderer"] == "AtollState"
    shown = str(study.summary(context.boards.of("s"), 1.0))
    assert f"Badge(children='{state}', {style}" in shown
    assert "all 3 trials failed" in shown


def test_a_study_whose_launcher_died_is_interrupted_and_not_running(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    recorder.catch_up()
    context, folder = Context(store), StudyFolder(store.study().folder)
    lock = Lock(folder.lock)
    lock.acquire()
    (row,) = studies.rows(context, context.studies(), [], archived=False)
    assert (row["state"], row["running"], row["left"]) == ("running", 1, "unknown")
    lock.release()
    summaries = context.studies()
    (row,) = studies.rows(context, summaries, [], archived=False)
    assert (row["state"], row["running"], row["left"]) == ("interrupted", 0, "")
    assert "0 running" in studies.summary(summaries, False)
    shown = str(study.summary(context.boards.of("s"), 1.0))
    assert "Badge(children='interrupted', color='orange'" in shown
    assert "`atoll stop s` ends it" in shown


def test_a_lock_that_may_not_be_read_tells_nothing(tmp_path, monkeypatch):
    store, _, _ = boards.record(tmp_path)

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(Lock, "holder", refused)
    assert Context(store).studies()[0].study.state == "running"
