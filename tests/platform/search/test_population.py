"""An island's population: who is here, who is best, who may travel."""

import collections
import math
import random
from dataclasses import replace

import pytest

from atoll.analysis import pareto
from atoll.platform.search.population import Emigrants, Individual, Population, Renewal
from atoll.platform.study.migration import Migration


def individual(number, *losses, **fields):
    return Individual(**({"number": number, "genes": (0.5,), "losses": losses, "island": 0, "home": 0} | fields))


def test_the_best_are_the_smallest_losses_and_pruned_ones_come_last():
    population = Population(3)
    for number, loss in enumerate((5.0, 1.0, 3.0, 2.0)):
        population.admit(individual(number, loss))
    population.admit(individual(9, -1.0, is_complete=False))
    assert [i.number for i in population.best()] == [1, 3, 2]
    assert [i.number for i in population][-1] == 9


def test_an_individual_is_taken_in_once_and_may_come_back_after_it_has_left():
    population = Population(2)
    assert population.admit(individual(1, 0.5))
    assert not population.admit(individual(1, 0.5, steps=1))
    assert population.dismiss(1, 0).number == 1
    assert len(population) == 0
    assert not population.admit(individual(1, 0.5))  # late news of what has gone
    assert population.admit(individual(1, 0.5, steps=2))
    assert population.dismiss(1, 0) is None  # it has come back since


def test_who_is_said_to_have_left_before_it_is_heard_of_is_not_taken_in():
    population = Population(2)
    assert population.dismiss(4, 0) is None
    assert not population.admit(individual(4, 1.0))


def test_of_several_objectives_the_best_are_by_front_and_crowding_even_after_trimming():
    rng = random.Random(0)
    population, everyone = Population(6), []
    for number in range(500):
        everyone.append(individual(number, rng.random(), rng.random()))
        population.admit(everyone[-1])
    front = {everyone[i].number for i in pareto.front([i.losses for i in everyone])}
    best = {i.number for i in population.best()}
    assert len(best) == 6
    assert best <= front or front <= best
    for number in list(best):
        population.dismiss(number, 0)
    assert len(population.best()) == 6
    assert not best & {i.number for i in population.best()}


def test_an_individual_goes_to_an_island_once_the_best_first():
    emigrants, population = Emigrants(home=0, island=0, num_islands=3, migration=Migration()), Population(4)
    everyone = [individual(number, loss) for number, loss in enumerate((5.0, 1.0, 3.0))]
    everyone.append(individual(7, 0.0, home=1))  # another worker's
    everyone.append(individual(8, 0.0, is_complete=False))
    everyone.append(individual(9, 0.5, island=1, visited=frozenset({0, 1})))
    everyone.append(individual(10, 0.25, visited=frozenset({1, 2})))
    for one in everyone:
        population.admit(one)
        emigrants.add(one)
    assert [i.number for i in emigrants.take(1, 2, population)] == [1, 2]  # 9 was bred there, 10 is known there
    assert [i.number for i in emigrants.take(1, 2, population)] == [0]
    emigrants.remove(population.dismiss(9, 0))
    assert [i.number for i in emigrants.take(2, 1, population)] == [1]


def test_of_several_objectives_the_best_of_the_front_travel_first():
    emigrants, population = Emigrants(home=0, island=0, num_islands=2, migration=Migration()), Population(4)
    everyone = [individual(0, 0.0, 9.0), individual(1, 0.1, 9.5), individual(2, 4.0, 4.0), individual(3, 9.0, 0.0)]
    for one in everyone:
        population.admit(one)
        emigrants.add(one)
    assert {i.number for i in emigrants.take(1, 3, population)} == {0, 2, 3}
    assert [i.number for i in emigrants.take(1, 3, population)] == [1]


def test_of_several_objectives_who_breeds_does_not_depend_on_the_order_of_arrival():
    """Equal crowding distances are common: those of all extremes are infinite."""
    rng = random.Random(3)
    for num_objectives, mode in ((2, "none"), (3, "none"), (2, "worst"), (3, "random")):
        everyone = [
            individual(
                number,
                *(rng.random() for _ in range(num_objectives)),
                island=rng.randrange(2),
                is_complete=rng.random() < 0.8,
            )
            for number in range(32)
        ]
        views = []
        for _ in range(4):
            population = Population(8, replace=mode, island=0, seed=1)
            for one in rng.sample(everyone, len(everyone)):
                population.admit(one)
            views.append([i.number for i in population.best()])
        assert all(view == views[0] for view in views)


