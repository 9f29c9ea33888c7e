"""Observes a network's layers during training, for any method. Default: off."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.methods.low_rank.factored import low_rank_layers, shape_of, weight_of
from atoll.methods.low_rank.factored_layers import Factored
from atoll.methods.low_rank.metrics import mixing_matrix, mixing_similarity, orthogonal_basis, scaled_traffic, stability
from atoll.methods.low_rank.shared_svd import share_out
from atoll.methods.method import Method


class _Snapshot(NamedTuple):
    """A weight's basis and mixing matrix after an epoch, in host memory."""

    basis: Tensor
    mixing: Tensor


class LayerObserver:
    """Compares each layer's weight with its value some epochs earlier (Coquelin 2024, eqs. 4.6 and 4.7).

    The layers are distributed over ranks: each rank decomposes its own after every epoch, and keeps two matrices of a
    weight's size for each epoch in between.

    Args:
        num_epochs: number of epochs between the compared weights; five in Coquelin 2024.
        method: the training method.
        communicator: the worker's ranks, with the method's ledger.
        untracked: the same ranks, for traffic that is not counted as the method's.
    """

    def __init__(
        self, num_epochs: int, method: Method[Any], communicator: Communicator, untracked: Communicator
    ) -> None:
        self._num_epochs = num_epochs
        self._method = method
        self._ledger = communicator.ledger
        self._untracked = untracked
        self._ranks_per_node = communicator.nodes.count(communicator.nodes[communicator.rank])
        self._reduced_bytes = 0.0
        self._num_observed = 0
        self._history: dict[str, deque[_Snapshot]] = {}

    def __call__(self, model: nn.Module, seconds: float) -> dict[str, float]:
        """Return the metrics after an epoch; collective.

        Args:
            model: the evaluated network.
            seconds: the epoch's training time in seconds.
        """
        layers = low_rank_layers(model)
        shapes = [shape_of(layer) for layer in layers.values()]
        owners = share_out([m * n * min(m, n) for m, n in shapes], self._untracked.size)
        values = torch.zeros(len(layers), 2, dtype=torch.float64)
        can_compare = self._num_observed >= self._num_epochs
        for number, (name, layer) in enumerate(layers.items()):
            if owners[number] != self._untracked.rank:
                continue
            weight = weight_of(layer).detach()
            history = self._history.setdefault(name, deque(maxlen=self._num_epochs))
            now = _Snapshot(orthogonal_basis(weight).cpu(), mixing_matrix(weight).cpu())
            if can_compare:
                then = history[0]
                values[number, 0] = stability(now.basis, then.basis)
                values[number, 1] = mixing_similarity(now.mixing, then.mixing, max(weight.shape))
            history.append(now)
        self._num_observed += 1
        metrics = self._sizes(layers, self._method.inner_ranks()) | self._traffic(seconds)
        if can_compare:
            self._untracked.sum(values)
            for column, kind in enumerate(("stability", "mixing")):
                metrics |= {f"{kind}/{name}": float(v) for name, v in zip(layers, values[:, column], strict=True)}
                metrics[kind] = float(values[:, column].mean())
        return metrics

    def _sizes(self, layers: dict[str, nn.Module], ranks: dict[str, int]) -> dict[str, float]:
        """Each weight's rank and compression, and values for the whole network that hold in full rank."""
        metrics = {"trainable_share": 1.0, "compression": 1.0, "ecr": 0.0}
        for name, layer in layers.items():
            m, n = shape_of(layer)
            rank = ranks.get(name, min(m, n))
            size = rank * (m + n) if name in ranks else m * n
            if isinstance(layer, Factored):
                size = sum(matrix.numel() for matrix in layer.factors())
            metrics[f"rank/{name}"] = float(rank)
            metrics[f"compression/{name}"] = m * n / size
        return metrics

    def begin(self) -> None:
        """Count traffic from here on: the training continues from a checkpoint."""
        self._reduced_bytes = reduced_bytes(self._ledger)

    def _traffic(self, seconds: float) -> dict[str, float]:
        total = reduced_bytes(self._ledger)
        since, self._reduced_bytes = total - self._reduced_bytes, total
        return {"scaled_traffic": scaled_traffic(since, seconds, self._ranks_per_node)}


def reduced_bytes(ledger: Ledger) -> float:
    """Bytes that a rank has contributed to reductions between nodes."""
    rows = (row for row in ledger.rows() if row["operation"] == "all_reduce" and row["scope"] == "global")
    return float(sum(row["count"] * row["payload_bytes"] for row in rows))
