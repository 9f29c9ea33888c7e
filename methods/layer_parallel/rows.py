"""Where a method keeps something for every sample: the row of each, in the order in which samples are first seen."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """The row of each sample that has been seen, from 0 on."""

    def __init__(self) -> None:
        self.row_of = torch.empty(0, dtype=torch.int64)  # by sample index; -1 for none
        self.num_rows = 0

    @classmethod
    def of(cls, row_of: Tensor) -> Rows:
        """Rows as another one's `row_of` has them."""
        made = cls()
        made.row_of = row_of.clone()
        made.num_rows = int(row_of.max()) + 1 if len(row_of) else 0
        return made

    def are_new(self, indices: Tensor) -> Tensor:
        """Whether each of `indices` (n,) has no row."""
        missing = int(indices.max()) + 1 - len(self.row_of) if len(indices) else 0
        if missing > 0:
            self.row_of = torch.cat([self.row_of, self.row_of.new_full((missing,), -1)])
        return self.row_of[indices] < 0

    def add(self, indices: Tensor) -> None:
        """Give new ones rows."""
        assert bool(self.are_new(indices).all())
        self.row_of[indices] = torch.arange(self.num_rows, self.num_rows + len(indices))
        self.num_rows += len(indices)

    def rows(self, indices: Tensor) -> Tensor:
        """Their rows (n,)."""
        return self.row_of[indices]
