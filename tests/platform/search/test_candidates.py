"""What each ticket evaluates: given configurations, lost ones, and proposals that are prepared ahead and noted."""

import pytest

from atoll.platform.search.candidates import Candidates, given_first
from atoll.platform.search.propagators.propagator import Proposal
from atoll.platform.search.proposals import Candidate, key, proposal_of
from atoll.platform.search.tickets import Ticket
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study


def candidate(number, operator="sampler"):
    return Candidate({"x": number}, Proposal({"x": number}, operator))


class FakeProposer:
    """A slow sampler whose thread ends when the test says so."""

    is_slow = True

    def __init__(self):
        self.number, self.is_ready, self.failures = None, False, set()
        self.failed = self.failures.add

    @property
    def is_busy(self):
        return self.number is not None

    def is_made(self):
        return self.is_ready

    def prepare(self, number):
        self.number = number

    def ready(self, number):
        return candidate(number) if self.is_ready and self.number == number else None

    def take(self, number, wait):
        self.number = None
        return candidate(number)

    def settle(self, hyperparameters, operator, content=None):
        if content:
            return Candidate(hyperparameters, proposal_of(content))
        return Candidate(hyperparameters, Proposal(dict(hyperparameters), operator))

    def give_up(self, number):
        self.number = None


class FakeJournal:
    def __init__(self):
        self.lines = []

    def prepared(self, number, hyperparameters, proposal):
        self.lines.append(("prepared", number, hyperparameters))

    def infeasible(self, number, candidate):
        self.lines.append(("refused", number))


def nothing():
    pass


@pytest.fixture
def parts():
    proposer, journal = FakeProposer(), FakeJournal()
    return Candidates(proposer, journal, [({"x": -1}, "default")]), proposer, journal


def take(candidates, ticket):
    return candidates.of(ticket, lambda condition: None)


def test_a_given_configuration_says_where_it_comes_from_and_a_lost_one_is_retried(parts):
    candidates, _, _ = parts
    assert take(candidates, Ticket(0, 0, {"x": -1})).proposal.operator == "default"
    assert take(candidates, Ticket(7, 1, {"x": 7})).proposal.operator == "retry"


def test_what_another_worker_has_prepared_keeps_its_proposal(parts):
    candidates, _, _ = parts
    proposal = candidate(5, "bred").as_dict()
    assert take(candidates, Ticket(5, 0, {"x": 5}, proposal)).proposal.operator == "bred"


def test_a_ticket_from_a_damaged_line_gets_a_new_proposal(parts):
    candidates, proposer, _ = parts

    def outside(hyperparameters, operator, content):
        raise ValueError("x must be 0 to 1; got {}")

    proposer.settle = outside
    assert take(candidates, Ticket(3, hyperparameters={"x": {}})) == candidate(3)


def test_a_slow_sampler_thinks_ahead_and_what_it_has_found_is_noted_once(parts):
    candidates, proposer, journal = parts
    received = []
    for _ in range(2):
        candidates.prepare(Ticket(3), lambda: received.append(None))
    assert (proposer.number, len(received), journal.lines) == (3, 1, [])
    proposer.is_ready = True
    for _ in range(2):
        candidates.prepare(Ticket(3), nothing)
    assert journal.lines == [("refused", 3), ("prepared", 3, {"x": 3})]
    assert take(candidates, Ticket(3)).hyperparameters == {"x": 3}
    assert len(journal.lines) == 2  # refusals are noted already


def test_nothing_is_prepared_for_a_quick_sampler_or_what_is_given(parts):
    candidates, proposer, _ = parts
    candidates.prepare(None, nothing)
    candidates.prepare(Ticket(3, 0, {"x": 3}), nothing)
    proposer.is_slow = False
    candidates.prepare(Ticket(3), nothing)
    assert proposer.number is None


def test_a_ticket_goes_back_with_what_was_proposed_for_it(parts):
    candidates, proposer, journal = parts
    candidates.prepare(Ticket(3), nothing)
    proposer.is_ready = True
    returned = candidates.give_back(Ticket(3))
    assert (returned.number, returned.hyperparameters, returned.proposal["operator"]) == (3, {"x": 3}, "sampler")
    assert proposer.number is None
    assert ("prepared", 3, {"x": 3}) in journal.lines
    assert candidates.give_back(Ticket(4)) == Ticket(4)


def test_what_is_being_prepared_at_the_end_is_kept_for_a_resume(parts):
    candidates, proposer, journal = parts
    candidates.prepare(Ticket(3), nothing)
    waited = []

    def wait(condition):
        assert not condition()
        proposer.is_ready = True
        waited.append(condition())

    candidates.keep(wait)
    assert waited == [True]
    assert ("prepared", 3, {"x": 3}) in journal.lines


def test_a_failed_configuration_is_told_to_the_proposer(parts):
    candidates, proposer, _ = parts
    candidates.failed(key({"x": 3}))
    assert proposer.failures == {key({"x": 3})}


@pytest.mark.parametrize(("default_first", "operators"), [(True, ["default", "warm_start"]), (False, ["warm_start"])])
def test_the_default_comes_before_a_warm_start(default_first, operators):
    plan = Plan.of(Study(name="s", workload="digits_mlp", method="ddp", default_first=default_first))
    assert [operator for _, operator in given_first(plan, [{"momentum": 0.5}])] == operators


def test_a_confirmation_is_given_its_configurations_for_each_seed():
    default = Plan.of(Study(name="s", workload="digits_mlp", method="ddp")).space.default()
    confirm = {"configurations": [default, default | {"momentum": 0.5}], "seeds": 2}
    plan = Plan.of(Study(name="s", workload="digits_mlp", method="ddp", confirm=confirm))
    assert [(h["momentum"], operator) for h, operator in given_first(plan, [])] == [
        (default["momentum"], "confirm"),
        (0.5, "confirm"),
    ] * 2
