"""The leaderboard: a grid's requests, and the pages of rows that answer them."""

import boards
import pytest

from atoll.dashboard import table
from atoll.dashboard.context import Context
from atoll.storage.browse import Condition, Selection
from atoll.storage.store import StoreError


def request(start=0, end=100, filters=None, sort=None):
    return {"startRow": start, "endRow": end, "filterModel": filters or {}, "sortModel": sort or []}


@pytest.fixture
def context(tmp_path):
    return Context(boards.study(tmp_path, [0.5, None, 0.9, 0.7, 0.1, 0.8]))


def numbers(context, brushed=None, **asked):
    found = table.page(context, context.store.study("s"), request(**asked), brushed)
    return [row["number"] for row in found["rowData"]], found["rowCount"]


def test_places_first_and_pages(context):
    assert numbers(context) == ([2, 5, 3, 0, 4, 1], 6)
    assert numbers(context, start=2, end=4) == ([3, 0], 6)
    assert numbers(context, start=6, end=9) == ([], 6)
    assert numbers(context, sort=[{"colId": "place", "sort": "desc"}]) == ([4, 0, 3, 5, 2, 1], 6)


def unreadable(name):
    raise StoreError(f"{name} cannot be read")


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_come_first_whether_the_board_is_read_or_not(tmp_path, direction, monkeypatch):
    objectives = [0.5, None, 0.9, 0.7, 0.5, 0.8]
    context = Context(boards.study(tmp_path, objectives, direction=direction))
    study, board = context.store.study("s"), context.board("s")
    whole = table.page(context, study, request(end=6), None)["rowData"]  # five are complete: by the board
    monkeypatch.setattr(context.boards, "of", unreadable)
    first = table.page(context, study, request(end=4), None)
    assert board.trials["place"].notna().sum() == 5
    assert first == {"rowData": whole[:4], "rowCount": 6}


def test_pages_of_a_board_that_cannot_be_read_say_so(context, monkeypatch):
    monkeypatch.setattr(context.boards, "of", unreadable)  # a callback that only ended would leave the table waiting
    with pytest.raises(StoreError, match="s cannot be read"):
        numbers(context, start=2, end=4)


def test_filters_and_sorting(context):
    below = {"hp.B": {"filterType": "number", "type": "lessThan", "filter": 4}}
    assert numbers(context, filters=below) == ([2, 0, 1], 3)
    assert numbers(context, filters=below, sort=[{"colId": "hp.B", "sort": "desc"}]) == ([2, 1, 0], 3)
    failed = {"state": {"filterType": "text", "type": "equals", "filter": "failed"}}
    assert numbers(context, filters=failed) == ([1], 1)
    assert numbers(context, filters=below | failed) == ([1], 1)


def test_brushes_join_the_filters(context):
    assert numbers(context, brushed={"hp.B": {"ranges": [[1, 1.5], [5.5, 9]]}}) == ([5, 0], 2)
    assert numbers(context, brushed={"objective": {"ranges": [[0.6, 1.0]]}}) == ([2, 5, 3], 3)


def test_filter_models_become_conditions():
    ranged = {"filterType": "number", "type": "inRange", "filter": 1, "filterTo": 3}
    small = {"filterType": "number", "type": "lessThan", "filter": 0}
    both = {"operator": "OR", "conditions": [ranged, small]}
    between, other = Condition("hp.B", "between", [1, 3]), Condition("hp.B", "<", 0)
    assert table.selection({"hp.B": ranged}, []).conditions == ((between,),)
    assert table.selection({"hp.B": both}, []).conditions == ((between, other),)
    assert table.selection({"hp.B": both | {"operator": "AND"}}, []).conditions == ((between,), (other,))
    blank = {"reason": {"filterType": "text", "type": "blank"}}
    assert table.selection(blank, [{"colId": "place", "sort": "asc"}]) == Selection(
        ((Condition("reason", "is null", True),),)
    )


def test_brushed_words_and_what_is_missing():
    assert table.brushed_conditions({"hp.wire": {"words": ["float32", None]}}) == [
        (Condition("hp.wire", "in", ["float32"]), Condition("hp.wire", "is null", True))
    ]


def test_a_row_links_to_its_trial(context):
    row = table.page(context, context.store.study("s"), request(end=1), None)["rowData"][0]
    assert row["href"] == "/trial?study=s&number=2&attempt=0"
    assert (row["place"], row["objective"], row["hp.B"]) == (1, 0.9, 3)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.123456789, "0.123457"), (True, "true"), (None, "null"), ([1, 2], "[1, 2]"), ("a", "a"), (3, "3")],
)
def test_values_in_words(value, words):
    assert table.shown(value) == words


def test_columns_show_the_picked_hyperparameters(context):
    fields = [c["field"] for c in table.columns(context.store.study("s"), ["B"], {"B": True})]
    assert fields[:5] == ["place", "number", "state", "objective", "hp.B"]
    assert "hp.learning_rate" not in fields


def test_an_objectives_column_has_its_unit(context):
    study = context.store.study("s")
    study.objectives = [{"name": name, "direction": "minimize"} for name in ("peak_memory", "trainable_share")]
    titles = {c["field"]: c["headerName"] for c in table.columns(study, [], {})}
    assert titles["objectives.peak_memory"] == "peak_memory (B)"
    assert titles["objectives.trainable_share"] == "trainable_share"


def test_columns_are_sorted_as_the_address_says(context):
    study = context.store.study("s")
    order = [{"colId": "seconds", "sort": "desc"}]
    given = {c["field"]: c["initialSort"] for c in table.columns(study, ["B"], {}, order) if c["initialSort"]}
    assert given == {"seconds": "desc"}
    usual = {c["field"]: c["initialSort"] for c in table.columns(study, ["B"], {}) if c["initialSort"]}
    assert usual == {"place": "asc"}


@pytest.mark.parametrize(
    ("model", "brushed"),
    [
        ({"foo": {"type": "equals", "filter": 1}}, {}),
        ({"state": 5}, {}),
        ({"hp.B": {"type": "inRange", "filter": 1}}, {}),
        ({"hp.B": {"type": "like", "filter": 1}}, {}),
        ({}, {"hp.B": 5}),
        ({}, {"hp.B": {"ranges": []}}),
        ({}, {"nothing": {"ranges": [[1, 2]]}}),
    ],
    ids=[
        "filter of no column",
        "filter without a type",
        "half a range",
        "unknown operator",
        "brush without limits",
        "brush of no range",
        "brush of no column",
    ],
)
def test_filters_of_a_broken_address_are_dropped(model, brushed):
    assert table.checked(model, brushed) == ({}, {})


def test_good_filters_of_an_address_are_kept():
    model, brushed = {"hp.B": {"type": "lessThan", "filter": 4}}, {"hp.B": {"ranges": [[1, 2]]}}
    assert table.checked(model, brushed) == (model, brushed)
