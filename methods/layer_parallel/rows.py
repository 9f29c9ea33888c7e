"""The table rows of samples, for methods that keep values for every sample."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """Maps sample indices to rows, which are numbered in the order in which samples are first seen."""

    def __init__(self) -> None:
        self.row_of = torch.empty(0, dtype=torch.int64)  # by sample index; -1 if it has no row
        self.num_rows = 0

    @classmethod
    def of(cls, row_of: Tensor) -> Rows:
        """Rows with a copy of a saved `row_of`."""
        rows = cls()
        rows.row_of = row_of.to("cpu", copy=True)
        rows.num_rows = int(row_of.max()) + 1 if len(row_of) else 0
        return rows

    def are_new(self, indices: Tensor) -> Tensor:
        """Whether each of `indices` (n,) has no row yet."""
        missing = int(indices.max()) + 1 - len(self.row_of) if len(indices) else 0
        if missing > 0:
            self.row_of = torch.cat([self.row_of, self.row_of.new_full((missing,), -1)])
        return self.row_of[indices] < 0

    def add(self, indices: Tensor) -> None:
        """Give rows to `indices`, which must be new."""
        assert bool(self.are_new(indices).all())
        self.row_of[indices] = torch.arange(self.num_rows, self.num_rows + len(indices))
        self.num_rows += len(indices)

    def rows(self, indices: Tensor) -> Tensor:
        """The rows (n,) of `indices`."""
        return self.row_of[indices]
