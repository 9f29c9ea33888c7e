"""The exchange of individuals and tickets on real ranks: every rank is the root of a worker."""

from __future__ import annotations

import random

from mpi4py import MPI
from optuna.distributions import FloatDistribution
from ranks import on_layouts

from atoll.communication.mpi_mailbox import MpiMailbox
from atoll.platform.search import propagators, tickets
from atoll.platform.search.island import IMMIGRANTS, NEWS, Island
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.proposals import Proposer
from atoll.platform.search.pruning import RUNG
from atoll.platform.search.search_loop import FAILED
from atoll.platform.search.tickets import Ticket, TicketOffice
from atoll.platform.study.migration import Migration
from atoll.platform.study.samplers import Genetic
from atoll.searchspaces.space import Parameter, SearchSpace


def make(sizes, *, dimension=2, founders=(), migration=None, **options):
    world = MPI.COMM_WORLD.Dup()
    index = next(i for i in range(len(sizes)) if world.rank < sum(sizes[: i + 1]))
    names = [f"x{i}" for i in range(dimension)]
    space = SearchSpace(tuple(Parameter(name=n, distribution=FloatDistribution(0, 1), default=0.5) for n in names))
    population = Population(4)
    propagator = propagators.make(Genetic(), space, population, seed=world.rank)
    for founder in founders:
        population.admit(founder)
    return Island(
        population=population,
        proposer=Proposer(propagator, space, space.violated, world.rank),
        migration=migration or Migration(probability=1.0),
        island_sizes=sizes,
        index=index,
        workers=MpiMailbox(world.Split(index, world.rank)),
        roots=MpiMailbox(world),
        seed=world.rank,
        **options,
    )


def individual(number, loss, *, dimension=2, home=0, island=0, **fields):
    return Individual(number, (0.5,) * dimension, (loss,), island, home, **fields)


def meet(island):
    """Let everything that is under way arrive."""
    for _ in range(3):
        while not (island.all_sent() and island._roots.all_sent()):
            island.receive()
        barrier = MPI.COMM_WORLD.Ibarrier()
        while not barrier.Test():
            island.receive()
        island.receive()


@on_layouts((0, 0), (0, 0, 0, 0))
def check_large_individuals_do_not_deadlock_or_block_a_fast_worker(_):
    """Propulate's trap 1: equal workers deadlock above the eager limit; a fast one freezes while its peer evaluates."""
    rank = MPI.COMM_WORLD.rank
    island = make([MPI.COMM_WORLD.size], dimension=2000)
    for number in range(40):
        island.add(individual(1000 * rank + number, random.random(), dimension=2000, home=rank))
        if rank == 0:
            island.receive()
    meet(island)
    assert len(island.population) == 40 * MPI.COMM_WORLD.size


@on_layouts((0, 0), (0, 0, 0, 0))
def check_migration_moves_and_pollination_copies(_):
    size, rank = MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank
    for pollination in (False, True):
        emigrated = []
        sizes = [size // 2, size - size // 2]
        island = make(
            sizes,
            migration=Migration(probability=1.0, pollination=pollination),
            on_emigration=lambda number, target, log=emigrated: log.append((number, target)),
        )
        mine = island._index
        for number in range(10):
            island.add(individual(1000 * rank + number, random.random(), home=island.rank, island=mine))
            island.receive()
            island.migrate()
        meet(island)
        assert emigrated
        assert {target for _, target in emigrated} == {1 - mine}
        here = sorted(i.number for i in island.population)
        everywhere = MPI.COMM_WORLD.allgather((mine, here))
        by_island = {index: [numbers for i, numbers in everywhere if i == index] for index in (0, 1)}
        assert all(numbers == group[0] for group in by_island.values() for numbers in group)  # its workers agree
        known = by_island[0][0] + by_island[1][0]
        if not pollination:
            assert sorted(known) == sorted(1000 * r + n for r in range(size) for n in range(10))  # none lost or doubled
        else:
            moved = {number for moves in MPI.COMM_WORLD.allgather(emigrated) for number, _ in moves}
            assert len(known) == 10 * size + len(moved)  # everywhere once


@on_layouts((0,) * 3, (0,) * 6)
def check_no_island_is_sent_an_individual_twice(_):
    """In a full graph of islands of one worker copies of copies would meet copies."""
    size, rank = MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank
    for pollination in (False, True):
        sent = []
        island = make(
            [1] * size,
            migration=Migration(probability=1.0, pollination=pollination),
            on_emigration=lambda number, target, log=sent: log.append((number, target)),
        )
        for number in range(10):
            island.add(individual(1000 * rank + number, random.random(), island=rank))
            island.migrate()
            meet(island)
        everything = [move for moves in MPI.COMM_WORLD.allgather(sent) for move in moves]
        assert len(everything) > 10 * size
        assert len(set(everything)) == len(everything)
        assert all(number // 1000 != target for number, target in everything)  # nor the island that bred it
        here = [i.number for i in island.population]
        assert len(here) == len(set(here))


@on_layouts((0, 0))
def check_founders_migrate_the_best_first(_):
    for pollination in (False, True):
        emigrated = []
        island = make(
            [1, 1],
            founders=[individual(n, float(n), island=MPI.COMM_WORLD.rank) for n in range(6)],
            migration=Migration(probability=1.0, pollination=pollination),
            on_emigration=lambda number, target, log=emigrated: log.append(number),
        )
        for _ in range(3):
            island.migrate()
        meet(island)
        assert emigrated == [0, 1, 2]


@on_layouts((0,), (0, 0), (0, 0, 0, 0))
def check_every_ticket_is_given_once_at_any_speed(_):
    world = MPI.COMM_WORLD.Dup()
    mailbox = MpiMailbox(world)
    office = TicketOffice(mailbox, (Ticket(number) for number in range(101)), is_open=lambda: True)
    rng, taken = random.Random(world.rank), []

    def wait(condition):
        while not condition():
            office.serve()

    while (ticket := office.take(wait)) is not None:
        taken.append(ticket.number)
        office.ask()
        for _ in range(rng.choice([0, 0, 10, 1000])):  # a long trial serves, too
            office.serve()
    done = world.Ibarrier()
    wait(done.Test)
    everything = sorted(number for numbers in world.allgather(taken) for number in numbers)
    assert everything == list(range(101))


@on_layouts((0,))
def check_tags(_):
    assert len({tickets.TO_OWNER, tickets.GIVE, tickets.RECALL, NEWS, IMMIGRANTS, RUNG, FAILED}) == 7
