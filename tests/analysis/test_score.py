"""The score, against a table worked by hand, and the rules of AlgoPerf one by one."""

import math

import numpy as np
import pytest

from atoll.analysis import score
from atoll.analysis.score import TrialTime, gather

INF = math.inf


def trials(table, variants=None, by="time"):
    """A table {method: {workload: [[times of a study's trials], ...]}} as trials, at rising evaluations."""
    rows = [
        TrialTime(method, workload, f"s{s}", f"t{t}", float(t), seconds)
        for method, workloads in table.items()
        for workload, studies in workloads.items()
        for s, study in enumerate(studies)
        for t, seconds in enumerate(study)
    ]
    return gather(rows, variants, by)


def final(times):
    """Base workloads' times after the rules, as nested lists."""
    return score.base_times(times, score.medians(times)).tolist()


def scores(times, integral="exact"):
    return {row.method: row.score for row in score.compare(times, integral, num_resamples=10)}


def test_a_table_worked_by_hand():
    """Three methods, three workloads, three studies each.

    x takes the medians 10, 20, inf; y takes 15, 20, 100; z takes 50, 30, 150. On the first workload z is beyond 4 times
    the best. Ratios: x 1, 1, inf; y 1.5, 1, 1; z inf, 1.5, 1.5. Scores: x (3 + 3 + 0)/9; y (2.5 + 3 + 3)/9;
    z (0 + 2.5 + 2.5)/9.
    """
    times = trials(
        {
            "x": {"a": [[10, 12], [9], [40]], "b": [[20], [20], [20]], "c": [[90], [INF], [INF, INF]]},
            "y": {"a": [[15], [15], [15]], "b": [[10], [20], [30]], "c": [[100], [100], [INF]]},
            "z": {"a": [[50], [50], [50]], "b": [[30], [30], [30]], "c": [[150], [150], [150]]},
        }
    )
    assert score.medians(times).tolist() == [[10, 20, INF], [15, 20, 100], [50, 30, 150]]
    assert final(times) == [[10, 20, INF], [15, 20, 100], [INF, 30, 150]]
    assert scores(times) == {"x": pytest.approx(6 / 9), "y": pytest.approx(8.5 / 9), "z": pytest.approx(5 / 9)}
    rows = score.compare(times)
    assert [(row.method, row.rank) for row in rows] == [("y", 1), ("x", 2), ("z", 3)]
    assert rows[0].rank_without_method == {"x": 1, "z": 1}
    # without workload c: x 1, 1; y 1.5, 1
    assert rows[0].rank_without_workload["c"] == 2


def test_a_profile_is_the_share_of_workloads_within_a_ratio():
    ratio = np.array([1.0, 1.5, 4.0, INF])
    assert score.profile(ratio, np.array([1.0, 1.4, 1.5, 4.0])).tolist() == [0.25, 0.25, 0.5, 0.75]
    assert score.score(ratio) == pytest.approx((3 + 2.5 + 0 + 0) / 12)
    # Each trapezoid is off by at most half a step of the profile: 3/99 / 2 per workload, over 3.
    assert abs(score.score(ratio, "trapezoid") - score.score(ratio)) <= 1 / 99 / 2


def test_an_infinite_base_makes_its_variant_infinite_before_times_are_compared():
    """Else x would be the best on the variant, and y, at more than 4 times its time there, would lose its base."""
    times = trials({"x": {"a": [[INF]], "a2": [[1]]}, "y": {"a": [[10]], "a2": [[10]]}}, {"a": "a2"})
    assert final(times) == [[INF], [10]]
    assert scores(times) == {"x": 0.0, "y": 1.0}


def test_more_than_four_times_the_best_is_infinite_on_variants_too_and_takes_the_base_with_it():
    table = {"x": {"a": [[10]], "a2": [[10]]}, "y": {"a": [[11]], "a2": [[40.1]]}, "z": {"a": [[40]], "a2": [[40]]}}
    assert final(trials(table, {"a": "a2"})) == [[10], [INF], [40]]
    assert scores(trials(table, {"a": "a2"}))["z"] == 0.0  # a ratio of 4 counts for nothing


def test_only_base_workloads_are_scored():
    times = trials({"x": {"a": [[10]], "a2": [[20]]}, "y": {"a": [[20]], "a2": [[10]]}}, {"a": "a2"})
    assert times.bases == ("a",)
    assert scores(times) == {"x": 1.0, "y": pytest.approx(2 / 3)}


def test_the_best_time_is_that_which_remains():
    """x is the fastest on a, but has lost it by its variant: y's ratio is 1."""
    table = {"x": {"a": [[5]], "a2": [[INF]]}, "y": {"a": [[10]], "a2": [[10]]}}
    assert scores(trials(table, {"a": "a2"})) == {"x": 0.0, "y": 1.0}


def test_a_studys_time_is_its_soonest_trials_by_seconds_or_by_evaluation():
    rows = [
        TrialTime("x", "a", "s", name, index, seconds)
        for name, index, seconds in (("t2", 3, 30.0), ("t1", 5, 20.0), ("t0", 1, INF), ("t3", 3, 10.0), ("t4", 3, 25.0))
    ]
    assert score.medians(gather(rows)).tolist() == [[10.0]]
    assert score.medians(gather(rows, by="index")).tolist() == [[30.0]]  # of t2, t3 and t4, at index 3, the first name
    assert score.medians(gather([row for row in rows if row.trial == "t0"], by="index")).tolist() == [[INF]]


