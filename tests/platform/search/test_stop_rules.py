"""The arithmetic of the rules of `stop`, against closed formulas; and what of the records counts."""

import itertools
import math
import random

import journals
import pytest

from atoll.platform.search import resume
from atoll.platform.search.stop_rules import Follower, Incumbents, Met, StopRules, ended_because, stagnation
from atoll.platform.study.objectives import Objective
from atoll.platform.study.stop import Margin, Stop
from atoll.storage.events import Event, RegretBounded, StopRuleMet, StudyChanged, StudyStarted


def rules(length=None, *, direction="minimize", promotes=False, objectives=None, **stop):
    resolved = objectives or [Objective(name="value", direction=direction)]
    return StopRules(Stop.model_validate(stop), resolved, length, promotes=promotes)


def told(of, values, *, state="complete", first=0):
    """The rules after trials with these values."""
    for number, value in enumerate(values, first):
        of.take(number, 0, state, of.losses(value, None))
    return of


def met(of):
    return None if (found := of.met()) is None else found.rule


@pytest.mark.parametrize("seed", range(20))
def test_incumbents_are_the_prefix_minima_whatever_the_order_of_the_ends(seed):
    draw = random.Random(seed)
    losses = {number: draw.choice([math.inf, draw.random()]) for number in draw.sample(range(60), 30)}
    found = Incumbents()
    for number in draw.sample(sorted(losses), len(losses)):
        found.put(number, draw.random())  # an earlier result, which a newer one replaces
        found.put(number, losses[number])
        known = losses
    assert found.best == list(itertools.accumulate((known[number] for number in sorted(known)), min))


def reference(losses, margin, most):
    """How many of the last trials have not improved the best of those before them by more than the margin."""
    best = [min(losses[: n + 1]) for n in range(len(losses))]

    def stagnates(count):
        before = min(losses[: len(losses) - count], default=math.inf)
        return math.isfinite(before) and before - best[-1] <= margin.of(before)

    counts = [count for count in range(1, min(most, len(losses) - 1) + 1) if stagnates(count)]
    return max(counts, default=0)


