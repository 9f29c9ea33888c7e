"""Pages without a browser: what they are made of for stores as odd as they come."""

import math
import time

import boards
import journals
import pytest

from atoll.dashboard import app, components, tabs
from atoll.dashboard.context import Background, Context
from atoll.dashboard.pages import compare, export, islands, projection, studies, study, trial
from atoll.storage import browse
from atoll.storage.export import as_yaml
from atoll.storage.store import Store, StoreError
from atoll.storage.yamlfile import FileError

OPTIONS = {"against": "trials", "method": "PED-ANOVA", "x": "B", "y": "learning_rate", "shown": ["B"], "brush": {}}


def empty(path):
    return Store(f"sqlite:///{path}/atoll.db")


STORES = {
    "no trials": lambda path: boards.record(path)[0],
    "one trial": lambda path: boards.study(path, [0.5]),
    "all failed": lambda path: boards.study(path, [None, None, None]),
    "two alike": lambda path: boards.study(path, [0.5, 0.5]),
    "nasty name": lambda path: boards.study(path, [0.5, 0.7, None], name=boards.NASTY),
}


@pytest.fixture(params=STORES)
def context(request, tmp_path):
    return Context(STORES[request.param](tmp_path), allow_edit=True)


def test_every_page_has_a_layout(context):
    board = context.boards.of(context.store.study().name)
    study.layout(context, board.study, {})
    islands.layout(context, board, None)
    compare.layout(context, None, [board.study.name], None)
    projection.layout(context, board.study.name, {})
    export.layout(context, board.study.name, 1, False)
    if len(board.trials):
        row = browse.trial(context.store, board.study.id, 0)
        trial.layout(context, board.study, row)
        trial.draw(context, board.study, row)
        trial.facts(context, board.study, row)
    (only,) = studies.rows(context, context.store.studies(), [], archived=False)
    assert only["study"] == board.study.name


@pytest.mark.parametrize("tab", tabs.TABS)
def test_every_figure_can_be_drawn(context, tab):
    board = context.boards.of(context.store.study().name)
    deadline = time.monotonic() + 30
    while tabs.draw(context, board, tab, OPTIONS) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_islands_and_comparisons_can_be_drawn(context):
    board = context.boards.of(context.store.study().name)
    assert len(islands.draw(context, board)) == 3
    for kind in compare.TUNED:
        assert compare.of_studies(context, [board.study.name], kind)[2] == kind


def test_an_empty_store_says_what_to_do(tmp_path):
    context = Context(empty(tmp_path))
    assert "atoll quickstart" in studies.summary(context.store.studies(), False)
    compare.layout(context, None, [], None)
    export.layout(context, None, 1, False)
    with pytest.raises(StoreError, match="does not hold a study"):
        export.content(context, context.store.study(), 1)


def test_addresses_that_somebody_broke_still_open(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7]))
    board = context.boards.of("s")
    broken = {"tab": "<b>", "brush": "{", "filter": "[1]", "sort": "3", "trials": "x", "shown": '{"a": 1}', "x": "no"}
    study.layout(context, board.study, broken)
    assert components.parsed("{", []) == []
    assert components.parsed("3", []) == []
    for number, attempt in (("x", None), ("99", None), ("0", "7"), ("-1", None), ("9" * 30, None)):
        with pytest.raises(StoreError):
            trial.read(context, board.study, number, attempt)


def test_figures_of_a_board_that_is_known_need_not_wait_for_it(tmp_path):
    context = Context(boards.study(tmp_path, [0.5]))

    def revisions():
        page = study.layout(context, context.store.study(), {})
        return page["study-revision"].data, page["study-reloaded"].data

    assert revisions() == (None, None)
    board = context.boards.of("s")
    assert revisions() == (board.revision, board.revision)


def test_numbers_that_are_missing(tmp_path):
    """A metric that was not a number is null in the store."""
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    journals.report(lines, 0, 1, metric=math.nan, train_loss=math.inf, validation_loss=None)
    journals.end_trial(lines, 0, None, state="complete", metrics={"validation_loss": math.nan}, seconds=None)
    recorder.catch_up()
    context = Context(store)
    board = context.boards.of("s")
    for tab in tabs.TABS:
        tabs.draw(context, board, tab, OPTIONS)
    tabs.curves(context, board, [[0, 0]])
    row = browse.trial(store, board.study.id, 0)
    trial.draw(context, board.study, row)
    assert "–" in str(trial.facts(context, board.study, row))


def test_a_trial_says_how_to_train_it_again(tmp_path):
    store = boards.study(tmp_path, [0.5], name=boards.NASTY)
    row = browse.trial(store, store.study().id, 0)
    words = trial.command(Context(store), store.study(), row)
    assert words.startswith("atoll export '<script>")
    assert "/" not in trial.filename(store.study(), row)
    assert as_yaml(store.study(), [row], alone=True).startswith("workload: digits_mlp")


