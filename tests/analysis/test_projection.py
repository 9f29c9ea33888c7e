"""From recorded steps to predicted times: the arithmetic of scaling, medians, scores, and what is refused."""

import dataclasses
import json
import math

import made_up
import pytest
from recorded_steps import WHERE, exposed, schedule

from atoll.analysis import comparison, projection
from atoll.storage.models import StudyRow
from atoll.storage.store import StoreError


def measured(compute=0.010, **changes):
    fields = {
        "trial_id": 1,
        "method": "ddp",
        "workload": "w",
        "traces": [schedule(compute)],
        "steps_per_epoch": 20,
        "batch_size": 8,
        "steps_to_target": 80.0,
        "oversubscribed": False,
    }
    return projection.Measured(**fields | changes)


def test_weak_scaling_keeps_the_work_of_a_rank_and_the_epochs():
    rows, reasons = projection.project(measured(), WHERE, [1, 4], "weak")
    assert reasons == []
    for row, num_nodes in zip(rows, (1, 4), strict=True):
        step = 0.010 + exposed(num_nodes)
        assert (row.num_nodes, row.num_ranks) == (num_nodes, 2 * num_nodes)
        assert row.step_seconds == pytest.approx(step, rel=1e-5)
        assert row.compute_seconds == pytest.approx(0.010)
        assert row.exposed_seconds == pytest.approx(exposed(num_nodes), abs=1e-7)
        assert row.epoch_seconds == pytest.approx(step * 20 / num_nodes, rel=1e-5)
        assert row.steps_to_target == 80 / num_nodes
        assert row.seconds_to_target == pytest.approx(step * 80 / num_nodes, rel=1e-5)
        assert any("batch grows with the ranks" in words for words in row.assumptions)


def test_strong_scaling_keeps_the_global_batch_and_the_steps():
    rows, reasons = projection.project(measured(), WHERE, [1, 4, 8, 16], "strong")
    assert [row.num_nodes for row in rows] == [1, 4, 8]  # 16 samples are not enough for 32 ranks
    assert ["the global batch is 16, 16 nodes with 32 ranks" in reason for reason in reasons] == [True]
    for row in rows:
        step = 0.010 / row.num_nodes + exposed(row.num_nodes)
        assert row.step_seconds == pytest.approx(step, rel=1e-5)
        assert (row.steps_to_target, row.epoch_seconds) == (80, pytest.approx(20 * step, rel=1e-5))


def test_a_rank_that_only_serves_has_no_share_of_the_batch():
    """Of 2 nodes of 2 ranks, three train where one did: a third of the steps, or of the work of each."""
    served = measured(traces=[schedule(0.010) | {"num_servers": 1}])
    assert (served.num_servers, served.num_ranks) == (1, 2)
    ((weak,), _) = projection.project(served, WHERE, [2], "weak")
    assert (weak.num_ranks, weak.steps_to_target) == (4, pytest.approx(80 / 3))
    ((strong,), _) = projection.project(served, WHERE, [2], "strong")
    assert (strong.steps_to_target, strong.compute_seconds) == (80, pytest.approx(0.010 / 3))
    ((_, reasons)) = projection.project(served, WHERE, [5], "strong")
    assert "the global batch is 8, 5 nodes with 9 ranks" in reasons[0]


def test_a_cluster_that_computes_faster():
    faster = WHERE.model_copy(update={"speed": 4.0})
    ((row,), _) = projection.project(measured(), faster, [1], "weak")
    assert row.compute_seconds == pytest.approx(0.0025)


def test_parts_of_one_network_stay_on_their_ranks():
    events = [["post", "send", "all", 3, 8, 1, 0]]
    parts = [schedule(0.010, events=[], num_ranks=3, grows=False, rank=rank) for rank in range(3)]
    parts[0] = schedule(0.010, events=events, num_ranks=3, grows=False)
    for scaling in ("weak", "strong"):
        rows, _ = projection.project(measured(traces=parts), WHERE, [1, 64], scaling)
        assert [(row.num_nodes, row.num_ranks, row.steps_to_target) for row in rows] == [(2, 3, 80)]
        assert any("stays on the 3 ranks" in words for words in rows[0].assumptions)


def test_a_missed_target_stays_missed_and_small_print_is_printed():
    rare = schedule(0.010) | {"segments": [[0, [[0, 97], [-1, 3]]]]}
    oversubscribed = measured(steps_to_target=None, oversubscribed=True, traces=[rare])
    ((row,), _) = projection.project(oversubscribed, WHERE, [64], "weak")
    assert (row.steps_to_target, row.seconds_to_target) == (None, None)
    words = "; ".join(row.assumptions)
    for expected in ("shared cores", "rare kinds", "64 ranks are simulated", "1 times as fast", "use ring"):
        assert expected in words


@pytest.fixture
def benchmarked(tmp_path):
    """Two methods; the second computes longer and needs fewer epochs, and one of its trainings misses the target."""
    curves = {"quick": [[0.5, 0.95, 0.96]] * 3, "slow": [[0.95, 0.96, 0.97]] * 2 + [[0.1, 0.2, 0.3]]}
    table = {method: {"w": of} for method, of in curves.items()}
    schedules = {"quick": [schedule(0.010, num_steps=30)], "slow": [schedule(0.050, num_steps=30)]}
    configuration = {"method": "ddp", "hyperparameters": {"batch_size": 8}}
    return made_up.make(tmp_path, table, targets={"w": 0.9}, schedules=schedules, configuration=configuration)


