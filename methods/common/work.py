"""The work of a training in a unit that all methods share: the samples that a rank passes through its network.

Steps do not compare between methods: MAC takes up to a hundred passes over the data for a step of each batch.
"""

from __future__ import annotations

from collections import Counter


class Work:
    """Counts the samples that a rank has passed forward and backward, by part of the network.

    Example:
        >>> from atoll.methods.common.work import Work
        >>> work = Work()
        >>> for _ in range(3):
        ...     work.add(32)
        >>> work.num_samples
        96
    """

    def __init__(self) -> None:
        self._by_part: Counter[int] = Counter()

    def add(self, num_samples: int, part: int = 0) -> None:
        """Count a forward and backward pass of a batch.

        Args:
            num_samples: the size of the batch, or of this rank's share of it.
            part: which part of the network it passed, such as the number of a group of layers; the whole counts as one.
        """
        self._by_part[part] += num_samples

    @property
    def num_samples(self) -> int:
        """The samples that passed the part which has seen the most; 0 if nothing was counted."""
        return max(self._by_part.values(), default=0)
