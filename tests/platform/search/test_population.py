"""An island's population: who is here, who is best, who may travel."""

import random

from atoll.analysis import pareto
from atoll.platform.search.population import Emigrants, Individual, Population, Renewal


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
    emigrants, population = Emigrants(home=0, island=0, num_islands=3), Population(4)
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
    population.dismiss(9, 0)
    assert [i.number for i in emigrants.take(2, 1, population)] == [1]


def test_of_several_objectives_the_best_of_the_front_travel_first():
    emigrants, population = Emigrants(home=0, island=0, num_islands=2), Population(4)
    everyone = [individual(0, 0.0, 9.0), individual(1, 0.1, 9.5), individual(2, 4.0, 4.0), individual(3, 9.0, 0.0)]
    for one in everyone:
        population.admit(one)
        emigrants.add(one)
    assert {i.number for i in emigrants.take(1, 3, population)} == {0, 2, 3}
    assert [i.number for i in emigrants.take(1, 3, population)] == [1]


def test_a_result_is_replaced_by_that_of_a_later_attempt_where_the_individual_is():
    population = Population(2)
    for number, loss in enumerate((3.0, 1.0, 2.0)):
        population.admit(individual(number, loss, is_complete=number != 0, curve={1: loss}, visited=frozenset({5})))
    old, new = population.renew(Renewal(0, 1, (0.5,)))
    assert (old.losses, new.losses, new.is_complete, new.curve, new.attempt) == ((3.0,), (0.5,), True, {}, 1)
    assert new.visited == old.visited
    assert [i.number for i in population] == [0, 1, 2]
    assert [i.number for i in population.best()] == [0, 1]
    assert population.holds(new)
    assert not population.holds(old)
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
    emigrants, population = Emigrants(home=0, island=0, num_islands=3), Population(4)
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
    population, emigrants = Population(2), Emigrants(home=0, island=0, num_islands=2)
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