def test_what_was_never_tried_is_not_reached():
    times = trials({"x": {"a": [[1]], "b": [[1]]}, "y": {"a": [[1]]}})
    assert score.medians(times).tolist() == [[1, 1], [1, INF]]


def test_a_workload_that_nobody_solves_counts_for_nothing_and_warns_of_nothing():
    times = trials({"x": {"a": [[1]], "b": [[INF]]}, "y": {"a": [[2]], "b": [[INF]]}})
    assert scores(times) == {"x": 0.5, "y": pytest.approx(1 / 3)}


def test_intervals_follow_from_the_studies():
    rng = np.random.default_rng(1)
    table = {
        "fast": {w: [[t] for t in 10 + rng.random(9)] for w in "abc"},
        "slow": {w: [[t] for t in 20 + rng.random(9)] for w in "abc"},
        "equal": {w: [[t] for t in 10 + rng.random(9)] for w in "abc"},
    }
    rows = {row.method: row for row in score.compare(trials(table))}
    assert rows["slow"].first == 0.0
    assert rows["slow"].rank_interval == (3, 3)
    assert rows["fast"].first + rows["equal"].first == pytest.approx(1.0)
    for row in rows.values():
        low, high = row.score_interval
        assert low <= row.score <= high
    assert 1 - 20 / 10 < 0 < rows["slow"].score_interval[0] < (4 - 20 / 11) / 3  # all its ratios are in [20/11, 21/10]


def test_a_study_alone_gives_no_interval():
    rows = score.compare(trials({"x": {"a": [[1]]}, "y": {"a": [[2]]}}))
    assert [(row.score_interval, row.rank_interval, row.first) for row in rows] == [(None, None, None)] * 2


def test_equal_scores_share_a_rank():
    rows = score.compare(trials({"x": {"a": [[1]]}, "y": {"a": [[1]]}, "z": {"a": [[2]]}}))
    assert [(row.method, row.rank) for row in rows] == [("x", 1), ("y", 1), ("z", 3)]


def test_read(tmp_path):
    file = tmp_path / "times.csv"
    file.write_text(
        "method,workload,study,trial,evaluation,seconds,more\nx,a,0,1,0,12.5,!\nx,a,0,2,,,\nx,a,1,1,2,inf,\n"
    )
    rows = score.read(file)
    assert rows == [
        TrialTime("x", "a", "0", "1", 0.0, 12.5),
        TrialTime("x", "a", "0", "2", INF, INF),
        TrialTime("x", "a", "1", "1", 2.0, INF),
    ]


BENCHMARK = (
    "method,workload,study,trial,evaluation,seconds,passes\nx,a,0,1,2,,640\ny,a,0,1,inf,,inf\nz,a,0,1,3,,960.0\n"
)


def test_passes_are_scored_where_ranks_shared_cores(tmp_path):
    """A benchmark's table has no seconds then, which must not count as missed targets."""
    file = tmp_path / "b.csv"
    file.write_text(BENCHMARK)
    assert [row.seconds for row in score.read(file, "passes")] == [640.0, INF, 960.0]
    with pytest.raises(ValueError, match=r"has no seconds, although targets were met: .* --measure passes"):
        score.read(file)
    file.write_text(BENCHMARK.replace("640", "inf").replace("960.0", "inf"))  # all missed
    assert [row.seconds for row in score.read(file)] == [INF] * 3
    file.write_text(BENCHMARK.replace("passes", "more"))
    with pytest.raises(ValueError, match=r"lacks the columns passes; it needs method, .*, evaluation, passes"):
        score.read(file, "passes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,workload\nx,a\n", "lacks the columns study, trial, evaluation, seconds; it needs method,"),
        ("method,workload,study,trial,evaluation,seconds\nx,a,0,1,3,fast\n", "line 2: seconds must be .* got 'fast'"),
        ("method,workload,study,trial,evaluation,seconds\nx,a,0,1,3,-1\n", "line 2: seconds must be .* got '-1'"),
        ("method,workload,study,trial,evaluation,seconds\nx,a,0,1,3,0\n", "line 2: seconds must be .* above 0, .*'0'"),
        ("method,workload,study,trial,evaluation,seconds\nx,a,0,1,-1,3\n", "line 2: evaluation must be .* at least 0"),
        ("method,workload,study,trial,evaluation,seconds\nx,,0,1,3,1\n", "line 2: workload must be given"),
        ("method,workload,study,trial,evaluation,seconds\n", "has no trials"),
    ],
)
def test_tables_that_cannot_be_scored(tmp_path, text, message):
    file = tmp_path / "times.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        score.read(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=v,b=v", "exactly one base and no variants of its own; got v"),
        ("a=a", "of its own; got a"),
        ("a=b,b=c", "of its own; got b"),
        ("a=b,a=c", "each base once"),
        ("a", "must be BASE=VARIANT"),
    ],
)
def test_variants_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        score.pairs(text)


def test_variants_must_be_there():
    with pytest.raises(ValueError, match="no trial has the workload c; there are a, b"):
        trials({"x": {"a": [[1]], "b": [[1]]}}, {"a": "c"})
