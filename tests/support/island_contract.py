"""What the adapter uses of Propulate, on real ranks: every rank is the root of a worker."""

from __future__ import annotations

import random

from mpi4py import MPI
from propulate._globals import INDIVIDUAL_TAG, MIGRATION_TAG, SYNCHRONIZATION_TAG
from ranks import on_layouts

from atoll.platform.island import Founder, Island
from atoll.platform.mailbox import Mailbox
from atoll.platform.root import FAILED
from atoll.platform.study import Sampler
from atoll.platform.tickets import ASK, GIVE

LIMITS = {"x": (0.0, 1.0), "y": (0.0, 1.0), "category": (0, 7), "other": (0, 7)}


def make(sizes, **options):
    world = MPI.COMM_WORLD.Dup()
    index = next(i for i in range(len(sizes)) if world.rank < sum(sizes[: i + 1]))
    arguments = {
        "sampler": Sampler(migration=1.0),
        "population": 4,
        "limits": LIMITS,
        "island_sizes": sizes,
        "index": index,
        "workers": Mailbox(world.Split(index, world.rank)),
        "roots": Mailbox(world),
        "seed": world.rank,
    }
    return Island(**arguments | options)


def meet(island):
    """Let everything that is under way arrive."""
    for _ in range(3):
        while not island.all_sent():
            island.exchange(emigrate=False)
        barrier = MPI.COMM_WORLD.Ibarrier()
        while not barrier.Test():
            island.exchange(emigrate=False)
        island.exchange(emigrate=False)


@on_layouts((0,), (0, 0), (0, 0, 0, 0))
def check_breeding_gives_whole_individuals_inside_the_limits(_):
    island = make([MPI.COMM_WORLD.size])
    for number in range(60):
        individual = island.breed()
        assert individual.generation == number
        for name, (low, high) in LIMITS.items():
            assert low <= individual[name] <= high
            assert type(individual[name]) is type(low)
            assert individual.mapping[name] == individual[name]  # position and mapping agree (trap 3)
        island.add(individual, number, individual["x"], 0.0)
        island.exchange()
    meet(island)
    assert len(island.population()) == 60 * MPI.COMM_WORLD.size


@on_layouts((0,))
def check_selection_finds_the_optimum_of_categories(_):
    """Trap 3: with Propulate's own strings 29 of 30 runs missed it."""
    found = 0
    for seed in range(10):
        limits = dict.fromkeys("abcd", (0, 7))
        island = make([1], limits=limits, seed=seed, population=8)
        best = 4
        for number in range(600):
            individual = island.breed()
            loss = sum(individual[name] != 3 for name in "abcd")
            best = min(best, loss)
            island.add(individual, number, float(loss), 0.0)
        found += best == 0
    assert found >= 9, found


@on_layouts((0,), (0, 0))
def check_offspring_are_fresh_and_parents_unchanged(_):
    """An offspring that no operator changed is its parent's very object, and copies inherit attributes."""
    island = make([MPI.COMM_WORLD.size], limits={"category": (0, 1)}, population=2)
    added = []
    for number in range(30):
        individual = island.breed()
        assert not hasattr(individual, "number")
        assert individual.loss == float("inf")
        assert all(individual is not other for other in added)
        island.add(individual, number, 0.5, 0.0)
        added.append(individual)
    assert [individual.number for individual in added] == list(range(30))
    assert [individual.generation for individual in added] == list(range(30))
    meet(island)


@on_layouts((0, 0), (0, 0, 0, 0))
def check_large_individuals_do_not_deadlock_or_block_a_fast_worker(_):
    """Trap 1: equal workers deadlock above the eager limit; a fast one freezes while its peer evaluates."""
    limits = {f"gene{i}": (0.0, 1.0) for i in range(2000)}
    island = make([MPI.COMM_WORLD.size], limits=limits)
    for number in range(20):
        island.add(island.breed(), number, random.random(), 0.0)
        if MPI.COMM_WORLD.rank == 0:
            island.exchange()
    meet(island)
    assert len(island.population()) == 20 * MPI.COMM_WORLD.size


@on_layouts((0, 0), (0, 0, 0, 0))
def check_migration_moves_and_pollination_copies(_):
    size = MPI.COMM_WORLD.size
    for pollination in (False, True):
        emigrated = []
        island = make(
            [size // 2, size - size // 2],
            sampler=Sampler(migration=1.0, pollination=pollination),
            on_emigration=lambda number, target, log=emigrated: log.append((number, target)),
        )
        for number in range(10):
            island.add(island.breed(), 1000 * MPI.COMM_WORLD.rank + number, random.random(), 0.0)
            island.exchange()
        meet(island)
        mine = island._propulator.island_idx
        assert emigrated
        assert {target for _, target in emigrated} == {1 - mine}
        sizes = MPI.COMM_WORLD.allgather((mine, len(island.population())))
        by_island = {index: {count for i, count in sizes if i == index} for index in (0, 1)}
        assert all(len(counts) == 1 for counts in by_island.values()), sizes  # an island's workers agree
        total = sum(counts.pop() for counts in by_island.values())
        if not pollination:
            assert total == 10 * size  # no individual is lost or doubled
        moved = MPI.COMM_WORLD.allgather(emigrated)
        assert all(number // 1000 < size for moves in moved for number, _ in moves)


@on_layouts((0, 0))
def check_founders_breed_and_migrate(_):
    founders = [Founder(n, {"x": n / 10, "y": 0.5, "category": n % 8, "other": 0}, loss=float(n)) for n in range(6)]
    for pollination in (False, True):
        emigrated = []
        island = make(
            [1, 1],
            founders=founders,
            sampler=Sampler(migration=1.0, pollination=pollination),
            on_emigration=lambda number, target, log=emigrated: log.append(number),
        )
        assert len(island.population()) == 6
        island.exchange()
        meet(island)
        assert emigrated == [0]  # the best one


@on_layouts((0,))
def check_one_worker_and_a_seed_repeat(_):
    """Trap 13."""

    def run():
        island = make([1], seed=5)
        bred = []
        for number in range(40):
            individual = island.breed()
            bred.append([individual[name] for name in LIMITS])
            island.add(individual, number, individual["x"], 0.0)
        return bred

    assert run() == run()


@on_layouts((0,))
def check_tags(_):
    assert len({INDIVIDUAL_TAG, MIGRATION_TAG, SYNCHRONIZATION_TAG, ASK, GIVE, FAILED}) == 6
