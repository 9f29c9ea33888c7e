"""How much each source's model counts, by how well it ranks a study's trials (RGPE; Feurer, Letham and Bakshy 2018).

The trials are drawn again with replacement, in place of draws of the models' predictions. In each draw the model with
the fewest misranked pairs wins; a model's weight is its share of the draws. The study's own model competes with its
predictions for trials that it has not seen. As long as few trials are known, its predictions are poor, and any source
that is right by luck would win: so a source must also be better than chance in nearly all draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST = 4  # trials; with fewer, all sources count alike
NUM_DRAWS = 512
LUCK = 0.1  # the largest share of draws in which a source may be no better than chance, divided by the sources

Array = NDArray[np.float64]


def weights(predictions: Array, own: Array, losses: Array, seed: int) -> Array:
    """The weights of the sources, and of the study's own model, which is the last; their sum is 1.

    Args:
        predictions: (sources, n), what each source predicts for the study's trials; only the order counts.
        own: (n,), what the study's own model predicts for each trial from the others.
        losses: (n,), of the trials.
        seed: of the draws.
    """
    num_sources, num_trials = predictions.shape
    if num_trials < FEWEST or np.ptp(losses) == 0:
        return np.append(np.full(num_sources, 1 / num_sources), 0.0)
    counts = np.random.default_rng(seed).multinomial(num_trials, [1 / num_trials] * num_trials, NUM_DRAWS).astype(float)
    counts = np.concatenate([np.ones((1, num_trials)), counts])  # the first one is what was seen
    num_pairs = _sums(counts, (losses[:, None] < losses).astype(float))
    counts, num_pairs = counts[num_pairs > 0], num_pairs[num_pairs > 0]  # a draw of one trial only says nothing
    shares = np.array([_sums(counts, misranked(model, losses)) for model in (*predictions, own)]) / num_pairs
    is_better = (shares[:-1] >= 0.5).mean(axis=1) <= LUCK / num_sources
    shares[:-1][~is_better] = np.inf
    least = shares.min(axis=0)
    wins = np.isclose(shares, least, rtol=0, atol=1e-12)
    wins[:-1] &= ~wins[-1]  # the study's own model knows what it searches
    return np.asarray((wins / wins.sum(axis=0)).mean(axis=1))


def misranked(predictions: Array, losses: Array) -> Array:
    """(n, n): for each pair with the first loss below the second, 1 if predicted the other way, 0.5 if equally high."""
    less = losses[:, None] < losses
    above, equal = predictions[:, None] > predictions, predictions[:, None] == predictions
    return np.where(less, above + 0.5 * equal, 0.0)


def _sums(counts: Array, pairs: Array) -> Array:
    """(draws,): the sum over pairs, each as often as it was drawn."""
    return np.asarray(((counts @ pairs) * counts).sum(axis=1))


def scores(losses: Array) -> Array:
    """Normal scores of losses, the larger the better: their scale is the same for all problems (Salinas et al. 2020).

    Equal losses have equal scores.
    """
    from scipy.stats import norm, rankdata

    return np.asarray(norm.ppf((rankdata(-losses) - 0.5) / len(losses)))
