"""A second copy of the network, for parameters that are not in training themselves: an average, or a center."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from atoll.methods.flat import FlatModel


class Shadow:
    """Shows parameters as a network.

    Args:
        model: the network in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self._flat = FlatModel(copy.deepcopy(model))

    def show(self, parameters: Tensor, statistics: Tensor) -> nn.Module:
        """The network with `parameters` (n,) and the running `statistics` (s,)."""
        self._flat.parameters.copy_(parameters)
        self._flat.statistics.copy_(statistics)
        return self._flat.model
