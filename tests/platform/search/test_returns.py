"""Exchange between islands: individuals move and return, no island is favored, and all workers of one agree."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from archipelago import Archipelago

from atoll.platform.study.migration import Migration

NUM_SEEDS, NUM_ISLANDS = 20, 4


def moves(**options):
    return Migration(pollination=False, **options)


def numbers(population):
    return [individual.number for individual in population]


def multinomial_p(counts):
    """The probability, if all places are equally likely, of counts that are as unlikely as these, or more."""
    total, places = sum(counts), len(counts)

    def log_p(some):
        return math.lgamma(total + 1) - sum(math.lgamma(n + 1) for n in some) - total * math.log(places)

    first = product(range(total + 1), repeat=places - 1)
    every = ((*some, total - sum(some)) for some in first if sum(some) <= total)
    limit = log_p(counts) + 1e-9
    return sum(math.exp(p) for p in map(log_p, every) if p <= limit)


def exchangeable_p(table, num_permutations=999):
    """The p-value of a permutation test: whether the columns are exchangeable within the rows."""
    rng = np.random.default_rng(0)
    centered = table - table.mean(axis=1, keepdims=True)

    def spread(some):
        return np.square(some.mean(axis=0)).sum()

    observed = spread(centered)
    as_large = sum(spread(rng.permuted(centered, axis=1)) >= observed * (1 - 1e-9) for _ in range(num_permutations))
    return (as_large + 1) / (num_permutations + 1)


def test_the_tests_of_significance():
    """The first figures are those of the rule that this one has replaced, on the same experiment."""
    assert multinomial_p((0, 0, 5, 15)) < 1e-6
    assert multinomial_p((5, 5, 5, 5)) == pytest.approx(1.0)
    assert multinomial_p((2, 0)) == pytest.approx(0.5)
    drained = np.random.default_rng(1).random((20, 4)) * 0.02 + np.array([0.146, 0.075, 0.041, 0.012])
    assert exchangeable_p(drained) == pytest.approx(1 / 1000)
    assert exchangeable_p(np.random.default_rng(2).random((20, 4))) > 0.01


def test_migration_drains_no_island():
    """Random losses on 4 islands of 2 workers: where the best one ends, and how good each island's 8 best are.

    Whether the islands differ is tested at 1 % by an exact multinomial test and a permutation test.
    """
    best_on, losses = Counter(), []
    for seed in range(NUM_SEEDS):
        world = Archipelago([2] * NUM_ISLANDS, moves(probability=0.9), seed=seed)
        world.run(60)
        world.deliver()
        populations = [world.on(island)[0] for island in range(NUM_ISLANDS)]
        leaders = [population.best() for population in populations]
        best_on[min(range(NUM_ISLANDS), key=lambda island: leaders[island][0].losses)] += 1
        losses.append([np.mean([i.losses[0] for i in some]) for some in leaders])
    assert multinomial_p([best_on[island] for island in range(NUM_ISLANDS)]) > 0.01, best_on
    assert exchangeable_p(np.array(losses)) > 0.01, np.mean(losses, axis=0)


@pytest.mark.parametrize("topology", ["full", "ring", "star", "random"])
@pytest.mark.parametrize(("sizes", "delay"), [((3, 1, 2), 0.0), ((2, 2, 2, 2), 0.9), ((3, 2), 0.97), ((4, 3, 1), 0.6)])
def test_no_individual_is_lost_or_doubled_however_late_messages_are(topology, sizes, delay):
    for seed in range(3):
        world = Archipelago(sizes, moves(probability=1.0, topology=topology, migrants=2), seed=seed, delay=delay)
        failed = world.run(25, renewed=0.3)
        world.deliver()
        views = [world.on(island) for island in range(len(sizes))]
        for some in views:
            assert all(numbers(one) == numbers(some[0]) for one in some)
        everywhere = sorted(number for some in views for number in numbers(some[0]))
        assert everywhere == [number for number in range(25 * sum(sizes)) if number not in failed]
        for island, learner in zip(world.islands, world.learners, strict=True):
            assert learner.known == {i.number: i.losses for i in island.population}
        sent = Counter((number, target) for number, _, target, _ in world.sent)
        assert delay > 0.9 or topology == "ring" or max(sent.values()) > 1  # some came back


@pytest.mark.parametrize("replace", ["worst", "random"])
@pytest.mark.parametrize("emigrate", ["best", "random", "tournament"])
def test_the_workers_of_an_island_agree_on_who_breeds(replace, emigrate):
    world = Archipelago((3, 2, 2), Migration(replace=replace, emigrate=emigrate), seed=1, delay=0.9, population=100)
    failed = world.run(30, renewed=0.3)
    world.deliver()
    for island in range(3):
        views = world.on(island)
        breeding = [numbers(view.best()) for view in views]
        assert all(some == breeding[0] for some in breeding)
        assert 0 < len(breeding[0]) < len(views[0])
        natives = sum(i.island == island for i in views[0])
        assert replace == "random" or len(breeding[0]) == min(natives, 100)
        assert not failed & set(numbers(views[0]))


def test_emigrants_are_what_the_policy_says():
    """With tournaments the mean rank of who is sent lies between that of the best and that of anyone."""
    means = {}
    for emigrate in ("best", "tournament", "random"):
        world = Archipelago((2, 2, 2), moves(probability=0.3, emigrate=emigrate), seed=2)
        world.run(60)
        world.deliver()
        losses = {i.number: i.losses[0] for island in range(3) for i in world.on(island)[0]}
        means[emigrate] = np.mean([losses[number] for number, *_ in world.sent])
    assert means["best"] < means["tournament"] - 0.05 < means["random"] - 0.1
    assert means["random"] == pytest.approx(0.5, abs=0.1)
