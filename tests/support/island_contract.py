"""The exchange of individuals and tickets, on threads and over MPI: every rank is the root of a worker."""

from __future__ import annotations

import random

from optuna.distributions import FloatDistribution
from ranks import on_layouts

from atoll.communication.mailbox import Mailbox
from atoll.communication.world import World
from atoll.platform.search import propagators, tickets
from atoll.platform.search.island import IMMIGRANTS, NEWS, Island
from atoll.platform.search.population import Individual, Population, Renewal
from atoll.platform.search.proposals import Proposer
from atoll.platform.search.pruning import RUNG
from atoll.platform.search.search_loop import FAILED
from atoll.platform.search.tickets import GivenTickets, Ticket, TicketOffice
from atoll.platform.study.migration import Migration
from atoll.platform.study.samplers import Evolution
from atoll.searchspaces.space import Parameter, SearchSpace


def index_of(rank: int, sizes: list[int]) -> int:
    """The island of a rank."""
    return next(i for i in range(len(sizes)) if rank < sum(sizes[: i + 1]))


def make(world: World, sizes, *, dimension=2, founders=(), migration=None, **options) -> tuple[Island, Mailbox]:
    """This rank's island, and the mailbox between all roots."""
    index, roots = index_of(world.rank, sizes), world.mailbox()
    workers = world.split(index).mailbox()
    names = [f"x{i}" for i in range(dimension)]
    space = SearchSpace(tuple(Parameter(name=n, distribution=FloatDistribution(0, 1), default=0.5) for n in names))
    population = Population(4)
    propagator = propagators.make(Evolution(), space, population, seed=world.rank)
    for founder in founders:
        population.admit(founder)
    island = Island(
        population=population,
        proposer=Proposer(propagator, space, space.violated, world.rank),
        migration=migration or Migration(probability=1.0),
        island_sizes=sizes,
        index=index,
        workers=workers,
        roots=roots,
        seed=world.rank,
        **options,
    )
    return island, roots


def individual(number, loss, *, dimension=2, home=0, island=0, **fields):
    return Individual(number, (0.5,) * dimension, (loss,), island, home, **fields)


def meet(world: World, island: Island, roots: Mailbox) -> None:
    """Let everything that is under way arrive."""
    for _ in range(3):
        while not (island.all_sent() and roots.all_sent()):
            island.receive()
        world.meet(island.receive)
        island.receive()


@on_layouts((0, 0), (0, 0, 0, 0))
def check_large_individuals_do_not_deadlock_or_block_a_fast_worker(world):
    """Propulate's trap 1: equal workers deadlock above the eager limit; a fast one freezes while its peer evaluates."""
    island, roots = make(world, [world.size], dimension=2000)
    for number in range(40):
        island.add(individual(1000 * world.rank + number, random.random(), dimension=2000, home=world.rank))
        if world.rank == 0:
            island.receive()
    meet(world, island, roots)
    assert len(island.population) == 40 * world.size


