"""Comparisons of made-up confirmations, worked by hand."""

import csv
import io
import json
import math
from dataclasses import replace

import made_up
import pytest

from atoll.analysis import comparison, confirmations, training_curves
from atoll.dashboard import report
from atoll.dashboard.figures import comparison as figures

GOOD, SLOW, NEVER = [0.5, 0.9, 0.95], [0.5, 0.6, 0.92], [0.5, 0.6, 0.7]
INF = math.inf


def compared(*arguments, **keywords):
    return comparison.compare(*made_up.make(*arguments, **keywords))


def cell_of(found, method, workload="w"):
    return next(cell for cell in found.cells if (cell.method, cell.workload) == (method, workload))


def test_a_missed_target_is_infinite_and_takes_part_in_the_median(tmp_path):
    found = compared(tmp_path, {"x": {"w": [GOOD, SLOW, NEVER]}, "y": {"w": [NEVER, NEVER, GOOD]}}, targets={"w": 0.9})
    assert found.is_complete
    x, y = cell_of(found, "x"), cell_of(found, "y")
    assert (x.num_reached, x.seconds.value, x.steps.value) == (2, pytest.approx(0.3), 30)
    assert (y.num_reached, y.seconds.value, y.steps.value) == (1, INF, INF)
    assert x.quality.value == pytest.approx(0.92)
    assert {row.method: row.score for row in found.scores["seconds"].rows} == {"x": 1.0, "y": 0.0}


def test_a_failure_counts_as_missed_and_as_the_worst_quality(tmp_path):
    found = compared(tmp_path, {"x": {"w": [GOOD, None]}, "y": {"w": [SLOW, SLOW]}}, targets={"w": 0.9})
    x = cell_of(found, "x")
    assert (x.num_failed, x.num_reached, x.num_trained) == (1, 1, 2)
    assert x.seconds.value == INF
    assert [row.relative for row in found.confirmations if row.method == "x"] == [pytest.approx(0.95 / 0.9), 0.0]
    assert found.improvement["x"]["y"].value == 0.5


def test_where_tuning_found_nothing_every_seed_counts_as_a_failure(tmp_path):
    table = {"x": {"w": [GOOD, GOOD]}, "y": {"w": []}}
    found = compared(tmp_path, table, targets={"w": 0.9}, tuned={("y", "w"): [None, None]})
    assert found.is_complete
    y = cell_of(found, "y")
    assert (y.num_trained, y.num_failed, y.num_tuning_failures) == (2, 2, 2)
    assert y.seconds.value == INF
    assert {row.method: row.rank for row in found.scores["passes"].rows} == {"x": 1, "y": 2}
    assert "y on w: its tuning found nothing that trains to the end" in found.notes


def test_a_smaller_metric_may_be_better(tmp_path):
    """Errors: the target is met from above, the share of the target is its inverse, and the best is the smallest."""
    falling, slower = [0.5, 0.1, 0.05], [0.5, 0.4, 0.1]
    table = {"x": {"w": [falling, falling]}, "y": {"w": [slower, None]}}
    found = compared(tmp_path, table, targets={"w": 0.1}, direction="minimize", tuned={("x", "w"): [0.6, 0.5]})
    assert cell_of(found, "x").steps.value == 20
    assert cell_of(found, "y").steps.value == INF
    assert cell_of(found, "y").quality.interval == (0.1, INF)
    assert [row.relative for row in found.confirmations] == [2.0, 2.0, 1.0, 0.0]
    curve = next(curve for curve in found.tuning if curve.method == "x")
    assert curve.best == [0.6, 0.5]
    assert curve.expected == pytest.approx([0.55, 0.5])


def test_methods_may_be_compared_by_the_training_loss(tmp_path):
    """Of the metric larger is better, of the loss smaller; other workloads are compared by the metric as always."""
    falling, slower = [2.0, 1.4, 1.2], [2.0, 1.9, 1.5]
    table = {"x": {"loss": [falling] * 2, "w": [SLOW] * 2}, "y": {"loss": [slower] * 2, "w": [GOOD] * 2}}
    found = compared(tmp_path, table, targets={"loss": 1.5, "w": 0.9}, compared={"loss": "evaluated_train_loss"})
    x, y = cell_of(found, "x", "loss"), cell_of(found, "y", "loss")
    assert (x.steps.value, y.steps.value) == (20, 30)
    assert (x.quality.value, y.quality.value) == (1.2, 1.5)
    assert cell_of(found, "x").quality.value == 0.92
    assert (found.targets, found.directions) == ({"loss": 1.5, "w": 0.9}, {"loss": "minimize", "w": "maximize"})
    assert [row.relative for row in found.confirmations if row.workload == "loss"] == pytest.approx([1.25, 1.25, 1, 1])
    assert "loss is compared by evaluated_train_loss, on training data" in found.notes
    assert found.quality_title == "evaluated_train_loss or metric on test data"
    assert found.quality_title in report.results(found).columns
    assert figures.quality(found).layout.yaxis.title.text == found.quality_title