def keep(store, found, scaling="weak"):
    store.save_projections(found.trial_ids, WHERE.name, scaling, found.rows)


def test_a_benchmark_is_projected_kept_and_scored(benchmarked):
    store, row = benchmarked
    assert comparison.compare(store, row).predictions == []
    found = projection.project_all(store, row, WHERE, [1, 4], "weak")
    assert (len(found.rows), found.left_out) == (12, [])
    keep(store, found)
    keep(store, projection.project_all(store, row, WHERE, [1, 4], "weak"))  # in place of the former
    compared = comparison.compare(store, row)
    predicted = {(p.method, p.num_nodes): p for p in compared.predictions}
    assert set(predicted) == {("quick", 1), ("quick", 4), ("slow", 1), ("slow", 4)}
    quick, slow = predicted["quick", 4], predicted["slow", 4]
    # 20 and 10 steps of two ranks, the median of three trainings of which slow's third is infinite.
    assert quick.to_target == pytest.approx((0.010 + exposed(4)) * 5, rel=1e-5)
    assert slow.to_target == pytest.approx((0.050 + exposed(4)) * 2.5, rel=1e-5)
    assert (slow.num_trials, slow.cluster, slow.scaling) == (3, "c", "weak")
    by = "predicted seconds (nodes of c: 4, weak scaling)"
    scores = {row.method: row.score for row in compared.scores[by].rows}
    ratio = slow.to_target / quick.to_target
    assert scores == {"quick": 1.0, "slow": pytest.approx((4 - ratio) / 3)}
    assert json.loads(json.dumps(compared.as_dict(), allow_nan=False))["predictions"]
    assert [p.num_nodes for p in projection.predictions(store, row) if p.method == "slow"] == [1, 4]


def test_what_was_not_projected_is_not_scored(benchmarked):
    store, row = benchmarked
    found = projection.project_all(store, row, WHERE, [4], "strong")
    keep(store, dataclasses.replace(found, rows=found.rows[:1]), "strong")
    (scored,) = (s for by, s in comparison.compare(store, row).scores.items() if "predicted" in by)
    assert scored.rows == []
    assert "cannot tell: 4 trainings" in scored.verdict


def test_a_study_is_projected_by_its_best_trials(benchmarked):
    store, row = benchmarked
    study = next(s for s in store.studies_of(row) if s.stage == "confirm" and s.method_label == "slow")
    found = projection.project_all(store, study, WHERE, [1], "weak")
    assert len(found.rows) == 1
    keep(store, found)
    (prediction,) = projection.predictions(store, study)
    assert prediction.method == "ddp"  # as the configuration has it
    best = store.leaderboard(study)[0]
    assert found.rows[0].trial_id == best.id
    # Validation data count, not the test data of a confirmation: 0.5, 0.75 and 0.83 after 10, 20 and 30 steps.
    assert found.rows[0].steps_to_target is None
    study.target = 0.7
    assert projection.project_all(store, study, WHERE, [1], "weak").rows[0].steps_to_target == 20


def test_what_has_no_recorded_steps_is_refused(tmp_path):
    store, row = made_up.make(tmp_path, {"a": {"w": [[0.95]]}}, targets={"w": 0.9})
    with pytest.raises(StoreError, match=r"nothing to project.*\n.*trial 0 of b.w.a.confirm: its steps"):
        projection.project_all(store, row, WHERE, [1], "weak")
    tuned = next(study for study in store.studies_of(row) if isinstance(study, StudyRow) and study.stage == "tune")
    with pytest.raises(StoreError, match="nothing to project"):
        projection.project_all(store, tuned, WHERE, [1], "weak")


def test_no_target_is_no_time():
    rows = projection.project(measured(steps_to_target=None), WHERE, [1], "weak")[0]
    (without,) = projection.summarise(rows, {1: ("ddp", "w")}, set())
    (missed,) = projection.summarise(rows, {1: ("ddp", "w")}, {"w"})
    assert math.isnan(without.to_target)
    assert math.isinf(missed.to_target)
    assert dataclasses.replace(without, to_target=0.0) == dataclasses.replace(missed, to_target=0.0)


def test_what_is_refused_now_takes_the_former_predictions_away(benchmarked):
    store, row = benchmarked
    keep(store, projection.project_all(store, row, WHERE, [4], "weak"))
    refused = projection.project_all(store, row, WHERE, [64], "strong")
    assert (refused.rows, len(refused.left_out)) == ([], 6)
    keep(store, refused, "strong")
    assert {p.scaling for p in projection.predictions(store, row)} == {"weak"}
    keep(store, refused)
    assert projection.predictions(store, row) == []


