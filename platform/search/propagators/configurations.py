"""Which configurations of a space are taken, so that none is evaluated more often than asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from atoll.searchspaces import encoding
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

Genes = NDArray[np.float64]  # in the order of the space's parameters

LARGEST_ENUMERATED = 20_000  # configurations of a space; of larger ones, the last that are left are not searched for


class Configurations:
    """The configurations of a space, and the trials that have each.

    Args:
        space: the search space.
        repeats: how many trials may have the same configuration.
        infeasibility: returns why hyperparameters are infeasible, or None.

    Attributes:
        are_endless: whether no two trials have the same configuration by chance, as the space is continuous; then no
            trials are kept, and every configuration is free.
    """

    def __init__(self, space: SearchSpace, repeats: int, infeasibility: Infeasibility = lambda _: None) -> None:
        self._space = space
        self._repeats = repeats
        self._infeasibility = infeasibility
        self._names = list(space.limits())
        parameters = space.parameters
        sizes = [encoding.size(p.distribution) for p in parameters]
        is_conditional = any(p.only_if is not None for p in parameters)
        self.are_endless = not is_conditional and all(size is None for size in sizes)
        # Where each value has the same share of a gene's range, its place is known without decoding.
        self._is_regular = not is_conditional and not any(
            p.at_most is not None or (size is not None and getattr(p.distribution, "log", False))
            for p, size in zip(parameters, sizes, strict=True)
        )
        is_stepped = [
            size is not None and not isinstance(p.distribution, CategoricalDistribution)
            for p, size in zip(parameters, sizes, strict=True)
        ]
        self._is_stepped = np.array(is_stepped, dtype=bool)
        self._sizes = np.array([math.nan if size is None else size for size in sizes], dtype=float)
        self._trials: dict[bytes | str, set[int]] = {}

    def array(self, genes: Mapping[str, Gene]) -> Genes:
        """Genes by name as an array."""
        return np.array([genes[name] for name in self._names], dtype=float)

    def named(self, genes: Genes) -> dict[str, Gene]:
        """Genes by name: integers for categories."""
        return named_genes(self._space, genes)

    def take(self, number: int, genes: Mapping[str, Gene]) -> None:
        """A trial has this configuration; a later attempt at it counts once."""
        if not self.are_endless:
            self._trials.setdefault(self._key(self.array(genes)), set()).add(number)

    def is_free(self, genes: Genes) -> bool:
        """Whether a further trial may have this configuration."""
        return self.are_endless or self._is_free(self._key(genes))

    def left(self) -> list[Genes]:
        """The feasible configurations that are free; none if the space is too large."""
        return [genes for key, genes in self._all.items() if self._is_free(key)]

    def _is_free(self, key: bytes | str) -> bool:
        return len(self._trials.get(key, ())) < self._repeats

    def _key(self, genes: Genes) -> bytes | str:
        """Equal for equal configurations."""
        if not self._is_regular:
            return encoding.identity(self._space.decode(self.named(genes)))
        places = np.minimum(np.floor(genes * self._sizes), self._sizes - 1)
        return np.where(self._is_stepped, places, genes).tobytes()

    @cached_property
    def _all(self) -> dict[bytes | str, Genes]:
        bound = self._space.size_bound()
        if bound is None or bound > LARGEST_ENUMERATED:
            return {}
        feasible = (values for values in self._space.every() if self._infeasibility(values) is None)
        listed = (self.array(self._space.encode(values)) for values in feasible)
        return {self._key(genes): genes for genes in listed}


def named_genes(space: SearchSpace, genes: Genes) -> dict[str, Gene]:
    """Genes by name, within their limits: integers for categories."""
    return {
        name: int(gene) if isinstance(low, int) else min(max(gene, low), high)
        for (name, (low, high)), gene in zip(space.limits().items(), genes.tolist(), strict=True)
    }
