"""The order of the training data, and each rank's share of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from atoll.analysis.formatting import counted
from atoll.methods.method import NotApplicable


@dataclass(frozen=True)
class Share:
    """A rank's share of each global batch: rank r takes the r-th run of b of its p*b samples, or all of them.

    So p ranks with batch size b see the same data as one rank with batch size p*b.

    Attributes:
        batch_size, rank, num_ranks: b, r, and p.
        whole: whether each rank sees the whole of each global batch.
    """

    batch_size: int
    rank: int
    num_ranks: int
    whole: bool = False

    @property
    def place(self) -> int:
        """Which of the shares it is: r, or 0 if ranks see the whole."""
        return 0 if self.whole else self.rank

    @property
    def global_size(self) -> int:
        """The number of samples of a global batch."""
        return self.batch_size * self.num_ranks

    def of(self, number: int) -> slice:
        """This rank's samples of global batch `number`, in the data's order."""
        start = number * self.global_size + self.place * self.batch_size
        return slice(start, start + (self.global_size if self.whole else self.batch_size))

    def num_batches(self, num_samples: int) -> int:
        """The number of global batches of an epoch; the remaining samples are left out. Raises NotApplicable for 0."""
        if num_samples < self.global_size:
            raise NotApplicable(
                f"a global batch must have at most {num_samples} samples, the size of the training data; batch_size "
                f"{self.batch_size} on {counted(self.num_ranks, 'rank')} makes {self.global_size}"
            )
        return num_samples // self.global_size


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's order, equal on all ranks."""
    return seed * 1_000_003 + epoch


class Purpose(IntEnum):
    """What a seed is for: equal seeds would give equal random numbers."""

    TRANSFORM = 0
    ITEMS = 1
    STREAM = 2


def data_seed(purpose: Purpose, seed: int, epoch: int, rank: int, number: int) -> int:
    """The seed of what is random in a rank's batch of an epoch, so that no batch depends on those before it."""
    return (((epoch_seed(seed, epoch) * 1_000_003 + rank) * 1_000_003 + number) * len(Purpose) + purpose) % 2**63


def order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The permutation (n,) of the training data in an epoch."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch)))
