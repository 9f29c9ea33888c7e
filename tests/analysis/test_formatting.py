"""Numbers, durations and sizes in words."""

import math

import pytest

from atoll.analysis import formatting


@pytest.mark.parametrize(
    ("value", "shown"),
    [(5.25, "5.2 s"), (59.9, "60 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (None, "-"), (math.inf, "-")],
)
def test_durations(value, shown):
    assert formatting.duration(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(12, "12 B"), (2400, "2.4 kB"), (16.4e6, "16.4 MB"), (None, "-")])
def test_sizes(value, shown):
    assert formatting.size(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.123456, "0.1235"), (3, "3"), ("a", "a"), (None, "-")])
def test_numbers(value, shown):
    assert formatting.number(value) == shown


def test_counts_have_their_noun_in_the_right_number():
    assert [formatting.counted(n, "worker") for n in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
    assert [formatting.counted(n, "study", "studies") for n in (1, 3)] == ["1 study", "3 studies"]
    assert [formatting.of_budget(1, n) for n in (1, 12, None)] == ["1/1 trial", "1/12 trials", "1/- trials"]


def test_the_sign_for_a_missing_value_can_be_chosen():
    assert {formatting.number(None, "–"), formatting.duration(None, "–"), formatting.size(None, "–")} == {"–"}


def test_the_origin_of_a_trial_names_parents_or_sources():
    assert formatting.origin({"operator": "differential", "parents": [3, -1]}) == (
        "differential of trial 3, learned result 1"
    )
    weights = {"study a": 0.75, "b.csv": 0.0, "study c": 0.125}
    assert formatting.origin({"operator": "related", "attributes": {"related:weights": weights}}) == (
        "related (study a 75 %, study c 12 %)"
    )
    assert formatting.origin({}) == "unknown"
