"""Forward passes in evaluation mode, during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def deterministic(module: nn.Module, inputs: Tensor) -> Tensor:
    """A forward pass without dropout, with the running statistics, and without a graph."""
    with torch.no_grad(), evaluating(module):
        return module(inputs)  # type: ignore[no-any-return]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode inside the `with` block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
