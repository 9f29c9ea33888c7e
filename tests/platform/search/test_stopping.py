"""The roots' part in the rules of `stop`, on mailboxes inside one process."""

import journals
import pytest

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import regret, resume
from atoll.platform.search.stopping import Stopping
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage.events import RegretBounded, StopRuleMet

HYPERPARAMETERS = {"learning_rate": 0.1}


def plan(**stop):
    content = {"space": {"learning_rate": {"low": 0.01, "high": 1.0, "log": True}}, "epochs": 2, "stop": stop or None}
    return Plan.of(Study(name="s", workload="digits_mlp", method="ddp", **content))


class Roots:
    """The roots of a launch, and what root 0 records."""

    def __init__(self, size, events=(), **stop):
        self.recorded, self.plan = [], plan(**stop)
        past = resume.read(events)
        boxes = LocalMailbox.connected(size)
        self.each = [Stopping(self.plan, box, past, events, self.recorded.append) for box in boxes]

    def ended(self, root, number, accuracy, state="complete"):
        hyperparameters = self.plan.space.default()
        self.each[root].ended((number, 0), state, (-accuracy,), hyperparameters)
        self.serve()

    def serve(self):
        for _ in range(2):
            for one in self.each:
                one.serve()

    @property
    def over(self):
        return [one.is_over for one in self.each]


def trial(number, accuracy, epochs=2):
    start = {"number": number, "attempt": 0, "island": 0, "worker": 0, "seed": 0, "hyperparameters": HYPERPARAMETERS}
    started = journals.event("trial_started", start | {"configuration": {"epochs": epochs}})
    end = {"number": number, "attempt": 0, "state": "complete", "objective": accuracy}
    return [started, journals.event("trial_ended", end)]


def test_root_0_decides_once_and_all_hear_of_it():
    roots = Roots(3, target=0.9)
    roots.ended(1, 0, 0.8)
    roots.ended(0, 1, 0.95, state="pruned")
    assert (roots.over, roots.recorded) == ([False] * 3, [])
    roots.ended(2, 2, 0.9)
    roots.ended(1, 3, 0.99)  # was running
    assert roots.over == [True] * 3
    (event,) = roots.recorded
    assert isinstance(event, StopRuleMet)
    assert (event.rule, event.trial, event.settings, event.length) == ("target", 2, {"target": 0.9}, ["epochs", 2])
    assert not any(one.stops_running for one in roots.each)


def test_a_worker_waits_until_root_0_has_heard_of_its_trial():
    roots = Roots(2, target=0.9)
    first, second = roots.each
    second.ended((0, 0), "complete", (-0.95,), roots.plan.space.default())
    assert not second.may_start()
    first.serve()
    second.serve()
    assert second.may_start()
    assert second.is_over


def test_running_trials_stop_if_the_study_says_so():
    roots = Roots(2, plateau={"trials": 1}, running="stop")
    roots.ended(0, 0, 0.9)
    assert not any(one.stops_running for one in roots.each)
    roots.ended(1, 1, 0.9)
    assert all(one.stops_running for one in roots.each)


def test_a_resumed_search_decides_as_the_one_before():
    events = [*trial(0, 0.8), *trial(1, 0.91)]
    roots = Roots(2, events, target=0.9)
    assert roots.over == [True, True]
    roots.serve()
    (event,) = roots.recorded  # the search before was killed before it could
    again = Roots(2, [*events, event], target=0.9)
    again.serve()
    assert (again.over, again.recorded) == ([True, True], [])
    assert Roots(2, [*events, event], target=0.95).over == [False, False]
    assert Roots(2, [*trial(0, 0.8), *trial(1, 0.91, epochs=1)], target=0.9).over == [False, False]


def test_results_and_decisions_of_other_launchers_count():
    roots = Roots(2, target=0.9)
    (found,) = resume.read(trial(5, 0.93)).counted()
    roots.each[0].elsewhere(found)
    roots.serve()
    assert (roots.over, len(roots.recorded)) == ([True, True], 1)
    others = Roots(2, target=0.9)
    for one in others.each:
        one.met_elsewhere(roots.recorded[0])
    others.ended(1, 9, 0.99)
    assert (others.over, others.recorded) == ([True, True], [])


def test_another_launchers_decision_by_a_rule_that_is_not_the_studys_changes_nothing():
    """Also at a root that has heard of root 0's, but does not know the results."""
    roots = Roots(2, target=0.9)
    stale = StopRuleMet(rule="target", settings={"target": 0.5}, length=["epochs", 2], reason="target 0.5 reached")
    for one in roots.each:
        one.met_elsewhere(stale)
    assert roots.over == [False, False]
    roots.ended(0, 0, 0.95)
    for one in roots.each:
        one.met_elsewhere(stale)
    assert roots.over == [True, True]


def test_without_rules_nothing_is_sent():
    roots = Roots(2)
    roots.ended(1, 0, 1.0)
    roots.each[0].finish(_until)
    assert (roots.over, roots.recorded) == ([False, False], [])


def test_a_bound_is_computed_next_to_the_trainings_recorded_and_told(monkeypatch):
    monkeypatch.setattr(regret, "FEWEST", 3)
    roots = Roots(2, regret={"absolute": 1e9})
    for number in range(3):
        roots.ended(number % 2, number, 0.5 + number / 10)
    roots.each[0].finish(_until)
    roots.serve()
    assert roots.over == [True, True]
    bounded, met = roots.recorded
    assert isinstance(bounded, RegretBounded)
    assert (bounded.incumbent, bounded.num_trials, bounded.length) == (pytest.approx(0.7), 3, ["epochs", 2])
    assert met.rule == "regret"
    assert Roots(1, [*trial(0, 0.5), bounded], regret={"absolute": 1e8}).over == [bounded.bound <= 1e8]


def _until(condition):
    while not condition():
        pass
