"""The weights of sources: identities of RGPE, and how they change with evidence."""

import itertools

import numpy as np
import pytest

from atoll.platform.search.ranking import FEWEST, misranked, scores, weights


def draws(count, seed=0):
    return np.random.default_rng(seed).normal(size=count)


def noisy(losses, amount, seed=1):
    return losses + amount * draws(len(losses), seed)


def test_a_source_that_ranks_as_the_trials_has_nearly_all_weight():
    losses = draws(12)
    found = weights(np.array([np.exp(losses)]), noisy(losses, 1.0), losses, seed=0)
    assert found[0] > 0.95
    assert found.sum() == pytest.approx(1)


def test_a_reversed_source_has_none():
    losses = draws(FEWEST)
    assert weights(np.array([-losses]), np.zeros(FEWEST), losses, seed=0).tolist() == [0, 1]


def test_of_equal_sources_each_has_the_same_weight_and_a_bad_one_none():
    losses = draws(10)
    found = weights(np.array([losses, 3 * losses, -losses]), np.zeros(10), losses, seed=0)
    assert found == pytest.approx([0.5, 0.5, 0, 0])


def test_the_studys_own_model_wins_where_both_are_right():
    losses = draws(10)
    assert weights(np.array([losses]), losses, losses, seed=0).tolist() == [0, 1]


def test_weight_falls_as_the_own_model_gets_better():
    """A source that misranks some pairs, next to an own model whose error falls with the trials."""
    found = []
    for count in (12, 24, 48, 96):
        losses = draws(count)
        found.append(weights(np.array([noisy(losses, 0.4)]), noisy(losses, 4 / count, seed=2), losses, seed=0)[0])
    assert found[0] > 0.8
    assert found[-1] < 0.05
    assert found == sorted(found, reverse=True)


def test_sources_that_predict_no_better_than_chance_are_let_go():
    """Few of many are right by luck, the fewer the more sources there are; the own model knows nothing either."""
    losses = draws(20)
    alone = [weights(np.array([draws(20, seed)]), np.zeros(20), losses, seed=0)[0] > 0 for seed in range(3, 203)]
    together = weights(np.array([draws(20, seed) for seed in range(3, 203)]), np.zeros(20), losses, seed=0)
    # With the true ranks in place of draws a tenth would be; the draws' spread is a little below the truth's.
    assert np.mean(alone) < 0.2
    assert np.count_nonzero(together[:-1]) <= 4


@pytest.mark.parametrize("losses", [draws(FEWEST - 1), np.ones(9), np.zeros(0)])
def test_without_evidence_all_sources_count_alike(losses):
    found = weights(np.array([losses, -losses, losses]), np.zeros(len(losses)), losses, seed=0)
    assert found == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_the_pairs_are_those_of_the_definition():
    predictions, losses = np.array([1.0, 1.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0, 2.0])
    for j, k in itertools.product(range(4), repeat=2):
        expected = 0.0
        if losses[j] < losses[k]:
            expected = {True: 1.0, False: 0.0}[predictions[j] > predictions[k]]
            expected = 0.5 if predictions[j] == predictions[k] else expected
        assert misranked(predictions, losses)[j, k] == expected


def test_scores_are_of_ranks_only_and_higher_for_lower_losses():
    losses = np.array([3.0, 1.0, 2.0])
    assert scores(losses) == pytest.approx([-0.967422, 0.967422, 0], abs=1e-6)  # quantiles of 1/6, 5/6 and 1/2
    assert np.array_equal(scores(np.exp(20 * losses)), scores(losses))
    assert scores(np.array([1.0, 1.0])).tolist() == [0, 0]
