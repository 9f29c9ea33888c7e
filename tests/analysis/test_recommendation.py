"""Which method is first on a cluster: probabilities with closed formulas, and three cases that a store answers."""

import itertools
import json
import math
from pathlib import Path

import made_up
import pytest
from recorded_steps import WHERE, schedule
from typer.testing import CliRunner

from atoll.analysis.cluster import Link
from atoll.analysis.recommendation import PREDICTION_ERRORS, Race, recommend
from atoll.platform import cli
from atoll.storage.store import StoreError

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "projection.json"
MET = [0.5, 0.95, 0.96]  # the target 0.9, after the second epoch
MISSED = [0.1, 0.2, 0.3]
# In each step of "chatty" ranks compute for 10 ms and sum 1 MB; those of "quiet" compute for 30 ms.
STEPS = {"chatty": schedule(0.010, num_steps=30), "quiet": schedule(0.030, events=[], num_steps=30)}
NODES = 4  # 8 ranks: a ring's sum moves 1.75 MB through each link
NOISE = 4 * math.sqrt(0.25 / 8000)  # four standard deviations of a share of the draws


def at(gigabytes_per_second):
    """The cluster with a network of this bandwidth."""
    return WHERE.model_copy(update={"network": Link(microseconds=0, gigabytes_per_second=gigabytes_per_second)})


def stored(folder, *, curves=MET, num_seeds=4, steps=None, **options):
    """A benchmark of these methods on the workload w."""
    steps = STEPS if steps is None else steps
    table = {method: {"w": [curves] * num_seeds} for method in steps}
    schedules = {method: [own] for method, own in steps.items() if own is not None}
    configuration = {"method": "ddp", "hyperparameters": {"batch_size": 8}}
    given = {"targets": {"w": 0.9}, "num_tunings": 2} | options
    return made_up.make(folder, table, schedules=schedules, configuration=configuration, **given)[0]


# The race.


def test_the_errors_are_all_that_were_measured():
    measured = [row["error"] for row in json.loads(RESULTS.read_text())["rows"]]
    assert tuple(round(error, 3) for error in measured) == PREDICTION_ERRORS


def test_two_known_times_are_separated_as_surely_as_pairs_of_errors_say():
    ours, theirs = 1.0, 1.2
    pairs = itertools.product(PREDICTION_ERRORS, PREDICTION_ERRORS)
    won = [ours / (1 + e) < theirs / (1 + f) for e, f in pairs]
    race = Race({"a": [[ours]], "b": [[theirs]]})
    assert race.probability["a"] == pytest.approx(sum(won) / len(won), abs=NOISE)
    assert sum(race.probability.values()) == pytest.approx(1.0)
    assert race.first == ["a", "b"]
    assert race.without_errors().first == ["a"]


def test_exact_predictions_leave_the_luck_of_seeds_and_then_of_tunings():
    # The medians of three seeds: 1 with probability 20/27 (two or three of the three draws), else 9.
    race = Race({"a": [[1.0, 1.0, 9.0]], "b": [[5.0, 5.0, 5.0]]}, errors=[0.0])
    assert race.probability["a"] == pytest.approx(20 / 27, abs=NOISE)
    assert race.without_luck().probability["a"] == pytest.approx(
        Race({"a": [[1.0]], "b": [[5.0]]}).probability["a"], abs=NOISE
    )
    # One tuning was lucky: a quarter of the draws have it twice, a half once, with a median of 5.
    tunings = Race({"a": [[1.0, 1.0], [9.0, 9.0]], "b": [[4.0, 4.0]]}, errors=[0.0])
    assert tunings.probability["a"] == pytest.approx(0.25, abs=NOISE)


def test_equal_times_share_the_first_place_and_missed_targets_have_none():
    race = Race({"a": [[1.0]], "b": [[1.0]], "c": [[math.inf]]}, errors=[0.0])
    assert race.probability == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert race.seconds("c").interval == (math.inf, math.inf)
    nobody = Race({"a": [[math.inf, math.inf, 1.0]]}, errors=[0.0])
    assert nobody.probability["a"] == pytest.approx(7 / 27, abs=NOISE)  # two or three of three draws
    assert nobody.first == []
    assert Race({}).first == []


# Three cases, from one store.


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("recommended"))


def test_on_a_fast_network_the_method_that_computes_less_is_first(store):
    found = recommend(store, "w", at(10.0), NODES)
    assert found.first == ["chatty"]
    assert found.verdict == "chatty is first, with a probability of 100%"
    chatty, quiet = found.contenders
    # Weak scaling: a fourth of the recorded 20 steps, each with 1.75 MB at 10 GB/s.
    assert chatty.seconds.value == pytest.approx(5 * (0.010 + 1.75e-4), rel=1e-6)
    assert quiet.seconds.value == pytest.approx(5 * 0.030, rel=1e-6)
    assert (chatty.num_ranks, chatty.num_reached, chatty.num_trained, chatty.num_tunings) == (8, 4, 4, 2)
    assert chatty.configurations == [{"x": 0}, {"x": 0}]


