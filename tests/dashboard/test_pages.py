"""Queries, figures and pages without a browser."""

import journals
import pandas as pd
import pytest

from atoll.dashboard import figures, queries
from atoll.dashboard.pages import studies, study
from atoll.storage.journal import JournalWriter
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store


@pytest.fixture
def store(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    journals.write_study(folder, [0.9, None, 0.95, 0.85])
    url = f"sqlite:///{tmp_path}/atoll.db"
    recorder = Recorder(folder, lambda: Store(url), journals.study_row(folder.path))
    recorder.catch_up()
    return Store(url)


def test_the_list_links_to_the_study(store):
    (row,) = studies.rows(store)
    assert row["study"] == "[s](/study/s)"
    assert (row["trials"], row["failed"], row["best"]) == (4, 1, 0.95)


def test_leaderboard_places_the_best_first_and_failures_last(store):
    row = store.study()
    board = queries.leaderboard(queries.trials(store, row), row)
    assert board["trial"].tolist() == [2, 0, 3, 1]
    assert board["place"].tolist()[:3] == [1, 2, 3]
    assert pd.isna(board["place"].tolist()[3])
    records = study.rows(board)
    assert records[3]["accuracy"] is None
    assert [c["field"] for c in study.columns(board, "accuracy")][:4] == ["place", "trial", "state", "accuracy"]


def test_best_so_far_never_gets_worse(store):
    row = store.study()
    incumbents = queries.incumbents(queries.trials(store, row), row)
    assert incumbents["objective"].tolist() == [0.9, 0.95, 0.85]
    assert incumbents["best"].tolist() == [0.9, 0.95, 0.95]
    figure = figures.best_so_far(incumbents, "accuracy", 0.97)
    assert list(figure.data[1].y) == [0.9, 0.95, 0.95]
    assert figure.layout.shapes[0].y0 == 0.97


def test_curves_of_chosen_trials(store):
    row = store.study()
    curves = queries.curves(store, queries.trials(store, row), [0, 2])
    assert sorted(set(curves["trial"])) == [0, 2]
    figure = figures.training_curves(curves, "accuracy")
    assert len(figure.data) == 6
    assert list(figure.data[2].y) == pytest.approx([0.5, 0.75, 1 - 0.5 / 3])


def test_empty_studies_draw_empty_figures(tmp_path):
    url = f"sqlite:///{tmp_path}/atoll.db"
    empty = Store(url)
    empty.add_study(journals.study_row(tmp_path))
    row = empty.study()
    trials = queries.trials(empty, row)
    assert figures.best_so_far(queries.incumbents(trials, row), row.metric, None).data[0].x is not None
    assert len(figures.training_curves(queries.curves(empty, trials, []), row.metric).data) == 0
    assert study.rows(queries.leaderboard(trials, row)) == []
    assert study.summary(row, trials) == "running: no trials yet of 4 trials"


def test_the_signature_changes_with_every_state(store):
    row = store.study()
    trials = queries.trials(store, row)
    before = study.signature(row, trials, {})
    assert before == study.signature(row, queries.trials(store, row), store.newest_steps(row))
    assert before != study.signature(row, trials.assign(state="running"), {})
    assert before != study.signature(row, trials, {7: 10})


def test_an_objective_is_not_hidden_by_a_metric_of_its_name(tmp_path):
    folder = journals.start_folder(tmp_path / "s", metric="validation_loss")
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5, metrics={"validation_loss": 9.0})
    url = f"sqlite:///{tmp_path}/atoll.db"
    Recorder(folder, lambda: Store(url), journals.study_row(folder.path, metric="validation_loss")).catch_up()
    row = Store(url).study()
    assert queries.trials(Store(url), row)["validation_loss"].tolist() == [0.5]
