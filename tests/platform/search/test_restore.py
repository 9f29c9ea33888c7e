"""What a resumed root tells its island's population, sampler and pruner."""

from dataclasses import replace

import journals
import pytest

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import propagators, resume
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.proposals import Proposer, key
from atoll.platform.search.restore import earlier_candidate, pruner_of, restore
from atoll.platform.search.scoring import Scoring
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage import launches
from atoll.storage.events import StudyChanged
from atoll.storage.journal import JournalWriter


class FakeProposer:
    """Notes what it hears."""

    def __init__(self, shares_taken=False):
        self.shares_taken = shares_taken
        self.heard, self.failures = [], set()

    def started(self, number, genes, attributes):
        self.heard.append(("started", number))

    def taken(self, number, genes):
        self.heard.append(("taken", number))

    def dropped(self, number):
        self.heard.append(("dropped", number))

    def arrived(self, individual):
        self.heard.append(("arrived", individual.number))

    def refused(self, number, genes, attributes):
        self.heard.append(("refused", number))


@pytest.fixture
def folder(tmp_path):
    return journals.start_folder(tmp_path)


def plan(**content):
    return Plan.of(Study(**{"name": "s", "workload": "digits_mlp", "method": "ddp"} | content))


def write(folder, *states, scale=8, **hyperparameters):
    """Trials of islands 0, 1, 0, ... that ended in these states, with an objective of number / 8."""
    lines = JournalWriter(folder.root_journal(0))
    default = plan().space.default() | hyperparameters
    for number, state in enumerate(states):
        chosen = default | {"momentum": number / scale}
        journals.start_trial(lines, number, hyperparameters=chosen)
        for epoch in (1, 2):
            journals.report(lines, number, epoch)
        objective = number / 8 if state == "complete" else None
        curve = {"1": 0.5, "2": 0.25} if state == "pruned" else None
        journals.end_trial(lines, number, objective, state=state, curve=curve)
    lines.close()


def restored(folder, of=None, *, island=0, island_sizes=(1,), shares_taken=False, population=None):
    of = of or plan()
    population, proposer = Population(8) if population is None else population, FakeProposer(shares_taken)
    past = resume.read(launches.replay(folder.journals))
    scoring = Scoring(of.objectives, of.subject)
    restore(past, of, scoring, population, proposer, island=island, island_sizes=island_sizes)
    return population, proposer


def test_the_sampler_hears_of_the_trials_in_the_order_of_their_numbers(folder):
    write(folder, "complete", "failed", "complete")
    population, proposer = restored(folder)
    assert proposer.heard == [
        ("started", 0), ("arrived", 0), ("started", 1), ("dropped", 1), ("started", 2), ("arrived", 2),
    ]  # fmt: skip
    assert [individual.number for individual in population.best()] == [2, 0]
    assert [individual.losses for individual in population.best()] == [(-0.25,), (-0.0,)]


def test_a_sampler_that_repeats_nothing_hears_of_the_configurations_of_all_islands_first(folder):
    write(folder, "complete", "failed", "lost", "complete")
    _, proposer = restored(folder, plan(topology={"islands": 2}), island_sizes=(1, 1), shares_taken=True)
    assert proposer.heard[:4] == [("taken", number) for number in range(4)]
    assert "taken" not in {kind for kind, _ in proposer.heard[4:]}


def test_a_failed_configuration_stays_known_on_every_island(folder):
    write(folder, "complete", "failed")
    _, proposer = restored(folder, island=0, island_sizes=(1, 1))
    assert proposer.failures == {key(plan().space.default() | {"momentum": 1 / 8})}


def test_an_island_knows_its_own_trials(folder):
    write(folder, "complete", "complete", "complete", "complete")
    population, _ = restored(folder, island=1, island_sizes=(1, 1))
    assert sorted(individual.number for individual in population) == [1, 3]


def test_a_pruned_trial_enters_with_its_last_value_behind_the_complete_ones(folder):
    write(folder, "complete", "pruned")
    population, _ = restored(folder)
    complete, pruned = population.best()
    assert (complete.number, pruned.number) == (0, 1)
    assert (pruned.losses, pruned.is_complete) == ((-0.25,), False)


def test_what_todays_space_does_not_hold_is_left_out(folder):
    write(folder, "complete", "complete", "complete")
    population, proposer = restored(folder, plan(space={"momentum": {"low": 0.1, "high": 0.2}}))
    assert [individual.number for individual in population] == [1]
    assert proposer.heard == [("started", 1), ("arrived", 1)]


