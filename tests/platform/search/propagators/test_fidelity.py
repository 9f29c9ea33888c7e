"""The Gaussian process over hyperparameters and fidelity: what the curves of pruned trials say about their ends."""

import math

import numpy as np
import pytest
import torch
from optuna.distributions import FloatDistribution

from atoll.platform.search.population import Individual
from atoll.platform.search.propagators import fidelity
from atoll.platform.search.propagators.ensemble import improvement
from atoll.platform.search.propagators.fidelity import FidelityPropagator, curves_of, remembered, sparse
from atoll.platform.search.ranking import scores
from atoll.platform.study.samplers import FidelityGp
from atoll.searchspaces.space import Parameter, SearchSpace

LINE = SearchSpace((Parameter(name="x", distribution=FloatDistribution(0, 1), default=0.5),))
LENGTH = 16


def loss(x, position):
    """It falls as 1 / position; its end is best at 0.3."""
    return (x - 0.3) ** 2 + 0.3 / position


def trial(number, x, ended=None, **also):
    """A trial that was pruned after `ended` reports, or complete."""
    curve = {} if ended is None else {n: loss(x, n) for n in range(1, ended + 1)}
    losses = (loss(x, ended or LENGTH),)
    return Individual(number, (x,), losses, 0, 0, is_complete=ended is None, curve=curve, **also)


def made(*trials, space=LINE, **options):
    propagator = FidelityPropagator(FidelityGp(name="fidelity-gp", startup=2), space, 1, **options)
    for one in trials:
        propagator.arrived(one)
    return propagator


def test_the_data_are_ends_and_sparse_curves_on_a_logarithmic_scale():
    assert sparse([1, 2, 3, 4, 5, 6, 7, 8]) == [1, 2, 4, 8]
    assert sparse([3, 6, 7]) == [3, 7]
    assert sparse([50]) == [50]
    places, losses = curves_of([trial(0, 0.5), trial(1, 0.9, ended=1), trial(2, 0.1, ended=8)])
    assert places == [(0, 1.0), (1, 0.0), (2, 0.0), (2, 0.25), (2, 0.5), (2, 0.75)]
    assert losses == [loss(0.5, 16), loss(0.9, 1), *(loss(0.1, n) for n in (1, 2, 4, 8))]
    without = Individual(0, (0.5,), (2.0,), 0, 0, is_complete=False)  # of an older journal: its last value
    assert curves_of([without]) == ([(0, 1.0)], [2.0])


def test_it_remembers_the_best_and_the_newest():
    trials = [Individual(n, (0.5,), (float(n % 7),), 0, 0, is_complete=n % 2 == 0) for n in range(40)]
    chosen = remembered(trials, 10)
    best = [0, 14, 28, 8, 22]  # complete, by loss and number
    assert {one.number for one in chosen} == {*best, 35, 36, 37, 38, 39}
    assert [one.number for one in chosen] == sorted(one.number for one in chosen)
    assert remembered(trials[:10], 10) == trials[:10]


def test_a_pruned_trial_is_not_taken_for_a_bad_end():
    """Only early losses are known near the best place, all of them larger than those of ends elsewhere."""
    pruned = [trial(n, x, ended=1 + n % 4) for n, x in enumerate(np.linspace(0, 1, 16))]
    complete = [trial(16 + n, x) for n, x in enumerate((0.55, 0.65, 0.75, 0.85, 0.95))]
    as_ends = [Individual(one.number, one.genes, one.losses, 0, 0) for one in pruned]

    def expects_more(trials):
        """Whether it expects a better end at 0.3 than any that has been seen."""
        known = [*trials, *complete]
        mean, _ = made().model(known).process.posterior(torch.tensor([[0.3]], dtype=torch.float64))
        return float(mean) > scores(np.array(curves_of(known)[1])).max()

    assert min(one.losses[0] for one in pruned if abs(one.genes[0] - 0.3) < 0.1) > loss(0.55, LENGTH)
    assert expects_more(pruned)
    assert not expects_more(as_ends)  # as samplers that know no fidelity take them


