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
        num_servers: of these, the first ones that do not train, and have no running statistics.
    """

    def __init__(self, flat: FlatModel, untracked: Communicator, num_servers: int = 0) -> None:
        self._trained = flat
        self._untracked = untracked
        self._num_servers = num_servers
        self._copy = FlatModel(copy.deepcopy(flat.model))

    def load(self, parameters: Tensor, root: int = 0) -> nn.Module:
        """The network with rank `root`'s `parameters` (n,), and the mean of the running statistics of those that train.

        Collective. The parameters are copied before anything waits, so the owner of a center may continue to serve.
        """
        self._copy.parameters.copy_(parameters)
        self._untracked.broadcast(self._copy.parameters, root)
        if self._trained.statistics.numel():
            self._copy.statistics.copy_(self._trained.statistics)
            self._average_statistics(self._copy.statistics)
        for copied, trained in zip(self._copy.counters, self._trained.counters, strict=True):
            copied.copy_(trained)
            if self._num_servers:
                self._untracked.broadcast(copied, self._untracked.size - 1)
        return self._copy.model

    def _average_statistics(self, statistics: Tensor) -> None:
        """Replace them by their mean over the ranks that train."""
        if not self._num_servers:
            self._untracked.mean(statistics)
            return
        if self._untracked.rank < self._num_servers:
            statistics.zero_()
        self._untracked.sum(statistics)
        statistics.div_(self._untracked.size - self._num_servers)