def test_of_several_configurations_the_one_of_the_lowest_training_loss_counts(tmp_path):
    """Validation data have no part in it: a made-up objective is what is reported, and of the metric more is better."""
    table = {"x": {"w": [[2.0], [1.0]] * 2}, "y": {"w": [[2.0], [3.0]] * 2}}
    found = compared(tmp_path, table, targets={"w": 1.5}, num_configurations=2, compared={"w": "evaluated_train_loss"})
    assert [(row.method, row.trial) for row in found.confirmations if row.is_chosen] == [("x", 2)] * 2 + [("y", 1)] * 2


def test_of_several_configurations_the_best_on_validation_data_counts(tmp_path):
    """Trials 0 and 1 are the configurations with the first seed, 2 and 3 with the second; the first is worse in median.

    The soonest on test data must not be taken: that would be tuning on it.
    """
    table = {"x": {"w": [SLOW, GOOD, NEVER, SLOW]}, "y": {"w": [SLOW] * 4}}
    found = compared(tmp_path, table, targets={"w": 0.9}, num_configurations=2)
    rows = [(row.study, row.trial, row.steps, row.is_chosen) for row in found.confirmations if row.method == "x"]
    assert rows == [("0.0", 1, 30, False), ("0.0", 2, 20, True), ("0.1", 1, INF, False), ("0.1", 2, 30, True)]
    assert found.scores["passes"].ratios == {"x": [1.0], "y": [pytest.approx(30 / 25)]}
    assert cell_of(found, "x").num_trained == 2


def test_seconds_of_trials_that_shared_cores_are_not_scored(tmp_path):
    found = compared(tmp_path, {"x": {"w": [GOOD]}, "y": {"w": [SLOW]}}, targets={"w": 0.9}, oversubscribed=True)
    assert found.scores["seconds"].rows == []
    assert "shared cores" in found.scores["seconds"].verdict
    assert [row.method for row in found.scores["passes"].rows] == ["x", "y"]
    assert cell_of(found, "x").seconds is None
    assert found.verdict == f"by passes, as seconds do not compare: {found.scores['passes'].verdict}"


def test_steps_decide_nothing_and_passes_do(tmp_path):
    """The audit's case: MAC met the target after a quarter of the steps, of which each was 67 passes over the batch."""
    table = {"adam": {"w": [SLOW] * 3}, "mac": {"w": [GOOD] * 3}}
    conditions = {"targets": {"w": 0.9}, "oversubscribed": True, "passes": {"adam": 360.0, "mac": 24_120.0}}
    found = compared(tmp_path, table, seconds={"adam": 0.1, "mac": 6.0}, **conditions)
    assert [cell_of(found, method).steps.value for method in ("adam", "mac")] == [30, 20]
    assert [cell_of(found, method).passes.value for method in ("adam", "mac")] == [1_080, 48_240]
    first = "adam is first: its interval overlaps with no other"
    assert found.verdict == f"by passes, as seconds do not compare: {first}"
    assert "steps" not in found.scores


@pytest.mark.parametrize(
    ("seconds", "shared", "is_first"),
    [
        ({"x": 0.1, "y": 0.1}, ("x", "y"), True),
        ({"x": 0.3, "y": 0.1}, ("x", "y"), False),
        ({"x": 0.3, "y": 0.1}, ("y",), False),  # y shared cores, and is ahead nevertheless
        ({"x": 0.3, "y": 0.1}, ("x",), True),  # x is behind because it shared cores, for all that one knows
    ],
)
def test_what_is_behind_in_seconds_without_a_handicap_is_not_called_first(tmp_path, seconds, shared, is_first):
    table = {"x": {"w": [GOOD] * 3}, "y": {"w": [SLOW] * 3}}
    found = compared(tmp_path, table, targets={"w": 0.9}, seconds=seconds, shared=shared)
    told = "cannot tell: x is first by passes, but behind y in seconds on the same or better cores"
    assert found.scores["passes"].verdict == ("x is first: its interval overlaps with no other" if is_first else told)