def test_certainty_grows_with_the_length_of_a_pruned_training():
    known = [trial(n, x) for n, x in enumerate((0.0, 0.2, 0.8, 1.0))]
    known += [trial(10 + n, x, ended=8) for n, x in enumerate((0.1, 0.9))]
    at = torch.tensor([[0.5]], dtype=torch.float64)

    def deviation(ended):
        _, variance = made().model([*known, trial(20, 0.5, ended)]).process.posterior(at)
        return math.sqrt(float(variance))

    early, late, complete = deviation(1), deviation(8), deviation(None)
    assert complete < late < early


def test_proposals_improve_on_the_best_and_wait_for_enough_trials():
    assert made(trial(0, 0.9)).propose(5).operator == "fidelity-gp, random"
    known = [trial(n, x, ended=None if n % 3 == 0 else 2 + n % 5) for n, x in enumerate(np.linspace(0.05, 0.95, 12))]
    proposal = made(*known).propose(12)
    assert proposal.operator == "fidelity-gp"
    assert abs(proposal.genes["x"] - 0.3) < 0.15
    assert made(*known).propose(12).genes == proposal.genes
    assert made(*reversed(known)).propose(12).genes == proposal.genes  # whatever came first


def test_complete_trainings_are_improved_on_or_all_if_there_are_none(monkeypatch):
    """What is expected of a pruned trial is no value that a user has."""
    asked = []

    def asking(ensemble, seen, space, best):
        asked.append(None if best is None else best[:, 0].tolist())
        return improvement(ensemble, seen, space, best)

    monkeypatch.setattr(fidelity, "improvement", asking)
    pruned = [trial(n, x, ended=2) for n, x in enumerate((0.1, 0.3, 0.6))]
    made(*pruned).propose(9)
    made(*pruned, trial(3, 0.8), trial(4, 0.9)).propose(9)
    assert asked == [None, [0.8, 0.9]]


def test_running_trials_and_refusals_are_not_proposed_again():
    alone = made(*(trial(n, x) for n, x in enumerate((0.0, 0.5, 1.0))))
    first = alone.propose(8).genes
    alone.started(8, first, {})
    second = alone.propose(9).genes
    assert abs(second["x"] - first["x"]) > 0.05
    alone.dropped(8)
    assert alone.propose(8).genes == first
    known = [trial(n, x) for n, x in enumerate(np.linspace(0.05, 0.95, 8))]
    refused = made(*known, infeasibility=lambda v: "too small" if v["x"] < 0.5 else None)
    assert refused.propose(8).genes["x"] >= 0.5
    assert made(*known, infeasibility=lambda _: "never").propose(8).operator == "fidelity-gp, random"
    assert alone.propose(8, attempt=1).operator == "fidelity-gp, random"


def test_who_leaves_is_forgotten_and_a_newer_result_replaces_the_one_before():
    known = [trial(n, x) for n, x in enumerate((0.1, 0.5, 0.9))]
    propagator = made(*known, trial(3, 0.3, ended=2))
    before = propagator.propose(4).genes
    propagator.arrived(trial(3, 0.3, attempt=1))
    after = propagator.propose(4).genes
    assert after != before
    assert after == made(*known, trial(3, 0.3)).propose(4).genes
    propagator.left(3)
    assert propagator.propose(4).genes == made(*known).propose(4).genes


@pytest.mark.parametrize("worst", [math.inf, 1e300])
def test_losses_without_bounds_leave_the_order(worst):
    known = [trial(n, x) for n, x in enumerate(np.linspace(0.05, 0.95, 8))]
    bad = Individual(8, (0.99,), (worst,), 0, 0, is_complete=False, curve={1: worst})
    assert abs(made(*known, bad).propose(9).genes["x"] - 0.3) < 0.2