def test_a_result_is_replaced_by_that_of_a_later_attempt_where_the_individual_is():
    population = Population(2)
    for number, loss in enumerate((3.0, 1.0, 2.0)):
        population.admit(individual(number, loss, is_complete=number != 0, curve={1: loss}, visited=frozenset({5})))
    old, new = population.renew(Renewal(0, 1, (0.5,)))
    assert (old.losses, new.losses, new.is_complete, new.curve, new.attempt) == ((3.0,), (0.5,), True, {}, 1)
    assert new.visited == old.visited
    assert [i.number for i in population] == [0, 1, 2]
    assert [i.number for i in population.best()] == [0, 1]
    assert next(i for i in population if i.number == 0) is new
    assert population.renew(Renewal(0, 1, (0.4,))) is None  # of the same attempt
    assert population.renew(Renewal(7, 1, (0.4,))) is None  # not here
    assert population.renew(Renewal(0, 2, None)) == (new, None)
    assert [i.number for i in population.best()] == [1, 2]


def test_a_result_of_several_objectives_is_replaced():
    population = Population(2)
    for number, losses in enumerate([(1.0, 3.0), (3.0, 1.0), (4.0, 4.0)]):
        population.admit(individual(number, *losses))
    population.renew(Renewal(2, 1, (0.0, 0.0)))
    assert population.best()[0].number == 2
    assert len(population.best()) == 2


def test_a_replaced_individual_may_travel_but_not_to_where_it_has_been_sent():
    emigrants, population = Emigrants(home=0, island=0, num_islands=3, migration=Migration()), Population(4)
    for number, is_complete in ((0, True), (1, False)):
        one = individual(number, 1.0, is_complete=is_complete)
        population.admit(one)
        emigrants.add(one)
    assert [i.number for i in emigrants.take(1, 5, population)] == [0]
    for number in (0, 1):
        emigrants.renew(*population.renew(Renewal(number, 1, (0.5 + number,))))
    assert [(i.number, i.losses) for i in emigrants.take(1, 5, population)] == [(1, (1.5,))]
    assert [(i.number, i.losses) for i in emigrants.take(2, 5, population)] == [(0, (0.5,)), (1, (1.5,))]


def test_of_equal_individuals_the_first_is_the_incumbent():
    population = Population(4)
    population.admit(individual(5, 0.1))
    assert population.is_nondominated(3, (0.1,))  # leaderboards name it first
    assert not population.is_nondominated(7, (0.1,))
    assert not population.is_nondominated(3, (0.2,))
    population.admit(individual(1, 0.0, is_complete=False))
    assert population.is_nondominated(3, (0.1,))
    several = Population(4)
    several.admit(individual(1, 1.0, 2.0))
    assert several.is_nondominated(2, (2.0, 1.0))
    assert not several.is_nondominated(2, (1.0, 3.0))


def test_results_from_elsewhere_breed_and_are_no_incumbents():
    """They may fill the whole breeding population: the incumbent, whose weights stay, is a trial of this search."""
    population, emigrants = Population(2), Emigrants(home=0, island=0, num_islands=2, migration=Migration())
    for number in (-1, -2, -3):
        learned = individual(number, 0.01 * -number, home=-1)
        population.admit(learned)
        emigrants.add(learned)
    assert [i.number for i in population.best()] == [-1, -2]
    assert population.is_nondominated(0, (0.5,))
    population.admit(individual(0, 0.5))
    assert population.is_nondominated(1, (0.4,))
    assert not population.is_nondominated(1, (0.6,))
    assert emigrants.take(1, 5, population) == []


def emigrants_of(losses, **options):
    migration = Migration(**options)
    emigrants, population = Emigrants(0, 0, 2, migration, random.Random(3)), Population(8)
    for number, loss in enumerate(losses):
        one = individual(number, *loss)
        population.admit(one)
        emigrants.add(one)
    return emigrants, population


@pytest.mark.parametrize("losses", [[(float(n),) for n in range(6)], [(float(n), float(n)) for n in range(6)]])
def test_emigrants_are_drawn_at_random_or_by_tournament(losses):
    """The best of k of n without replacement: place i wins with probability C(n - 1 - i, k - 1) / C(n, k)."""
    total = 4000
    for options, expected in (
        ({"emigrate": "best"}, [1, 0, 0, 0, 0, 0]),
        ({"emigrate": "random"}, [1 / 6] * 6),
        ({"emigrate": "tournament"}, [math.comb(5 - i, 2) / math.comb(6, 3) for i in range(6)]),
        ({"emigrate": "tournament", "tournament": 9}, [1, 0, 0, 0, 0, 0]),
    ):
        emigrants, population = emigrants_of(losses, **options)
        counts = collections.Counter()
        for _ in range(total):
            (chosen,) = emigrants.take(1, 1, population)
            counts[chosen.number] += 1
            emigrants.add(chosen)
        # Five standard deviations of a share.
        for number, share in enumerate(expected):
            assert abs(counts[number] / total - share) <= 5 * math.sqrt(share * (1 - share) / total), (options, counts)