@pytest.mark.parametrize("replace", ["worst", "random"])
def test_who_breeds_is_the_same_after_a_resume(folder, replace):
    """Trial n is bred on island n % 2, and some are sent."""
    write(folder, *["complete"] * 24, scale=32)
    lines = JournalWriter(folder.root_journal(1))
    sent = (1, 5, 7, 13, 19, 23)
    for number in sent:
        lines.append(journals.event("migrated", {"number": number, "from_island": 1, "to_island": 0, "steps": 0}))
    lines.close()
    of = plan(topology={"islands": 2}, migration={"replace": replace}, seed=5)
    live = Population(24, replace=replace, island=0, seed=5)
    for number in (*range(0, 24, 2), *reversed(sent)):
        one = Individual(number, (), (-number / 8,), number % 2, 0, steps=number % 2)
        assert live.admit(one)
    population = Population(24, replace=replace, island=0, seed=5)
    restored(folder, of, island=0, island_sizes=(1, 1), population=population)
    assert [i.number for i in population.best()] == [i.number for i in live.best()]
    assert len(population.best()) < len(population) == 18


def test_an_individual_that_has_returned_is_where_it_was_bred_and_moves_on_from_there(folder):
    write(folder, "complete", "complete", "complete")
    lines = JournalWriter(folder.root_journal(1))
    for steps, (number, origin, target) in ((0, (0, 0, 1)), (1, (0, 1, 0)), (0, (2, 0, 1))):
        fields = {"number": number, "from_island": origin, "to_island": target, "steps": steps}
        lines.append(journals.event("migrated", fields))
    lines.close()
    of = plan(topology={"islands": 2}, migration={"pollination": False})
    here, proposer = restored(folder, of, island=0, island_sizes=(1, 1))
    assert [(i.number, i.steps, i.visited) for i in here] == [(0, 2, frozenset())]
    assert [number for kind, number in proposer.heard if kind == "arrived"] == [0]
    there, _ = restored(folder, of, island=1, island_sizes=(1, 1))
    assert [(i.number, i.steps) for i in there] == [(2, 1), (1, 0)]
    returned = next(iter(here))
    assert not there.admit(replace(returned, steps=1))  # news of another launcher that comes late
    assert not here.admit(replace(returned, steps=0))
    assert there.admit(replace(returned, steps=3))


@pytest.mark.parametrize("target", [0, 1])
def test_a_trial_whose_result_is_lost_with_its_host_is_taken_in_again_wherever_it_has_been(folder, target):
    """A host that dies loses the last lines of its journals, which other hosts' lines of moves may refer to."""
    write(folder, "lost", "complete")
    lines = JournalWriter(folder.root_journal(1))
    for steps, origin in enumerate((0, 1, 0)):
        fields = {"number": 0, "from_island": origin, "to_island": 1 - origin, "steps": steps}
        lines.append(journals.event("migrated", fields))
    of = plan(topology={"islands": 2}, migration={"pollination": False})
    here, _ = restored(folder, of, island=target, island_sizes=(1, 1))
    assert here.admit(Individual(0, (), (0.5,), target, 0, attempt=1))
    journals.start_trial(lines, 0, attempt=1, island=target, hyperparameters=of.space.default())
    journals.end_trial(lines, 0, 0.5, attempt=1)
    lines.close()
    views = [restored(folder, of, island=island, island_sizes=(1, 1))[0] for island in (0, 1)]
    where = [[(i.number, i.steps) for i in view if i.number == 0] for view in views]
    assert where == [[(0, 0)] if island == target else [] for island in (0, 1)]


WRONG = (None, True, 2**63, 1e999, "x", [1], {"a": {}})


def test_genes_and_values_of_wrong_types_stop_no_resume(folder):
    of = plan(sampler={"name": "optuna-tpe"})
    genes = of.space.encode(of.space.default())
    wrong = [{"genes": value} for value in WRONG] + [{"attributes": value} for value in WRONG]
    wrong += [{"genes": genes | {name: value}} for name in genes for value in WRONG]
    lines = JournalWriter(folder.root_journal(0))
    number = 0
    for proposal in (*wrong, {}):
        journals.start_trial(lines, number, hyperparameters=of.space.default(), proposal=proposal)
        journals.end_trial(lines, number, 0.5)
        number += 1
    for name in genes:
        for value in WRONG:
            journals.start_trial(lines, number, hyperparameters=of.space.default() | {name: value})
            journals.end_trial(lines, number, 0.5, objectives=[0.5, 0.5])
            number += 1
    population = Population(1000)
    propagator = propagators.make(
        of.study.samplers()[0], of.space, population, seed=0, num_objectives=1, infeasibility=of.infeasibility
    )
    proposer = Proposer(propagator, of.space, of.infeasibility, 0)
    past = resume.read(launches.replay(folder.journals))
    restore(past, of, Scoring(of.objectives, of.subject), population, proposer, island=0, island_sizes=(1,))
    assert len(wrong) in {individual.number for individual in population}


