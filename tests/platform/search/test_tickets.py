"""The shared budget, on mailboxes inside one process: every ticket once, none idle while another's lies ahead."""

import itertools
import random
from types import SimpleNamespace

import pytest

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import tickets
from atoll.platform.search.tickets import GivenTickets, Ticket, TicketOffice


def offices(size, num_tickets, is_open=lambda: True, give_back=lambda ticket: ticket):
    budget = (Ticket(number) for number in range(num_tickets))
    return [TicketOffice(box, GivenTickets(budget), is_open, give_back) for box in LocalMailbox.connected(size)]


@pytest.fixture(autouse=True)
def _slow_clock(monkeypatch):
    """A second passes from look to look: nobody is so fast as to be given several tickets."""
    ticks = itertools.count()
    monkeypatch.setattr(tickets, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def serving(some):
    """What waits must do: let the others answer."""

    def wait(condition):
        for _ in range(1000):
            if condition():
                return
            for office in some:
                office.serve()
        raise AssertionError("nobody answers")

    return wait


def test_one_worker_takes_all_tickets_in_order():
    (office,) = some = offices(1, 4)
    numbers = []
    while (ticket := office.take(serving(some))) is not None:
        numbers.append(ticket.number)
        office.ask()
    assert numbers == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_at_any_speeds_every_ticket_is_given_once_and_nobody_waits_for_one_that_lies_ahead(seed):
    rng, size, num_tickets = random.Random(seed), 5, 23
    some = offices(size, num_tickets)
    wait, clock = serving(some), [0.0] * size
    taken, busy = [], dict.fromkeys(range(size), 0.0)
    while busy:
        rank = min(busy, key=busy.get)
        now = busy.pop(rank)
        for office in some:
            if rng.random() < 0.5:
                office.serve()
        ticket = some[rank].take(wait)
        if ticket is None:
            # whoever ends has looked everywhere: all that is left is in evaluation
            assert len(taken) == num_tickets
            continue
        taken.append(ticket.number)
        some[rank].ask()
        clock[rank] = now + rng.lognormvariate(0, 2)
        busy[rank] = clock[rank]
    assert sorted(taken) == list(range(num_tickets))


def test_a_ticket_that_lies_ahead_of_a_long_trial_is_called_back():
    slow, fast = some = offices(2, 3, give_back=lambda ticket: Ticket(ticket.number, hyperparameters={"x": 1}))
    wait = serving(some)
    assert slow.take(wait).number == 0
    slow.ask()
    wait(lambda: slow.prefetched is not None)
    assert slow.prefetched.number == 1
    assert fast.take(wait).number == 2
    fast.ask()
    assert fast.take(wait) == Ticket(1, hyperparameters={"x": 1})  # with what was proposed for it
    fast.ask()
    assert slow.prefetched is None
    assert slow.take(wait) is None
    assert fast.take(wait) is None


def test_the_owners_own_ticket_is_called_back_too_and_an_end_ends_all():
    is_open = [True]
    owner, other = some = offices(2, 2, lambda: is_open[0])
    wait = serving(some)
    assert owner.take(wait).number == 0
    owner.ask()
    wait(lambda: owner.prefetched is not None)
    assert other.take(wait).number == 1
    other.ask()
    is_open[0] = False
    assert other.take(wait) is None
    assert owner.take(wait) is None


def test_who_asks_again_within_milliseconds_is_given_several_and_all_are_called_back(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tickets, "time", SimpleNamespace(monotonic=lambda: now[0]))
    fast, other = some = offices(2, 30)
    wait, taken = serving(some), []
    for _ in range(4):
        taken.append(fast.take(wait).number)
        now[0] += 0.004  # five in the 20 ms for which tickets are given at once
        fast.ask()
        fast.serve()
    assert taken == [0, 1, 2, 3]
    assert fast.prefetched is not None
    ticket = other.take(wait)
    assert ticket.number > fast.prefetched.number + 1  # what lies between is the fast one's, too
    taken.append(ticket.number)
    while (ticket := other.take(wait)) is not None:
        taken.append(ticket.number)
        now[0] += 10
        other.ask()
    assert fast.prefetched is None
    assert fast.take(wait) is None
    assert sorted(taken) == list(range(30))