def test_a_target_of_the_training_loss_is_met_by_the_training_loss(tmp_path):
    """The metric on validation data, below 1, would meet it at once."""
    table = {"a": {"w": [[2.0, 1.8, 1.4]] * 2}}
    store, row = made_up.make(
        tmp_path,
        table,
        targets={"w": 1.5},
        compared={"w": "evaluated_train_loss"},
        schedules={"a": [schedule(0.010, num_steps=30)]},
        configuration={"method": "ddp", "hyperparameters": {"batch_size": 8}},
    )
    study = next(s for s in store.studies_of(row) if s.stage == "confirm")
    assert projection.project_all(store, study, WHERE, [1], "weak").rows[0].steps_to_target == 30


def test_trainings_that_failed_never_meet_the_target(tmp_path):
    table = {"a": {"w": [[0.95], None, None]}, "b": {"w": [[0.95], [0.95], None]}}
    schedules = {method: [schedule(0.010, num_steps=10)] for method in table}
    configuration = {"method": "ddp", "hyperparameters": {"batch_size": 8}}
    store, row = made_up.make(tmp_path, table, targets={"w": 0.9}, schedules=schedules, configuration=configuration)
    keep(store, projection.project_all(store, row, WHERE, [4], "weak"))
    found = {p.method: p for p in comparison.compare(store, row).predictions}
    assert math.isinf(found["a"].to_target)
    assert math.isfinite(found["b"].to_target)
    scored = comparison.compare(store, row).scores["predicted seconds (nodes of c: 4, weak scaling)"]
    assert {r.method: r.score for r in scored.rows} == {"a": 0.0, "b": 1.0}


def test_scores_are_of_one_scale_that_all_methods_can_take(tmp_path):
    """One method has samples for 4 nodes, the other for 1; parts of a network stay where they are."""
    table = {method: {"w": [[0.95]]} for method in ("wide", "narrow", "parts")}
    schedules = {method: [schedule(0.010, num_steps=10)] for method in ("wide", "narrow")}
    schedules["parts"] = [schedule(0.010, events=[], num_steps=10, grows=False, rank=rank) for rank in range(2)]
    store, row = made_up.make(tmp_path, table, targets={"w": 0.9}, schedules=schedules)
    found = projection.project_all(store, row, WHERE, [1, 4], "strong")
    narrow = next(s for s in store.studies_of(row) if s.method_label == "narrow" and s.stage == "confirm")
    (trial,) = store.trials(narrow)
    some = [r for r in found.rows if r.num_nodes == 1 or r.trial_id != trial.id]
    keep(store, dataclasses.replace(found, rows=some), "strong")
    (by,) = (by for by in comparison.compare(store, row).scores if "predicted" in by)
    assert by == "predicted seconds (nodes of c: 1, strong scaling)"


def test_oversubscribed_trainings_and_single_ranks_predict_no_score(tmp_path):
    curves = {"a": {"w": [[0.95]]}}
    store, row = made_up.make(
        tmp_path, curves, targets={"w": 0.9}, schedules={"a": [schedule(0.01, num_steps=10)]}, oversubscribed=True
    )
    keep(store, projection.project_all(store, row, WHERE, [4], "weak"))
    (scored,) = (s for by, s in comparison.compare(store, row).scores.items() if "predicted" in by)
    assert "time for computing is not known" in scored.verdict
    (tmp_path / "own").mkdir()  # their threads' own time is known
    timed = {"a": [schedule(0.01, num_steps=10, clock="thread")]}
    store, row = made_up.make(tmp_path / "own", curves, targets={"w": 0.9}, schedules=timed, oversubscribed=True)
    projected = projection.project_all(store, row, WHERE, [4], "weak")
    assert "computing is the time of their own threads" in "; ".join(projected.rows[0].assumptions)
    keep(store, projected)
    (scored,) = (s for by, s in comparison.compare(store, row).scores.items() if "predicted" in by)
    assert [one.method for one in scored.rows] == ["a"]
    (tmp_path / "alone").mkdir()
    alone = schedule(0.01, events=[], num_steps=10, num_ranks=1)
    store, row = made_up.make(tmp_path / "alone", curves, targets={"w": 0.9}, schedules={"a": [alone]})
    with pytest.raises(StoreError, match="one rank has nothing to communicate"):
        projection.project_all(store, row, WHERE, [4], "weak")


def test_a_scale_that_cannot_be_followed_takes_no_other_with_it():
    ask = [["post", "send", "center", 2, 8, 0, 1], ["post", "receive", "center", 2, 8, 0, 2], ["wait", 2], ["wait", 1]]
    owner = schedule(0.01, events=[], service={"seconds": 0.0, "delay": 0.0})
    rows, reasons = projection.project(measured(traces=[owner, schedule(0.01, events=ask)]), WHERE, [1, 4, 999], "weak")
    assert [row.num_nodes for row in rows] == [1, 4]
    assert len(reasons) == 1
    assert "at most 1024" in reasons[0]


def test_groups_that_stay_small_are_an_assumption():
    part = [["post", "all_reduce", "part", 2, 8], ["wait", 1]]
    ((row,), _) = projection.project(measured(traces=[schedule(0.01, events=part)]), WHERE, [4], "weak")
    assert "groups of ranks do not grow: they have 2" in row.assumptions
