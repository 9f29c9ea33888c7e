"""The report of one study: whole, escaped, and without anything from elsewhere."""

import re

import boards
import journals
import pytest

from atoll.dashboard import study_report
from atoll.dashboard.board import Board
from atoll.dashboard.pages import study as study_page

CHANGED = {
    "number": 1, "requested": 1.0, "first_trial": 1, "definition": {"name": "s"}, "num_trials": 4,
    "settings": [{"setting": "space.x", "before": None, "after": None, "said": "x: 0 to 1 → 0 to 0.5"}],
    "outside": {"x outside 0 to 0.5": 1},
}  # fmt: skip


def page(store):
    return study_report.html(store, store.study())


def without_plotly(text):
    """The page without plotly.js, whose program names many addresses."""
    return re.sub(r"<script>.*?</script>", "", text, count=1, flags=re.DOTALL)


def test_every_kind_of_study_has_a_report(context):
    text = page(context.store)
    assert "<h2>Summary</h2>" in text
    assert text.count("<h1>") == 1


def test_it_shows_the_best_trials_failures_and_commands(tmp_path):
    text = page(boards.study(tmp_path, [0.5, None, 0.7, 0.6]))
    assert "Best accuracy: 0.7 in trial 2, which misses the target 0.97." in text
    assert "atoll trial s 2" in text
    assert "Diverged: &lt;b&gt;loss&lt;/b&gt; is not finite" in text
    for title in ("Best so far", "Importance", "Parallel coordinates", "Curves of the best trials", "Islands"):
        assert f"<h2>{title}</h2>" in text
    assert "Pareto front" not in without_plotly(text)


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    text = without_plotly(page(boards.study(tmp_path, [0.5, None, 0.7])))
    assert not re.findall(r"""(?:src|href)\s*=\s*["']""", text)
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)


def test_names_are_text(tmp_path):
    text = page(boards.study(tmp_path, [0.5, 0.7], name=boards.NASTY))
    assert "<script>alert" not in text


def test_what_an_attempt_continues_counts_once(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    for attempt, seconds in enumerate((40.0, 100.0)):  # the second has the time of the first, too
        journals.start_trial(lines, 0, attempt=attempt)
        journals.end_trial(lines, 0, 0.5, attempt=attempt, seconds=seconds, wire_bytes=seconds)
    recorder.catch_up()
    study = store.study()
    board = Board(store, study).refresh(study)
    assert board.trials["state"].tolist() == ["continued", "complete"]
    rows = dict(study_report.summary(study, board).rows)
    assert rows["seconds in trials"] == "100"


def test_several_objectives_have_a_front(tmp_path):
    objectives = [{"name": "validation_error", "direction": "minimize"}, {"name": "seconds", "direction": "minimize"}]
    store, lines, recorder = boards.record(tmp_path, metric="validation_error", objectives=objectives)
    for number, values in enumerate([(0.5, 1.0), (0.1, 5.0), (0.6, 6.0)]):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, values[0], objectives=list(values))
    recorder.catch_up()
    text = page(store)
    assert "The Pareto front has 2 trials." in text
    assert "<h2>Pareto front</h2>" in text
    assert text.count("(front)") == 2


@pytest.mark.browser
def test_it_is_drawn_in_a_browser(tmp_path, chromium):
    """With the network away, every figure is drawn, and no program fails."""
    file = tmp_path / "report.html"
    file.write_text(page(boards.study(tmp_path, [0.5, None, 0.7, 0.6])))
    tab = chromium.new_context(offline=True).new_page()
    failures, requests = [], []
    tab.on("pageerror", lambda error: failures.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
    assert tab.locator(".js-plotly-plot").count() == len(study_report.TITLES) - 1  # but the Pareto front
    assert (failures, requests) == ([], [file.as_uri()])
    tab.context.close()


def test_it_shows_what_was_changed_and_which_results_are_outside(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5)
    lines.append(journals.event("study_changed", CHANGED))
    recorder.catch_up()
    text = page(store)
    assert "Changes of the study" in text
    assert "x: 0 to 1 → 0 to 0.5" in text
    assert "1 (1 x outside 0 to 0.5)" in text
    shown = str(study_page.summary(Board(store, store.study()), 1.0, store.changes(store.study())))
    assert "From trial 1 on: x: 0 to 1 → 0 to 0.5 · 1 earlier results outside" in shown


def test_a_store_of_before_changes_has_none(tmp_path):
    store, _, recorder = boards.record(tmp_path)
    recorder.catch_up()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE change")
    assert store.changes(store.study()) == []
    assert "Changes of the study" not in page(store)