@on_layouts((0, 0), (0, 0, 0, 0))
def check_migration_moves_and_pollination_copies(world):
    for pollination in (False, True):
        emigrated = []
        sizes = [world.size // 2, world.size - world.size // 2]
        island, roots = make(
            world,
            sizes,
            migration=Migration(probability=1.0, pollination=pollination),
            on_emigration=lambda number, target, steps, log=emigrated: log.append((number, target)),
        )
        mine = index_of(world.rank, sizes)
        for number in range(10):
            island.add(individual(1000 * world.rank + number, random.random(), home=island.rank, island=mine))
            island.receive()
            island.migrate()
        meet(world, island, roots)
        assert emigrated
        assert {target for _, target in emigrated} == {1 - mine}
        here = sorted(i.number for i in island.population)
        everywhere = world.allgather((mine, here))
        by_island = {index: [numbers for i, numbers in everywhere if i == index] for index in (0, 1)}
        assert all(numbers == group[0] for group in by_island.values() for numbers in group)  # its workers agree
        known = by_island[0][0] + by_island[1][0]
        if not pollination:
            everyone = [1000 * rank + n for rank in range(world.size) for n in range(10)]
            assert sorted(known) == everyone  # none lost or doubled
        else:
            moved = {number for moves in world.allgather(emigrated) for number, _ in moves}
            assert len(known) == 10 * world.size + len(moved)  # everywhere once


@on_layouts((0, 0), (0, 0, 0, 0))
def check_the_result_of_a_continued_trial_is_replaced_wherever_it_is(world):
    """Any worker may continue a trial; its individual may be travelling meanwhile, or arrive after the news."""
    for pollination in (False, True):
        sizes = [world.size // 2, world.size - world.size // 2]
        island, roots = make(world, sizes, migration=Migration(probability=1.0, pollination=pollination))
        mine, other = index_of(world.rank, sizes), (world.rank + 1) % world.size
        for number in range(10):
            known = individual(1000 * world.rank + number, 1.0 + random.random(), home=island.rank, island=mine)
            island.add(known)
            island.migrate()
            losses = None if number == 7 else (random.random(),)
            island.renew(Renewal(1000 * other + number, 1, losses))
            if number % 3 == 0:
                island.receive()
        meet(world, island, roots)
        everywhere = world.allgather((mine, sorted((i.number, i.losses, i.attempt) for i in island.population)))
        assert all(attempt == 1 and losses[0] < 1.0 for _, here in everywhere for _, losses, attempt in here)
        numbers = {number for _, here in everywhere for number, *_ in here}
        assert numbers == {1000 * rank + n for rank in range(world.size) for n in range(10) if n != 7}
        assert len({(number, losses) for _, here in everywhere for number, losses, _ in here}) == len(numbers)
        assert all(here == next(others for i, others in everywhere if i == index) for index, here in everywhere)


@on_layouts((0,) * 3, (0,) * 6)
def check_no_island_is_sent_an_individual_twice(world):
    """In a full graph of islands of one worker copies of copies would meet copies."""
    everything, _ = travel(world, pollination=True)
    assert len(everything) > 10 * world.size
    assert len({(number, target) for number, target, _ in everything}) == len(everything)
    assert all(number // 1000 != target for number, target, _ in everything)  # nor the island that bred it


@on_layouts((0,) * 3, (0,) * 6)
def check_who_moves_may_return(world):
    everything, here = travel(world, pollination=False)
    assert any(number // 1000 == target for number, target, _ in everything)
    moves = {}
    for number, _, steps in everything:
        moves.setdefault(number, []).append(steps)
    assert all(sorted(steps) == list(range(len(steps))) for steps in moves.values())
    every = sorted(number for numbers in world.allgather(here) for number in numbers)
    assert every == [1000 * rank + number for rank in range(world.size) for number in range(10)]


def travel(world: World, *, pollination: bool) -> tuple[list[tuple[int, int, int]], list[int]]:
    """What has been sent between islands of one worker (trial, target, migrations before), and what is here."""
    sent: list[tuple[int, int, int]] = []
    island, roots = make(
        world,
        [1] * world.size,
        migration=Migration(probability=1.0, pollination=pollination),
        on_emigration=lambda *move: sent.append(move),
    )
    for number in range(10):
        island.add(individual(1000 * world.rank + number, random.random(), island=world.rank))
        island.migrate()
        meet(world, island, roots)
    here = [i.number for i in island.population]
    assert len(here) == len(set(here))
    return [move for moves in world.allgather(sent) for move in moves], here


@on_layouts((0, 0))
def check_founders_migrate_the_best_first(world):
    for pollination in (False, True):
        emigrated = []
        island, roots = make(
            world,
            [1, 1],
            founders=[individual(n, float(n), island=world.rank) for n in range(6)],
            migration=Migration(probability=1.0, pollination=pollination),
            on_emigration=lambda number, target, steps, log=emigrated: log.append(number),
        )
        for _ in range(3):
            island.migrate()
        meet(world, island, roots)
        assert emigrated == [0, 1, 2]


@on_layouts((0,), (0, 0), (0, 0, 0, 0))
def check_every_ticket_is_given_once_at_any_speed(world):
    mailbox = world.mailbox()
    office = TicketOffice(mailbox, GivenTickets(Ticket(number) for number in range(101)), is_open=lambda: True)
    rng, taken = random.Random(world.rank), []

    def wait(condition):
        while not condition():
            office.serve()

    while (ticket := office.take(wait)) is not None:
        taken.append(ticket.number)
        office.ask()
        for _ in range(rng.choice([0, 0, 10, 1000])):  # a long trial serves, too
            office.serve()
    wait(world.start_barrier())
    everything = sorted(number for numbers in world.allgather(taken) for number in numbers)
    assert everything == list(range(101))


@on_layouts((0,))
def check_tags(world):
    assert len({tickets.TO_OWNER, tickets.GIVE, tickets.RECALL, NEWS, IMMIGRANTS, RUNG, FAILED}) == 7
