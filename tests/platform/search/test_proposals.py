"""What a worker evaluates next: refusals, failures, and proposals that are prepared."""

import threading
import time
from dataclasses import replace

import pytest
from optuna.distributions import IntDistribution

from atoll.platform.search.population import HeldPopulation, Individual, Population
from atoll.platform.search.propagators.propagator import Propagator, Proposal
from atoll.platform.search.proposals import Proposer, key
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


def waiting(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def proposer(refuses=lambda hyperparameters: None, **options):
    propagator = Counting(**options)
    return propagator, Proposer(propagator, SPACE, refuses, seed=1)


def test_what_is_refused_is_told_and_another_one_is_asked_for():
    propagator, made = proposer(lambda h: "odd" if h["x"] % 2 else None)
    candidate = made.take(3, waiting)
    assert candidate.hyperparameters == {"x": 4}
    assert [(refusal.hyperparameters, refusal.reason) for refusal in candidate.infeasible] == [({"x": 3}, "odd")]
    assert propagator.heard == [("asked", 3, 0), ("dropped", 3), ("asked", 3, 1)]


def test_a_failed_configuration_is_not_proposed_again():
    _, made = proposer()
    made.failures.add(key({"x": 3}))
    assert made.take(3, waiting).hyperparameters == {"x": 4}


def test_a_sampler_that_is_refused_again_and_again_is_replaced_by_chance():
    _, made = proposer(lambda h: "even" if h["x"] < 9 else "nine")
    with pytest.raises(ValueError, match="all of 10000 random configurations were infeasible; the last one: "):
        made.take(0, waiting)
    propagator, made = proposer(lambda h: None if h["x"] == 7 else "not 7")
    propagator.propose = lambda number, attempt=0: Proposal(SPACE.encode({"x": attempt % 7}), "stubborn")
    candidate = made.take(3, waiting)
    assert (candidate.hyperparameters, candidate.proposal.operator) == ({"x": 7}, "random")
    assert len(candidate.infeasible) == Proposer.NUM_PROPOSALS


def test_a_sampler_that_repeats_what_was_refused_is_not_asked_again():
    propagator, made = proposer(lambda h: None if h["x"] == 7 else "not 7")
    propagator.propose = lambda number, attempt=0: Proposal(SPACE.encode({"x": 1}), "stubborn")
    assert len(made.take(3, waiting).infeasible) == 2


def test_what_samplers_share_outlives_a_refused_proposal():
    propagator, made = proposer(lambda h: "odd" if h["x"] % 2 else None)
    asked = propagator.propose
    attributes = iter([{"study:parents": [1], "own": 1}, {"own": 2}])
    propagator.propose = lambda n, attempt=0: replace(asked(n, attempt), attributes=next(attributes))
    assert made.take(3, waiting).proposal.attributes == {"study:parents": [1], "own": 2}


def test_a_prepared_candidate_is_made_in_a_thread_and_what_happens_meanwhile_is_heard_afterwards():
    propagator, made = proposer(seconds=0.2)
    made.prepare(5)
    made.started(4, {}, {})
    assert made.ready(5) is None
    assert made.is_busy
    assert propagator.heard == []
    served = []
    candidate = made.take(5, lambda condition: waiting(lambda: served.append(1) or condition()))
    assert candidate.hyperparameters == {"x": 5}
    assert candidate.waited > 0.1
    assert len(served) > 5  # its root goes on serving others
    assert propagator.heard == [("asked", 5, 0), ("started", 4)]
    assert propagator.threads == ["sampler"]
    assert not made.is_busy


class Breeding(Counting):
    """Proposes how many individuals it sees, once it has been let go on."""

    def __init__(self, population):
        super().__init__()
        self.population, self.goes_on = population, threading.Event()

    def propose(self, number, attempt=0):
        assert self.goes_on.wait(20)
        return Proposal(SPACE.encode({"x": len(self.population) + len(self.population.best())}), "breeding")


def test_a_thread_proposes_from_what_was_known_when_it_began():
    population = Population(4)
    held = HeldPopulation(population)
    sampler = Breeding(held)
    proposer = Proposer(sampler, SPACE, lambda _: None, seed=1, hold=held.hold)
    for number in range(2):
        population.admit(Individual(number, (0.0,), (1.0,), 0, 0))
    proposer.prepare(7)
    population.admit(Individual(2, (0.0,), (0.5,), 0, 0))  # arrives meanwhile
    proposer.failed(key({"x": 4}))  # so does this failure, which would refuse the proposal
    sampler.goes_on.set()
    assert proposer.take(7, waiting).hyperparameters == {"x": 4}
    assert proposer.failures == {key({"x": 4})}
    assert proposer.take(8, waiting).hyperparameters == {"x": 6}


def test_a_candidate_that_is_given_up_is_dropped_once_it_is_there_and_nobody_waits_for_it():
    propagator, made = proposer(seconds=0.2)
    made.prepare(5)
    started = time.monotonic()
    made.give_up(5)
    assert time.monotonic() - started < 0.1
    assert made.is_busy  # still thinking
    assert made.take(7, waiting).hyperparameters == {"x": 7}
    assert [h for h in propagator.heard if h[0] == "dropped"] == [("dropped", 5)]


def test_giving_up_another_trial_leaves_what_is_prepared():
    """A ticket may be called back while its root waits for the candidate of the one before."""
    propagator, made = proposer(seconds=0.2)
    made.prepare(5)
    made.give_up(6)
    assert made.take(5, waiting).hyperparameters == {"x": 5}
    assert [h[0] for h in propagator.heard] == ["asked"]


def test_a_sampler_that_raises_is_replaced_by_chance_and_the_trial_says_so():
    propagator, made = proposer()

    def broken(number, attempt=0):
        raise ZeroDivisionError("broken")

    propagator.propose = broken
    made.prepare(5)
    candidate = made.take(5, waiting)
    assert candidate.proposal.operator == "random after ZeroDivisionError: broken"
    assert 0 <= candidate.hyperparameters["x"] <= 9


def test_an_error_in_a_proposal_that_nobody_wants_troubles_nobody():
    _, made = proposer(lambda h: "never")
    made.prepare(5)
    made.give_up(5)
    waiting(lambda: not made.is_busy)
    assert made.ready(5) is None
    made.prepare(6)
    with pytest.raises(ValueError, match="the last one: never"):
        made.take(6, waiting)
