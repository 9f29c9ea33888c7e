"""The page of all studies."""

import boards

from atoll.dashboard.context import Context
from atoll.dashboard.pages import studies


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