@pytest.mark.parametrize("emigrate", ["best", "random", "tournament"])
def test_everyone_is_sent_once_however_emigrants_are_chosen(emigrate):
    emigrants, population = emigrants_of([(float(n % 3),) for n in range(7)], emigrate=emigrate)
    sent = emigrants.take(1, 4, population) + emigrants.take(1, 4, population)
    assert sorted(i.number for i in sent) == list(range(7))
    assert emigrants.take(1, 1, population) == []


def islanders(num, immigrants, *, num_objectives=1, seed=0):
    rng = random.Random(seed)
    losses = [tuple(rng.random() for _ in range(num_objectives)) for _ in range(num)]
    return [individual(n, *losses[n], island=int(n in immigrants), steps=int(n in immigrants)) for n in range(num)]


def test_immigrants_take_the_places_of_the_worst():
    """So as many breed as the island has bred itself, but no more than the breeding population has."""
    population = Population(4, replace="worst")
    everyone = islanders(9, {1, 2, 5, 6, 7, 8})
    for one in everyone[:8]:
        population.admit(one)
    best = sorted(everyone[:8], key=lambda i: i.losses)
    assert population.best() == best[:3]
    assert population.fittest() == best[:4]
    before = population.best()
    population.admit(everyone[8])
    assert population.best() is not before
    assert population.best() is population.best()
    population.admit(individual(9, 2.0))
    population.admit(individual(10, 3.0))
    assert len(population.best()) == 4


def test_learned_results_and_those_of_the_island_replace_nobody():
    for policy in ("worst", "random"):
        population = Population(8, replace=policy, island=2)
        for number, island in ((-1, -1), (-2, -1), (0, 2), (4, 2)):
            population.admit(individual(number, 0.1 * number, island=island))
        assert [i.number for i in population.best()] == [-2, -1, 0, 4]


def test_each_immigrant_replaces_one_that_was_bred_before_it():
    """The newest up to a number that is drawn for the immigrant: with all numbers here, that very one."""
    population = Population(200, replace="random", island=0, seed=7)
    everyone = islanders(100, set(range(1, 100, 2)))
    for one in everyone:
        population.admit(one)
    drawn = {random.Random(f"7/0/{number}").randrange(-1, number) for number in range(1, 100, 2)}
    breeding = {i.number for i in population.best()}
    assert breeding == set(range(100)) - drawn
    assert len(breeding) < 80
    assert {i.number for i in population.fittest()} == set(range(100))


@pytest.mark.parametrize("policy", ["worst", "random"])
@pytest.mark.parametrize("num_objectives", [1, 2])
@pytest.mark.parametrize("size", [12, 200])
def test_who_breeds_does_not_depend_on_the_order_of_arrival(policy, num_objectives, size):
    """Also if results are renewed, fail or leave on the way; the reference is a population of those that are left."""
    rng = random.Random(5)
    everyone = islanders(120, set(rng.sample(range(120), 50)), num_objectives=num_objectives)
    renewals = [Renewal(n, 1, tuple(rng.random() for _ in range(num_objectives))) for n in range(0, 120, 7)]
    renewals += [Renewal(n, 2, None) for n in range(0, 120, 21)]
    left = [one for one in everyone if one.number % 21]
    renewed = {r.number: r for r in renewals if r.losses is not None}
    expected = Population(size, replace=policy, island=0, seed=1)
    for one in left:
        expected.admit(renewed[one.number].applied(one) if one.number in renewed else one)
    assert len(expected.best()) == 12 or 0 < len(expected.best()) < len(left)
    for _ in range(6):
        population = Population(size, replace=policy, island=0, seed=1)
        events = rng.sample(everyone, len(everyone))
        pending = list(renewals)
        for one in events:
            population.admit(one)
            if rng.random() < 0.1:
                population.best()
                population.dismiss(one.number, one.steps)
                population.admit(replace(one, steps=one.steps + 1))
        for renewal in pending:
            population.renew(renewal)
        assert sorted((i.number, i.losses) for i in population.best()) == sorted(
            (i.number, i.losses) for i in expected.best()
        )
        assert len(population) == len(left)


def test_a_replaced_individual_is_still_the_incumbent():
    """It is the best there is, although it no longer breeds: weights of worse ones need not stay."""
    population = Population(4, replace="random", island=0, seed=0)
    immigrant = next(n for n in range(1, 50) if random.Random(f"0/0/{n}").randrange(-1, n) >= 0)
    population.admit(individual(0, 0.1))
    population.admit(individual(immigrant, 0.5, island=1, steps=1))
    assert [i.number for i in population.best()] == [immigrant]
    assert not population.is_nondominated(60, (0.2,))
    assert population.is_nondominated(60, (0.05,))
