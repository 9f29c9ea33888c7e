"""A second copy of the network, to evaluate parameters that are not trained themselves: an average, or a center."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.flat import FlatModel


class EvaluationCopy:
    """Loads parameters into a network that is equal on every rank. To be made before the network gets hooks.

    Args:
        flat: the network in training.
        untracked: the worker's ranks; loading does not count as the method's traffic.
    """

    def __init__(self, flat: FlatModel, untracked: Communicator) -> None:
        self._trained = flat
        self._untracked = untracked
        self._copy = FlatModel(copy.deepcopy(flat.model))

    def load(self, parameters: Tensor, root: int = 0) -> nn.Module:
        """The network with rank `root`'s `parameters` (n,), and the mean over ranks of the running statistics.

        Collective. The parameters are copied before anything waits, so the owner of a center may continue to serve.
        """
        self._copy.parameters.copy_(parameters)
        self._untracked.broadcast(self._copy.parameters, root)
        if self._trained.statistics.numel():
            self._copy.statistics.copy_(self._trained.statistics)
            self._untracked.mean(self._copy.statistics)
        for copied, trained in zip(self._copy.counters, self._trained.counters, strict=True):
            copied.copy_(trained)
        return self._copy.model