@pytest.mark.parametrize("margin", [Margin(share=0.0), Margin(share=0.2), Margin(absolute=0.1)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_stagnation_is_the_largest_number_of_trials_without_an_improvement(margin, sign):
    draw = random.Random(7)
    for _ in range(200):
        losses = [sign * draw.random() for _ in range(draw.randint(1, 25))]
        best = list(itertools.accumulate(losses, min))
        assert stagnation(best, margin, 10) == reference(losses, margin, 10)


def test_a_plateau_is_met_after_so_many_trials_without_an_improvement():
    of = rules(plateau={"trials": 3})
    told(of, [5.0, 6.0, 7.0])
    assert met(of) is None
    assert of.words() == ["2 of 3 trials without improvement"]
    told(of, [5.0], first=3)  # equal is no improvement
    assert of.met() == Met("plateau", "no improvement in 3 trials (plateau)")


def test_an_improvement_within_the_tolerance_counts_as_none():
    """Of 10.0, 1 % is 0.1: three trials to 9.9 together are within it, and to 9.89 are not."""
    steps = [10.0, 9.97, 9.94]
    assert met(told(rules(plateau={"trials": 3, "tolerance": "1 %"}), [*steps, 9.91])) == "plateau"
    assert met(told(rules(plateau={"trials": 3, "tolerance": "1 %"}), [*steps, 9.89])) is None
    assert met(told(rules(plateau={"trials": 3, "tolerance": {"absolute": 0.12}}), [*steps, 9.89])) == "plateau"
    maximized = {"direction": "maximize", "plateau": {"trials": 1, "tolerance": "1 %"}}
    assert met(told(rules(**maximized), [0.9, 0.9089])) == "plateau"
    assert met(told(rules(**maximized), [0.9, 0.9091])) is None


def test_the_order_is_that_of_the_numbers_and_not_of_the_ends():
    orders = list(itertools.permutations(enumerate([3.0, 1.0, 2.0, 2.0, 0.5])))
    for order in orders:
        of = rules(plateau={"trials": 2})
        for number, value in order:
            of.take(number, 0, "complete", (value,))
        assert met(of) is None
        assert of.words() == ["0 of 2 trials without improvement"]


def test_pruned_trials_count_as_no_improvement_and_failed_and_lost_ones_do_not_count():
    of = told(rules(plateau={"trials": 2}), [1.0])
    for state in ("failed", "failed", "lost", "running"):
        of.take(9, 0, state, None)
    assert of.words() == ["0 of 2 trials without improvement"]
    told(of, [0.0, 0.0], state="pruned", first=10)
    assert met(of) == "plateau"
    assert met(told(rules(plateau={"trials": 2}), [0.0] * 5, state="pruned")) is None  # no incumbent yet


def test_a_trial_that_has_paused_counts_once_it_is_complete():
    of = told(rules(plateau={"trials": 2}, promotes=True), [1.0])
    told(of, [2.0, 2.0, 2.0], state="pruned", first=1)
    assert of.words() == ["0 of 2 trials without improvement"]
    of.take(1, 1, "complete", (3.0,))
    of.take(2, 1, "complete", (0.5,))
    assert of.words() == ["0 of 2 trials without improvement"]
    of.take(3, 1, "complete", (0.6,))
    of.take(3, 0, "pruned", None)  # heard late
    assert of.words() == ["1 of 2 trials without improvement"]


@pytest.mark.parametrize(("direction", "values"), [("maximize", [0.5, 0.96, 0.97]), ("minimize", [2.0, 0.98, 0.97])])
def test_a_target_is_reached_in_the_objectives_direction_by_a_complete_trial(direction, values):
    of = told(rules(direction=direction, target=0.97), values[:2])
    of.take(7, 0, "pruned", of.losses(values[2], None))
    assert met(of) is None
    told(of, values[2:], first=4)
    assert of.met() == Met("target", "target 0.97 reached by trial 4", 4)


def test_with_several_objectives_one_trial_must_reach_all_that_are_named():
    several = [Objective(name=n, direction=d) for n, d in (("a", "maximize"), ("b", "minimize"), ("c", "minimize"))]
    of = rules(objectives=several, target={"a": 0.9, "b": 10.0})
    for number, values in enumerate([[0.95, 11.0, 0.0], [0.85, 9.0, 0.0], [None, 9.0, 0.0]]):
        of.take(number, 0, "complete", of.losses(values[0], values))
    assert met(of) is None
    of.take(3, 0, "complete", of.losses(0.9, [0.9, 10.0, math.inf]))
    assert of.met() == Met("target", "targets a 0.9, b 10 reached by trial 3", 3)


def bounded(bound, incumbent=2.0, num_trials=20, length=None):
    return RegretBounded(bound=bound, incumbent=incumbent, num_trials=num_trials, length=length)


def test_a_regret_is_met_by_a_recorded_bound_within_the_margin_of_the_incumbent():
    of = rules(regret="1 %")
    assert of.words() == []
    of.take_bound(bounded(0.021))
    assert (met(of), of.words()) == (None, ["regret at most 1.05 % (stops at 1 %)"])
    of.take_bound(bounded(0.02, num_trials=22))
    of.take_bound(bounded(0.5, num_trials=21))  # heard late
    assert of.met() == Met("regret", "regret at most 1 %, within 1 % (regret)")
    absolute = rules(regret={"absolute": 0.5})
    absolute.take_bound(bounded(0.4, incumbent=0.0))
    assert absolute.met().reason == "regret at most 0.4, within 0.5 (regret)"


def test_what_is_recorded_stands_until_the_rule_changes():
    first = told(rules(plateau={"trials": 2}, target=-5.0), [1.0, 2.0, 2.0])
    event = first.event(first.met())
    assert (event.rule, event.num_trials) == ("plateau", 3)
    event = StopRuleMet.model_validate(event.to_line())
    for stop, stands in (
        ({"plateau": {"trials": 2}, "running": "stop"}, True),
        ({"plateau": {"trials": 2, "tolerance": "1 %"}}, False),
        ({"plateau": {"trials": 3}}, False),
        ({"target": -5.0}, False),
    ):
        later = told(rules(**stop), [1.0, 2.0, 2.0, 0.2])  # a trial that was running has improved the incumbent
        later.take_met(event)
        assert later.is_recorded == stands
        assert met(later) == ("plateau" if stands else None)


def start(**changes):
    """What differs from the study's definition when it starts."""
    return changes


def change(**changes):
    """The same when it is changed while it is searched."""
    return [changes]


def trial(number, value, attempt=0, state="complete"):
    started = {"number": number, "attempt": attempt, "island": 0, "worker": 0, "seed": 0, "hyperparameters": {}}
    ended = {"number": number, "attempt": attempt, "state": state, "objective": value}
    return [journals.event("trial_started", started | {"configuration": {}}), journals.event("trial_ended", ended)]


def of_study(definition, changes):
    """The event that the study starts, or changes, with another definition."""
    if isinstance(changes, dict):
        return StudyStarted(definition=definition | changes)
    (changes,) = changes
    return StudyChanged(number=1, requested=0.0, settings=[], first_trial=0, definition=definition | changes)


def recorded(*events, **stop):
    """The rules after these events, by the two ways in which they are read."""
    of, followed = rules(**stop), rules(**stop)
    definition = {"trials": 9, "seconds": None, "busy_seconds": None, "stop": of.stop.model_dump(mode="json")}
    events = [event if isinstance(event, Event) else of_study(definition, event) for event in events]
    follower = Follower(followed)
    for event in events:
        follower.take(event)
    of.take_past(resume.read(events), events)
    assert (of.met(), of.words()) == (followed.met(), followed.words())
    return of


LARGER = [{"trials": 10}, {"trials": None}, {"seconds": 5.0, "trials": 10}]
NOT_LARGER = [{}, {"seconds": 5.0}, {"busy_seconds": 1.0}]


@pytest.mark.parametrize("by", [start, change])
@pytest.mark.parametrize("budget", [*LARGER, *NOT_LARGER])
def test_with_a_larger_budget_only_new_results_count(budget, by):
    is_larger = budget in LARGER
    before = [start(), *trial(0, 3.0), *trial(1, 1.0), *trial(2, 2.0)]
    for stop in ({"target": 1.0}, {"plateau": {"trials": 1}}):
        met_before = recorded(*before, **stop)
        event = met_before.event(met_before.met())
        for lines in (before, [*before, event]):
            assert (met(recorded(*lines, by(**budget), **stop)) is None) == is_larger
            again = recorded(*lines, by(**budget), *trial(3, 1.0), by(**budget), **stop)
            assert met(again) == next(iter(stop))
        assert recorded(*before, event, by(**budget), **stop).is_recorded != is_larger
    counted = recorded(*before, by(**budget), *trial(3, 1.0), plateau={"trials": 3})
    assert counted.words() == [f"{1 if is_larger else 2} of 3 trials without improvement"]


def test_a_rule_that_changes_together_with_the_budget_counts_all_results():
    for others in (None, {"target": 2.0}, {"target": 1.0, "running": "stop", "plateau": {"trials": 7}}):
        lines = [start(stop=others), *trial(0, 1.0), start(trials=10)]
        assert (met(recorded(*lines, target=1.0)) is None) == ((others or {}).get("target") == 1.0)
    lines = [start(), *trial(0, 1.0), start(trials=10, stop={"target": 0.5}), start(trials=10)]
    assert met(recorded(*lines, target=1.0)) == "target"


def test_an_interrupted_or_paused_trial_counts_with_a_larger_budget_once_it_is_complete():
    for state in ("pruned", "lost"):
        lines = [start(), *trial(0, None, state=state), *trial(1, 0.0), start(trials=10)]
        assert met(recorded(*lines, target=0.0)) is None
        assert recorded(*lines, *trial(0, 0.0, attempt=1), target=0.0).met().trial == 0


def test_a_larger_budget_asks_for_another_bound():
    lines = [start(), *(line for n in range(3) for line in trial(n, 2.0)), bounded(0.01, num_trials=3)]
    assert recorded(*lines, regret="1 %").num_bounded == 3
    assert met(recorded(*lines, start(), regret="1 %")) == "regret"
    later = recorded(*lines, start(trials=10), regret="1 %")
    assert (met(later), later.num_bounded) == (None, 3)  # the next one is due after a tenth more than those
    assert met(recorded(*lines, start(trials=10), bounded(0.01, num_trials=4), regret="1 %")) == "regret"


def test_a_bound_that_cannot_be_computed_meets_no_rule():
    of = rules(regret="1 %")
    of.take_bound(RegretBounded.model_validate(bounded(None).to_line()))
    assert (met(of), of.words()) == (None, ["regret unknown, as the bound cannot be computed (stops at 1 %)"])


def test_only_results_of_the_studys_present_length_count():
    of = rules(("epochs", 5), regret="50 %", plateau={"trials": 1})
    of.take_bound(bounded(0.0))
    of.take_bound(bounded(0.0, length=["epochs", 4]))
    of.take_met(StopRuleMet(rule="regret", settings=of.settings("regret"), length=["epochs", 4], reason="shorter"))
    assert met(of) is None
    assert (of.compares(5, None), of.compares(4, None), of.compares(None, 5)) == (True, False, False)
    assert rules(target=1).compares(None, None)


def test_the_reason_tells_how_many_trials_of_the_budget_there_were():
    assert ended_because(Met("target", "target 1 reached by trial 3"), 5, 20) == (
        "target 1 reached by trial 3 after 5 of 20 trials"
    )
    assert ended_because(Met("plateau", "x"), 5, None) == "x after 5 trials"


def test_a_study_of_its_file_has_the_rules_of_its_plan():
    row = {
        "metric": "accuracy", "direction": "maximize", "objectives": None, "length": ["epochs", 3],
        "definition": {"stop": {"target": 0.5}, "pruning": None},
    }  # fmt: skip
    of = StopRules.of_row(row)
    told(of, [0.4, 0.5])
    assert (met(of), of.length, of.incumbent) == ("target", ["epochs", 3], 0.5)
    assert StopRules.of_row(row | {"definition": {}}) is None