def test_on_a_slow_network_the_method_that_sends_less_is_first(store):
    found = recommend(store, "w", at(0.01), NODES)
    assert found.first == ["quiet"]
    assert found.if_changed["a network of a quarter of the bandwidth"] == ["quiet"]


def test_in_between_it_cannot_tell_and_says_where_it_could(store):
    found = recommend(store, "w", at(1.75e-3 / 0.020), NODES)  # both steps take 30 ms
    assert set(found.first) == {"chatty", "quiet"}
    assert found.verdict.startswith("cannot tell which method is first: with 95 % it is one of ")
    assert found.if_changed["a network of a quarter of the bandwidth"] == ["quiet"]
    assert set(found.if_changed["a network of four times the bandwidth"]) == {"chatty"}
    advice = " ".join(found.advice)
    assert "even exact predictions would not separate them" in advice
    assert "measure-cluster" in advice
    assert recommend(store, "w", at(1.75e-3 / 0.020), NODES) == found


def test_what_only_predictions_leave_open_is_measured_on_the_cluster(store):
    found = recommend(store, "w", at(1.75e-3 / 0.017), NODES, is_measured=True)  # 27 against 30 ms
    assert set(found.first) == {"chatty", "quiet"}
    advice = " ".join(found.advice)
    assert "predictions are not exact enough" in advice
    assert "even exact predictions" not in advice
    assert "measure-cluster" not in advice


# What cannot be told.


def test_a_workload_that_nobody_has_trained_has_no_answer(store):
    with pytest.raises(StoreError, match=r"no benchmark in the store confirms a training of 'x'.* those of w\."):
        recommend(store, "x", WHERE, 2)
    with pytest.raises(StoreError, match="benchmark b does not confirm a training of 'x'"):
        recommend(store, "x", WHERE, 2, benchmark="b")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"targets": {"w": None}}, "w has no target in b"),
        ({"states": {"w.quiet.1.confirm": "running"}}, "cannot tell yet: 7 of 8 studies have ended"),
        ({"oversubscribed": True}, "they computed more slowly than they could"),
        ({"steps": {"a": None, "b": None}}, "its steps were not recorded"),
        ({"curves": MISSED}, "with a probability of 100% no method meets the target"),
    ],
)
def test_the_reason_why_it_cannot_tell(tmp_path, changes, expected):
    found = recommend(stored(tmp_path, **changes), "w", WHERE, NODES)
    assert found.first == []
    assert found.if_changed == {}
    assert found.verdict.startswith("cannot tell")
    assert expected in found.verdict


def test_a_method_whose_messages_cost_nothing_cannot_be_first(tmp_path):
    events = [["post", "send", "all", 2, 8, 1, 1]]
    steps = STEPS | {"tree": schedule(0.001, events=events, num_steps=30)}
    found = recommend(stored(tmp_path, steps=steps), "w", at(10.0), NODES)
    assert found.first == ["chatty"]
    assert "a lower bound" in found.left_out["tree"]


def test_failed_trainings_never_meet_the_target_and_one_tuning_is_said(tmp_path):
    curves = {"chatty": {"w": [MET]}, "quiet": {"w": [MET]}}
    store, _ = made_up.make(
        tmp_path,
        curves,
        targets={"w": 0.9},
        schedules={method: [own] for method, own in STEPS.items()},
        states={"w.quiet.confirm": "failed"},
        configuration={"method": "ddp", "hyperparameters": {"batch_size": 8}},
    )
    found = recommend(store, "w", at(0.01), NODES)
    (quiet,) = (one for one in found.contenders if one.method == "quiet")
    assert (quiet.num_reached, quiet.num_trained) == (1, 2)
    assert any("tuned once" in words for words in found.assumptions)


def test_trainings_that_do_not_fit_the_scale_are_told(tmp_path):
    found = recommend(stored(tmp_path), "w", WHERE, 64, "strong")  # 16 samples for 128 ranks
    assert found.contenders == []
    assert "strong scaling leaves ranks without samples" in found.verdict


# The command.


def test_the_command_answers_in_words_and_as_json(tmp_path, monkeypatch):
    stored(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATOLL_STORE", raising=False)
    (tmp_path / "mine.yaml").write_text(json.dumps(at(10.0).model_dump() | {"batch": None}))
    ask = ["recommend", "--workload", "w", "--nodes", "4", "--cluster"]
    result = CliRunner().invoke(cli.app, [*ask, "mine.yaml"])
    assert result.exit_code == 0, result.output
    assert "chatty is first, with a probability of 100%" in result.output
    assert "atoll export b.w.chatty.confirm-0" in result.output
    assert "measure-cluster" not in result.output
    content = json.loads(CliRunner().invoke(cli.app, [*ask, "ethernet_1gbe", "--json"]).output)
    assert content["cluster"] == "ethernet_1gbe"
    assert [one["method"] for one in content["contenders"]]
    assert any("measure-cluster" in words for words in content["advice"])
    many = CliRunner().invoke(cli.app, ["recommend", "--workload", "w", "--cluster", "laptop", "--nodes", "99999"])
    assert many.exit_code == 2
    assert "must be at most 65536; got 99999" in many.output