def test_methods_without_passes_are_not_scored_by_them(tmp_path):
    table = {"x": {"w": [GOOD, NEVER]}, "y": {"w": [SLOW, SLOW]}}
    found = compared(tmp_path, table, targets={"w": 0.9}, oversubscribed=True, passes={"x": None})
    assert found.verdict == "cannot tell: the trials of x do not report passes"
    assert "y" in [trace.x[0] for trace in figures.times(found, "passes").data if trace.x[:1]]
    assert max(y for trace in figures.times(found, "passes").data for y in trace.y if y == y) == 1.15 * 960
    assert cell_of(found, "x").passes is None
    assert cell_of(found, "y").passes.value == 960


def test_workloads_without_a_target_are_in_no_score(tmp_path):
    table = {"x": {"w": [GOOD], "v": [GOOD]}, "y": {"w": [SLOW], "v": [NEVER]}}
    found = compared(tmp_path, table, targets={"w": 0.9, "v": None})
    assert found.scores["passes"].ratios == {"x": [1.0], "y": [1.5]}
    assert "without a target, and so in no score: v" in found.notes
    none = compared(tmp_path / "none", {"x": {"w": [GOOD]}}, targets={"w": None})
    assert none.verdict == "cannot tell: there is no workload with a target that all methods have finished"
    assert none.quality == {}


def test_a_held_out_variant_takes_its_base_with_it(tmp_path):
    table = {"x": {"w": [GOOD], "v": [NEVER]}, "y": {"w": [SLOW], "v": [SLOW]}}
    found = compared(tmp_path, table, targets={"w": 0.9, "v": 0.9}, variants={"w": "v"})
    assert {row.method: row.score for row in found.scores["passes"].rows} == {"y": 1.0, "x": 0.0}


def test_few_workloads_cannot_separate_and_many_can(tmp_path):
    """Every quality differs, so that Wilcoxon's test has no ties."""

    def table(num):
        better = {f"w{n}": [[0.9 + 0.005 * n]] * 2 for n in range(num)}
        worse = {f"w{n}": [[0.5 + 0.003 * n]] * 2 for n in range(num)}
        return {"x": better, "y": worse}

    def of(num):
        return compared(tmp_path / str(num), table(num), targets={f"w{n}": 0.9 for n in range(num)})

    two, four, many = map(of, (2, 4, 7))
    assert two.separation is None
    assert "needs at least 3 workloads" in report.separation_words(two)
    assert not four.separation.is_possible
    assert "p is at least 0.125" in report.separation_words(four)
    assert many.separation.is_possible
    assert report.separation_words(many) == "separated: x and y (p = 0.016)"
    assert many.equivalence["x - y"].better > 0.95
    assert figures.groups(many.separation) == []


def test_what_is_not_finished_says_so(tmp_path):
    store, row = made_up.make(tmp_path, {"x": {"w": [GOOD]}, "y": {"w": [SLOW]}}, targets={"w": 0.9})
    store.delete(store.study("b.w.y.confirm"))
    found = comparison.compare(store, row)
    assert not found.is_complete
    assert found.notes[0].startswith("3 of 4 studies have ended: scores cover the workloads that all methods have fin")
    assert cell_of(found, "y").num_trained == 0
    assert found.verdict.startswith("cannot tell")


def test_nobody_wins_before_all_have_finished(tmp_path):
    """Else y, which has not come to v yet, would have missed it."""
    table = {"x": {"w": [GOOD, GOOD], "v": [GOOD, GOOD]}, "y": {"w": [SLOW, SLOW], "v": [GOOD, GOOD]}}
    store, row = made_up.make(tmp_path, table, targets={"w": 0.9, "v": 0.9})
    store.delete(store.study("b.v.y.confirm"))
    found = comparison.compare(store, row)
    assert found.scores["passes"].ratios == {"x": [1.0], "y": [1.5]}  # on w alone
    assert found.verdict == "cannot tell yet: 7 of 8 studies have ended"


def test_a_study_whose_ranks_died_too_often_counts_as_failures(tmp_path):
    table = {"x": {"w": [GOOD, GOOD]}, "y": {"w": [GOOD]}, "z": {"w": []}}
    states = {"w.y.confirm": "failed", "w.z.tune": "failed"}
    found = compared(tmp_path, table, targets={"w": 0.9}, states=states)
    assert found.is_complete
    assert [(cell.num_trained, cell.num_failed) for cell in found.cells] == [(2, 0), (2, 1), (2, 2)]
    assert {row.method: row.score for row in found.scores["passes"].rows} == {"x": 1.0, "y": 0.0, "z": 0.0}


