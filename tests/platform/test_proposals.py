"""What a worker evaluates next: refusals, failures, and proposals that are prepared."""

import threading
import time

import pytest
from optuna.distributions import IntDistribution

from atoll.platform.propagators.propagator import Propagator, Proposal
from atoll.platform.proposals import Proposer, key
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace((Parameter(name="x", distribution=IntDistribution(0, 9), default=0),))


class Counting(Propagator):
    """Proposes number + attempt, and remembers what it heard."""

    is_slow = True

    def __init__(self, seconds=0.0):
        self.heard, self.threads, self.seconds = [], [], seconds

    def propose(self, number, attempt=0):
        self.threads.append(threading.current_thread().name)
        time.sleep(self.seconds)
        self.heard.append(("asked", number, attempt))
        return Proposal(SPACE.encode({"x": (number + attempt) % 10}), "counting")

    def started(self, number, genes, attributes):
        self.heard.append(("started", number))

    def dropped(self, number):
        self.heard.append(("dropped", number))


def proposer(refuses=lambda hyperparameters: None, **options):
    propagator = Counting(**options)
    return propagator, Proposer(propagator, SPACE, refuses, seed=1)


def test_what_is_refused_is_told_and_another_one_is_asked_for():
    propagator, made = proposer(lambda h: "odd" if h["x"] % 2 else None)
    candidate = made.take(3)
    assert candidate.hyperparameters == {"x": 4}
    assert candidate.refused == (({"x": 3}, "odd"),)
    assert propagator.heard == [("asked", 3, 0), ("dropped", 3), ("asked", 3, 1)]


def test_a_failed_configuration_is_not_proposed_again():
    _, made = proposer()
    made.failures.add(key({"x": 3}))
    assert made.take(3).hyperparameters == {"x": 4}


def test_a_sampler_that_is_refused_again_and_again_is_replaced_by_chance():
    propagator, made = proposer(lambda h: None if h["x"] == 7 else "not 7")
    propagator.propose = lambda number, attempt=0: Proposal(SPACE.encode({"x": 1}), "stubborn")
    candidate = made.take(3)
    assert (candidate.hyperparameters, candidate.proposal.operator) == ({"x": 7}, "random")
    assert len(candidate.refused) == Proposer.NUM_PROPOSALS
    assert made.take(3).hyperparameters == {"x": 7}
    with pytest.raises(ValueError, match="random configurations all were refused; the last one: never"):
        proposer(lambda h: "never")[1].take(0)


def test_a_prepared_candidate_is_made_in_a_thread_and_what_happens_meanwhile_is_heard_afterwards():
    propagator, made = proposer(seconds=0.2)
    made.prepare(5)
    made.started(4, {}, {})
    assert made.newly_ready() is None
    assert propagator.heard == []
    candidate = made.take(5)
    assert candidate.hyperparameters == {"x": 5}
    assert candidate.waited > 0.1
    assert propagator.heard == [("asked", 5, 0), ("started", 4)]
    assert propagator.threads == ["sampler"]


def test_a_prepared_candidate_is_announced_once():
    _, made = proposer()
    made.prepare(5)
    deadline = time.monotonic() + 10
    while (found := made.newly_ready()) is None:
        assert time.monotonic() < deadline
    assert found.hyperparameters == {"x": 5}
    assert made.newly_ready() is None
    assert made.ready() is found


def test_a_candidate_that_is_given_up_or_not_wanted_is_dropped():
    propagator, made = proposer()
    made.prepare(5)
    made.give_up()
    made.prepare(6)
    assert made.take(7).hyperparameters == {"x": 7}
    assert [h for h in propagator.heard if h[0] == "dropped"] == [("dropped", 5), ("dropped", 6)]


def test_an_error_in_the_thread_comes_out_where_the_candidate_is_wanted():
    propagator, made = proposer()

    def broken(number, attempt=0):
        raise ZeroDivisionError("broken")

    propagator.propose = broken
    made.prepare(5)
    with pytest.raises(ZeroDivisionError, match="broken"):
        made.take(5)
