"""Promotion: pauses at rungs, and the order in which trials continue."""

import random

import pytest
from pydantic import ValidationError

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search.promotion import Ended, Pauses, Rungs
from atoll.platform.search.tickets import GivenTickets, Ticket, TicketOffice
from atoll.platform.study.judged import Judged
from atoll.platform.study.pruning import Pruning
from atoll.platform.trial.progress import Progress


def report(epoch, metric, *, last=False):
    return Progress(10 * epoch, epoch, epoch / 2, 1.0, metric, metric, 0.1, 0.0, {}, last=last)


class Reference:
    """Algorithm 2 of Li et al. (2020), as it is printed: values of the rungs, and who was promoted from each."""

    def __init__(self, factor, num_rungs):
        self.factor = factor
        self.rungs = [{} for _ in range(num_rungs)]
        self.promoted = [set() for _ in range(num_rungs)]

    def get_job(self):
        for k in reversed(range(len(self.rungs))):
            best = sorted(self.rungs[k], key=lambda number: (self.rungs[k][number], number))
            candidates = best[: len(best) // self.factor]
            if promotable := [number for number in candidates if number not in self.promoted[k]]:
                self.promoted[k].add(promotable[0])
                return promotable[0], k + 1
        return None


def simulate(seed, *, num_workers, num_trials, factor, rungs, end):
    """Trials of random values and speeds on several workers, by the offices' tickets; checked at each of them."""
    rng, reference = random.Random(seed), Reference(factor, len(rungs))
    settings = Pruning(promotion=True, factor=factor, rungs=rungs)
    shared = Rungs(factor)
    budget = (Ticket(number) for number in range(num_trials))
    boxes = LocalMailbox.connected(num_workers)
    offices = [TicketOffice(box, GivenTickets(budget), lambda: True, rungs=shared, promotes=True) for box in boxes]
    values = {}
    training, waiting, history = {}, list(range(num_workers)), []  # training: by worker, when it pauses, and its ticket
    now = 0.0

    def serve(condition):
        for _ in range(20):
            for office in offices:
                office.serve()
            if condition():
                return True
        return False

    class Waits(Exception):
        pass

    def wait(condition):
        if not serve(condition):
            raise Waits

    while True:
        for worker in list(waiting):
            try:
                ticket = offices[worker].take(wait)
            except Waits:
                continue
            waiting.remove(worker)
            expected = reference.get_job()
            if ticket is None:
                assert expected is None
                assert not training  # otherwise somebody might pause yet, and another one be promoted
                continue
            if expected is None:
                assert (ticket.attempt, ticket.reached) == (0, 0.0)
                assert ticket.number == len(values)
                values[ticket.number] = [rng.choice([1.0, 2.0, rng.random()]) for _ in rungs]
            else:
                number, to = expected
                assert (ticket.number, ticket.reached) == (number, rungs[to - 1])
            history.append((ticket.number, ticket.attempt))
            training[worker] = now + rng.lognormvariate(0, 1), ticket
        if not training:
            assert not waiting, "workers wait, and nobody trains"
            return history, reference
        worker = min(training, key=lambda w: training[w][0])
        now, ticket = training.pop(worker)
        pauses = Pauses(settings, Judged())
        pauses.start(ticket.reached)
        place = sum(rung <= ticket.reached for rung in rungs)
        if place == len(rungs):  # to the end
            assert not pauses.pauses(report(end, 0.0, last=True))
            offices[worker].ended(Ended(ticket.number, pauses.values))
        elif rng.random() < 0.1:  # it fails
            offices[worker].ended(Ended(ticket.number))
        else:
            value = values[ticket.number][place]
            assert pauses.pauses(report(int(rungs[place]), value))
            reference.rungs[place][ticket.number] = value
            again = Ticket(ticket.number, ticket.attempt + 1, reached=pauses.reached)
            offices[worker].ended(Ended(ticket.number, pauses.values, again))
        waiting.append(worker)


@pytest.mark.parametrize("seed", range(15))
def test_promotions_are_those_of_algorithm_2_and_each_is_given_out_once(seed):
    rng = random.Random(seed)
    history, reference = simulate(
        seed, num_workers=rng.choice([1, 2, 5]), num_trials=40, factor=rng.choice([2, 3]), rungs=[1, 3, 9], end=27
    )
    assert len(set(history)) == len(history)
    assert {number for number, attempt in history if attempt == 0} == set(range(40))
    assert reference.promoted[0]
    assert reference.get_job() is None  # the search ends when nobody is left to promote


def test_a_trial_pauses_at_rungs_beyond_the_one_it_was_promoted_from():
    pauses = Pauses(Pruning(promotion=True, factor=3, grace=1), Judged(-1.0))
    pauses.start(0.0)
    assert pauses.pauses(report(1, 0.5))
    assert pauses.values == [(1, -0.5)]
    pauses.start(pauses.reached)
    assert [pauses.pauses(report(epoch, 0.6)) for epoch in (1, 2, 3)] == [False, False, True]
    pauses.start(3.0)
    assert not pauses.pauses(report(9, 0.7, last=True))
    assert pauses.values == [(9, -0.7)]


def test_trials_are_ranked_by_the_objective():
    pauses = Pauses(Pruning(promotion=True, factor=3, grace=1), Judged.of("train_loss", "minimize", "f1", "maximize"))
    pauses.start(0.0)
    assert pauses.pauses(report(1, 0.5))
    assert pauses.values == [(1, 1.0)]


def test_a_report_without_evaluation_is_at_no_rung_and_one_may_pass_several():
    pauses = Pauses(Pruning(promotion=True, factor=2, grace=1), Judged())
    assert not pauses.pauses(report(2, None))
    assert pauses.pauses(report(5, 0.25))
    assert pauses.values == [(1, 0.25), (2, 0.25), (4, 0.25)]
    rungs = Rungs(2)
    for number in range(2):
        rungs.take_in(Ended(number, pauses.values, Ticket(number, 1)))
    assert rungs.promote() == Ticket(0, 1)  # at the last of them only
    assert rungs.promote() is None


def test_nothing_is_promoted_before_a_rung_has_as_many_trials_as_the_factor():
    rungs = Rungs(3)
    for number in range(2):
        rungs.take_in(Ended(number, [(1.0, 0.5)], Ticket(number, 1)))
        assert rungs.promotable() is None
    rungs.take_in(Ended(2, [(1.0, 0.4)], Ticket(2, 1)))
    assert rungs.promotable() == rungs.promote() == Ticket(2, 1)


def test_the_highest_rung_comes_first_and_in_a_rung_the_best():
    rungs = Rungs(2)
    for number, value in enumerate([0.1, 0.2, 0.3, 0.4]):
        rungs.take_in(Ended(number, [(1.0, value)], Ticket(number, 1)))
    for number, value in ((4, 0.8), (5, 0.7)):
        rungs.take_in(Ended(number, [(3.0, value)], Ticket(number, 2)))
    promoted = [rungs.promote() for _ in range(4)]
    assert promoted == [Ticket(5, 2), Ticket(0, 1), Ticket(1, 1), None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rule": "median"}, "promotion needs the rule asha"), ({"while_falling": True}, "omit one")],
)
def test_what_does_not_go_with_promotion_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Pruning(promotion=True, **settings)