def test_a_pruner_knows_what_earlier_trials_have_reached(folder):
    write(folder, "complete", "complete")
    events = launches.replay(folder.journals)
    past, (roots,) = resume.read(events), LocalMailbox.connected(1)
    assert pruner_of(plan(), roots, events, past) is None
    assert pruner_of(plan(pruning={"rule": "asha"}), roots, events, past) is not None


def test_a_promoted_trial_that_was_lost_is_known_by_its_result_on_the_island_that_bred_it(folder):
    write(folder, "pruned", "pruned")
    lines = JournalWriter(folder.root_journal(2))
    for number, attempt, state in ((0, 1, "lost"), (1, 1, "complete")):
        hyperparameters = plan().space.default() | {"momentum": number / 8}
        journals.start_trial(lines, number, attempt, island=1 - number, home=number, hyperparameters=hyperparameters)
        journals.end_trial(lines, number, 0.9 if state == "complete" else None, attempt, state=state)
    lines.close()
    population, _ = restored(folder, island=0, island_sizes=(1, 1))
    assert [(i.number, i.losses, i.is_complete, i.attempt) for i in population] == [(0, (-0.25,), False, 0)]
    population, _ = restored(folder, island=1, island_sizes=(1, 1))
    assert [(i.number, i.losses, i.is_complete, i.attempt) for i in population] == [(1, (-0.9,), True, 1)]


def test_after_a_change_of_the_space_trials_in_it_are_told_with_new_genes_and_others_are_not(folder):
    lines, space = JournalWriter(folder.root_journal(0)), plan().space
    for number, state in enumerate(("complete", "complete", "complete", "failed")):
        chosen = space.default() | {"momentum": number / 8}
        proposal = {"genes": space.encode(chosen), "operator": "random", "attributes": {"tpe:relative_params": "{}"}}
        journals.start_trial(lines, number, hyperparameters=chosen, proposal=proposal)
        journals.end_trial(lines, number, number / 8 if state == "complete" else None)
    lines.close()
    with launches.next_launch(folder.journals) as lines:
        lines.append(
            StudyChanged(
                number=1, requested=0.0, settings=[{"setting": "space.momentum"}], first_trial=4, definition={}
            )
        )
    changed = plan(space={"momentum": {"low": 0.1, "high": 0.6}})
    population, proposer = restored(folder, changed)
    assert proposer.heard == [("arrived", 1), ("arrived", 2), ("dropped", 3)]  # which did not start them
    genes = [dict(zip(changed.space.limits(), one.genes, strict=True))["momentum"] for one in population]
    assert genes == pytest.approx([(0.25 - 0.1) / 0.5, (0.125 - 0.1) / 0.5])
    assert all(one.is_learned for one in population)
    assert all(one.attributes == {} for one in population)


def test_a_trial_of_before_a_change_is_trained_on_as_it_was(folder):
    write(folder, "complete", "lost", "complete", "lost")  # momentum 0, 1/8, 2/8, 3/8
    changed = StudyChanged(
        number=1, requested=0.0, settings=[{"setting": "space.momentum"}], first_trial=4, definition={}
    )
    past = resume.read(launches.replay(folder.journals))
    space = plan(space={"momentum": {"low": 0.2, "high": 0.6}}).space
    assert earlier_candidate(past, space, 1) is None  # nothing has changed
    past.add(changed)
    outside, inside = earlier_candidate(past, space, 1), earlier_candidate(past, space, 3)
    assert (outside.hyperparameters["momentum"], outside.is_outside, outside.proposal.genes) == (0.125, True, {})
    assert (inside.hyperparameters["momentum"], inside.is_outside) == (0.375, False)
    assert space.decode(inside.proposal.genes)["momentum"] == pytest.approx(0.375)
    assert earlier_candidate(past, space, 9) is None
