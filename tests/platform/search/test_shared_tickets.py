"""The tickets of several launchers: each given once, and those of a closed launch again."""

import random

import pytest

from atoll.platform.search.shared_tickets import LaunchClosed, SharedTickets, TicketLog, budget, closed, joined, opened
from atoll.platform.search.tickets import Ticket

BEGUN = Ticket(5, 1, {"x": 0.5}, {"genes": {"x": 0.5}})


class Launchers:
    """Launchers with one log."""

    def __init__(self, path, num_trials, queued=(), started=()):
        self.log = TicketLog(path)
        self.log.create()
        self.write(opened(num_trials, queued, started))

    @property
    def book(self):
        return self.log.read()

    def write(self, line):
        with self.log.turn():
            self.log.read()
            assert self.log.append(line)

    def join(self, launch, workers=(1,), num_ranks=1):
        member = self.book.place(launch, launch, workers, num_ranks)
        self.write(joined(member))
        return member, SharedTickets(TicketLog(self.log.path), launch)


@pytest.fixture
def launchers(tmp_path):
    return lambda *args, **kwargs: Launchers(tmp_path / "log", *args, **kwargs)


def test_what_has_begun_comes_first_and_started_numbers_do_not_come_again(launchers):
    some = launchers(7, queued=[BEGUN], started=[0, 1, 3, 5])
    _, tickets = some.join(1)
    assert tickets.take(2) == [BEGUN, Ticket(2)]
    assert [ticket.number for ticket in tickets.take(9)] == [4, 6]
    assert tickets.take(1) == []


def test_without_a_budget_of_trials_there_are_always_more(launchers):
    _, tickets = launchers(None, started=[1]).join(1)
    assert [ticket.number for ticket in tickets.take(4)] == [0, 2, 3, 4]


@pytest.mark.parametrize("seed", range(10))
def test_each_ticket_is_given_once_whoever_asks(launchers, seed):
    rng, some = random.Random(seed), launchers(40)
    members = [some.join(launch)[1] for launch in (1, 2, 3)]
    given = [t.number for _ in range(60) for t in rng.choice(members).take(rng.randint(1, 3))]
    assert sorted(given) == list(range(40))


def test_a_closed_launch_gets_no_tickets_and_what_it_had_is_given_again(launchers):
    some = launchers(4)
    (_, dead), (_, alive) = some.join(1), some.join(2)
    held = dead.take(2)
    alive.take(1)
    again = Ticket(held[0].number, 1, {"x": 1.0})
    some.write(closed([1], [again, held[1]]))
    with pytest.raises(LaunchClosed, match="launch 1 was taken for dead by another launcher"):
        dead.take(1)
    assert alive.take(4) == [again, held[1], Ticket(3)]
    assert set(some.book.members) == {2}


def test_new_tickets_are_filled_in(tmp_path, launchers):
    some = launchers(2, queued=[BEGUN])
    some.join(1)
    filled = SharedTickets(
        TicketLog(tmp_path / "log"), 1, lambda ticket: Ticket(ticket.number, hyperparameters={"x": 1})
    )
    assert [ticket.hyperparameters for ticket in filled.take(2)] == [{"x": 1}, {"x": 1}]


def test_ranks_and_workers_get_the_lowest_free_numbers(launchers):
    some = launchers(9)
    places = [
        some.join(launch, workers, ranks)[0]
        for launch, workers, ranks in ((1, (1, 1), 4), (2, (0, 2), 4), (3, (1, 0), 2))
    ]
    assert [(m.first_rank, m.first_worker) for m in places] == [(0, 0), (4, 2), (8, 4)]
    assert some.book.island_sizes() == (2, 3)
    some.write(closed([1], []))
    assert some.book.place(4, 4, (1, 0), 2).first_rank == 0
    member = some.book.place(4, 4, (2, 1), 6)  # too large for the gap
    assert (member.first_rank, member.first_worker) == (10, 5)


@pytest.fixture
def clock(monkeypatch):
    """The time, which passes as the test says."""
    now = [1000.0]
    monkeypatch.setattr("atoll.platform.search.shared_tickets.time.monotonic", lambda: now[0])
    return now


def turns(clock, monkeypatch, launchers, *, turn, trial):
    """The numbers of tickets that a launch takes at its turns, if each turn and each trial takes so many seconds."""
    some = launchers(400)
    _, tickets = some.join(1)
    sizes = []

    def claim(count, claims=tickets._claim):
        clock[0] += turn
        taken = claims(count)
        sizes.append(len(taken))
        return taken

    monkeypatch.setattr(tickets, "_claim", claim)
    for _ in range(200):
        tickets.take(1)
        clock[0] += trial
    return sizes


def test_slow_turns_take_more_tickets_but_no_more_than_start_in_a_moment(clock, monkeypatch, launchers):
    sizes = turns(clock, monkeypatch, launchers, turn=0.01, trial=0.005)
    assert sizes[:5] == [1, 1, 2, 4, 8]
    assert max(sizes) * 0.005 <= SharedTickets.MOMENT


@pytest.mark.parametrize(("turn", "trial"), [(0.0002, 0.05), (0.1, 60.0), (0.01, 0.5)])
def test_otherwise_a_turn_takes_one(clock, monkeypatch, launchers, turn, trial):
    assert set(turns(clock, monkeypatch, launchers, turn=turn, trial=trial)) == {1}


def test_a_launch_that_claims_while_it_is_closed_loses_nothing(tmp_path, launchers):
    some = launchers(3)
    _, tickets = some.join(1)
    other, asked = TicketLog(tmp_path / "log"), []

    def unfinished():
        asked.append(sorted(other.book.held[1]))
        if len(asked) == 1:  # as if the lock had been broken
            tickets.take(1)
        return [Ticket(number) for number, _ in sorted(other.book.held[1])]

    other.read()
    other.close([1], unfinished)
    assert asked == [[], [(0, 0)]]
    assert [ticket.number for ticket in other.book.queued] == [0]


def test_another_budget_has_more_tickets(launchers):
    some = launchers(2)
    _, tickets = some.join(1)
    assert [ticket.number for ticket in tickets.take(3)] == [0, 1]
    some.write(budget(4))
    assert [ticket.number for ticket in SharedTickets(TicketLog(some.log.path), 1).take(3)] == [2, 3]


def test_a_launch_that_makes_way_claims_nothing(launchers):
    some, waits = launchers(3), [False, True]
    some.join(1)
    tickets = SharedTickets(TicketLog(some.log.path), 1, may_claim=lambda: not waits[0])
    assert [ticket.number for ticket in tickets.take(1)] == [0]
    waits.reverse()
    assert tickets.take(1) == []
    assert [ticket.number for ticket in some.book.available(9)] == [1, 2]
