"""Stratified splits: held-out samples in which every class has its share, from a seed alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_split(labels: NDArray[np.integer[Any]], share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of the samples to keep and of those to hold out, ceil(share * n), both shuffled.

    Draws the same numbers in the same order as `train_test_split(stratify=labels)` of scikit-learn, so the splits are
    equal; `tests/platform/workloads/test_workloads.py` compares them. NumPy guarantees the stream of `RandomState`.
    """
    random = np.random.RandomState(seed)
    num_held_out = math.ceil(share * len(labels))
    _, class_of, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    num_kept_of = _apportion(class_sizes, len(labels) - num_held_out, random)
    num_held_out_of = _apportion(class_sizes - num_kept_of, num_held_out, random)
    members = np.split(np.argsort(class_of, kind="stable"), np.cumsum(class_sizes)[:-1])
    kept, held_out = [], []
    for of_class, num_kept, num_out in zip(members, num_kept_of, num_held_out_of, strict=True):
        shuffled = of_class[random.permutation(len(of_class))]
        kept.append(shuffled[:num_kept])
        held_out.append(shuffled[num_kept : num_kept + num_out])
    return random.permutation(np.concatenate(kept)), random.permutation(np.concatenate(held_out))


def _apportion(sizes: Indices, total: int, random: np.random.RandomState) -> Indices:
    """Divide `total` in proportion to `sizes`: rounded down, the rest to the largest remainders, ties at random."""
    exact = sizes / sizes.sum() * total
    counts: Indices = np.floor(exact).astype(np.int64)
    remainders = exact - counts
    missing = int(total - counts.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        (tied,) = np.where(remainders == remainder)
        num = min(len(tied), missing)
        counts[random.choice(tied, size=num, replace=False)] += 1
        missing -= num
    return counts