def test_commands_name_a_store_that_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boards.study(tmp_path, [0.5])
    assert Context(Store()).store_option == ""
    assert Context(Store("sqlite:///./a b.db")).store_option == " --store 'sqlite:///./a b.db'"


def test_what_is_shown_of_a_trial_beside_others(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7, 0.6]))
    row = browse.trial(context.store, 1, 2)
    shown = str(trial.hyperparameters(context, context.store.study(), row))
    assert "incumbent (trial 1)" in shown
    assert "'default'" in shown
    assert "interval mutation" in shown


def test_exports_are_those_of_the_command(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7, None]))
    row = context.store.study()
    first, both = (context.boards.of("s").best(number) for number in (1, 2))
    assert "objective: 0.7" in export.content(context, row, first, alone=True)
    assert export.content(context, row, both, alone=False).startswith("configurations:")
    assert export.command(context, row, 2) == f"atoll export s --best 2 -o best.yaml --store {context.store}"
    assert export.shortened(200, "do") is None
    assert "The first 200 of 1,234; do." in str(export.shortened(1234, "do"))
    for best in (0, 101, None, "x", 1.5):
        with pytest.raises(StoreError, match="choose 1 to 100"):
            export._number(best)


def test_a_cluster_that_somebody_edited_is_checked(tmp_path):
    assert projection.read(projection.text_of("laptop")).name == "laptop"
    for text, words in (
        ("- 1", "must hold keys"),
        (":\n -", "not valid YAML"),
        ("name: x", "required"),
        ("", "must hold"),
    ):
        with pytest.raises(FileError, match=words):
            projection.read(text)
    context = Context(boards.study(tmp_path, [0.5]))
    with pytest.raises(StoreError, match="holds nothing to project"):
        predicted(context)


def predicted(context):
    while (found := projection.predict(context, "s", projection.text_of("laptop"), "1,2", "weak")) is None:
        time.sleep(0.01)
    return found


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


def test_work_in_the_background_is_done_once():
    background, calls = Background(), []

    def work():
        calls.append(1)
        return "found"

    assert background.get("key", work, patience=10) == "found"
    assert background.get("key", work) == "found"
    assert len(calls) == 1


def test_work_that_failed_is_tried_again():
    background, calls = Background(), []

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise StoreError("no")
        return "found"

    with pytest.raises(StoreError, match="no"):
        background.get("key", fail_once, patience=10)
    assert background.get("key", fail_once, patience=10) == "found"


def test_nothing_can_be_written_unless_it_is_allowed(tmp_path):
    store = boards.study(tmp_path, [0.5])

    def callbacks(**options):
        return set(app.create_app(store, **options).callback_map) | {
            str(one["output"]) for one in app.create_app(store, **options)._callback_list
        }

    writing = callbacks(allow_edit=True) - callbacks()
    assert any("study-edited" in one for one in writing)
    assert any("trial-noted" in one for one in writing)
    board = Context(store).boards.of("s")
    assert "study-new-name" not in str(study.layout(Context(store), board.study, {}).to_plotly_json())


def test_links_lie_under_the_prefix_and_quote_names(tmp_path):
    context = Context(empty(tmp_path), base_path="/p/")
    assert context.link("study", name="a b&c=d/é") == "/p/study?name=a+b%26c%3Dd%2F%C3%A9"
    assert context.link("trial", study="s", attempt=None) == "/p/trial?study=s"
    assert context.link() == "/p/"


def test_attempts_are_told_apart(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 3)
    journals.report(lines, 3, 1)
    lines.append(journals.event("trial_lost", {"number": 3, "attempt": 0, "reason": "gone"}))
    journals.start_trial(lines, 3, attempt=1)
    journals.report(lines, 3, 1, attempt=1)
    journals.report(lines, 3, 2, attempt=1)
    journals.end_trial(lines, 3, 0.5, attempt=1)
    recorder.catch_up()
    context = Context(store)
    board = context.boards.of("s")
    assert trial.read(context, board.study, "3", "0").state == "lost"
    assert "--attempt 1" in trial.command(context, board.study, trial.read(context, board.study, "3", None))
    lengths = {attempt: len(tabs.curves(context, board, [[3, attempt]]).data[0].x) for attempt in (0, 1)}
    assert lengths == {0: 1, 1: 2}
    assert export._trial(context, board.study, "3").attempt == 1
    assert export._trial(context, board.study, "3.0").attempt == 0


def test_hosts_are_those_that_the_trial_had(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    for name, number in (("alpha", 0), ("beta", 2)):
        host = {"world_rank": 0, "island": 0, "worker": 0, "rank": 0, "node": 0, "hostname": name, "process": 1}
        lines.append(journals.event("host", host | {"device": "cpu", "threads": 1}))
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, 0.5)
    recorder.catch_up()
    context = Context(store)
    shown = [str(trial.facts(context, store.study(), browse.trial(store, 1, number))) for number in (0, 2)]
    assert "alpha" in shown[0]
    assert "beta" not in shown[0]
    assert "beta" in shown[1]