def test_seeds_of_one_tuning_are_no_independent_studies(tmp_path):
    """Three tunings, two seeds each: x is sooner in two of them, so that resampling tunings leaves it open."""
    table = {"x": {"w": [GOOD] * 2 + [GOOD] * 2 + [NEVER] * 2}, "y": {"w": [SLOW] * 6}}
    apart = compared(tmp_path, table, targets={"w": 0.9}, num_tunings=3)
    assert {row.group for row in apart.confirmations} == {"0", "1", "2"}
    x = next(row for row in apart.scores["passes"].rows if row.method == "x")
    # All three draws of a tuning miss with probability 7/27, as two misses of three do: the median is infinite then.
    assert x.score_interval == (0.0, 1.0)
    assert x.first == pytest.approx(20 / 27, abs=0.04)  # 2,000 draws: a standard error of 0.01
    assert apart.verdict.startswith("cannot separate x from y")


def test_one_method_alone_has_nothing_to_be_compared_with(tmp_path):
    assert compared(tmp_path, {"x": {"w": [GOOD, GOOD]}}, targets={"w": 0.9}).verdict == (
        "there is nothing to compare x with"
    )


def test_where_nobody_reaches_a_target_nobody_is_first(tmp_path):
    found = compared(tmp_path, {"x": {"w": [NEVER] * 2}, "y": {"w": [NEVER] * 2}}, targets={"w": 0.9})
    assert found.verdict == "cannot tell: no method keeps a finite time on any workload"


def test_a_benchmark_is_removed_with_its_studies(tmp_path):
    store, row = made_up.make(tmp_path, {"x": {"w": [GOOD]}}, targets={"w": 0.9})
    store.delete(row)
    assert (store.benchmarks(), store.studies()) == ([], [])


def test_json_has_null_where_there_is_no_number(tmp_path):
    found = compared(tmp_path, {"x": {"w": [NEVER, None]}, "y": {"w": [GOOD, GOOD]}}, targets={"w": 0.9})
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["cells"][0]["seconds"]["value"] is None
    assert [row["quality"] for row in content["confirmations"]][:2] == [0.7, None]


def test_the_page_escapes_what_it_shows(tmp_path):
    store, row = made_up.make(tmp_path, {"<script>x": {"w": [GOOD, None]}}, targets={"w": 0.9})
    page = report.html(store, row)
    assert "<td>&lt;script&gt;x</td>" in page
    assert "<td><script>x" not in page


def test_the_table_is_what_score_reads(tmp_path):
    from atoll.analysis import score

    store, row = made_up.make(tmp_path, {"x": {"w": [GOOD, NEVER]}}, targets={"w": 0.9})
    rows = confirmations.read(store, row)
    (tmp_path / "t.csv").write_text(confirmations.to_csv(rows))
    assert score.read(tmp_path / "t.csv") == confirmations.times(rows, "seconds")


def test_seconds_that_do_not_compare_are_not_in_the_table(tmp_path):
    store, row = made_up.make(tmp_path, {"x": {"w": [GOOD, NEVER]}}, targets={"w": 0.9}, oversubscribed=True)
    shared, other = confirmations.read(store, row)
    for rows in (
        [shared, other],
        [shared, replace(other, oversubscribed=False)],
    ):  # one is enough
        lines = list(csv.DictReader(io.StringIO(confirmations.to_csv(rows))))
        assert [(line["seconds"], line["steps"]) for line in lines] == [("", "20"), ("", "inf")]


def test_the_target_is_a_line_in_the_panel_of_its_workload(tmp_path):
    found = compared(tmp_path, {"x": {"w": [GOOD], "v": [SLOW]}}, targets={"w": 0.9, "v": None})
    assert [(line.y0, line.y1, line.yref) for line in figures.quality(found).layout.shapes] == [(0.9, 0.9, "y")]


def test_a_metric_that_is_no_number_is_no_quality(tmp_path):
    """Journals hold null in its place."""
    found = compared(tmp_path, {"x": {"w": [[0.5, math.nan]]}}, targets={"w": 0.9})
    assert [row.relative for row in found.confirmations] == [0.0]


def test_every_figure_of_every_kind_of_benchmark_can_be_drawn(tmp_path):
    """With one method, one trial, failures, no target: no figure raises."""
    cases = {
        "one": {"table": {"x": {"w": [GOOD]}}, "targets": {"w": 0.9}},
        "failed": {"table": {"x": {"w": [None]}, "y": {"w": [None]}}, "targets": {"w": 0.9}},
        "untargeted": {"table": {"x": {"w": [GOOD]}, "y": {"w": [SLOW]}}, "targets": {"w": None}},
    }
    for name, case in cases.items():
        store, benchmark = made_up.make(tmp_path / name, case["table"], targets=case["targets"])
        found = comparison.compare(store, benchmark)
        assert report.sections(found, training_curves.read(store, benchmark, found.confirmations)), name
