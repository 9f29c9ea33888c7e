"""A second copy of the network, for parameters that are not in training themselves: an average, or a center."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.flat import FlatModel


class EvaluationCopy:
    """Shows parameters as a network that is equal on every rank. To be made before hooks are put on the network.

    Args:
        flat: the network in training.
        untracked: the worker's ranks; what showing takes is no traffic of the method.
    """

    def __init__(self, flat: FlatModel, untracked: Communicator) -> None:
        self._trained = flat
        self._untracked = untracked
        self._shown = FlatModel(copy.deepcopy(flat.model))

    def load(self, parameters: Tensor, root: int = 0) -> nn.Module:
        """The network with rank `root`'s `parameters` (n,), and the mean over ranks of the running statistics.

        Collective. The parameters are copied before anything waits, so the owner of a center may go on serving.
        """
        self._shown.parameters.copy_(parameters)
        self._untracked.broadcast(self._shown.parameters, root)
        if self._trained.statistics.numel():
            self._shown.statistics.copy_(self._trained.statistics)
            self._untracked.mean(self._shown.statistics)
        for shown, trained in zip(self._shown.counters, self._trained.counters, strict=True):
            shown.copy_(trained)
        return self._shown.model
