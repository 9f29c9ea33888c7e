"""Evaluates a model on samples distributed over the ranks."""

from __future__ import annotations

import torch
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.evaluation import evaluating
from atoll.platform.workloads.workload import Samples, Workload


class Evaluator:
    """Evaluates a model on samples distributed over the ranks.

    Raises:
        ValueError: if there are no samples, of which every mean would be NaN, as if training had diverged.
    """

    CHUNK = 256  # forecasts of 720 steps by a wide network take 6 MB each

    def __init__(
        self,
        workload: Workload,
        samples: Samples,
        communicator: Communicator,
        device: str = "cpu",
        part: str = "validation",
    ) -> None:
        if not len(samples):
            raise ValueError(f"the {part} data of {type(workload).__name__} must have at least one sample; got none")
        self._workload = workload
        self._device = device
        self._communicator = communicator
        share = slice(communicator.rank, None, communicator.size)
        self._inputs, self._targets = samples.inputs[share], samples.targets[share]
        self._nothing = torch.zeros(workload.num_totals, dtype=torch.float64)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The loss, the metric, and the workload's further metrics over all samples."""
        totals = self._nothing.clone()
        with torch.no_grad(), evaluating(model):
            for start in range(0, len(self._targets), self.CHUNK):
                chunk = slice(start, start + self.CHUNK)
                inputs, targets = self._inputs[chunk].to(self._device), self._targets[chunk].to(self._device)
                outputs = model(self._workload.transform(inputs, None))
                totals += self._workload.totals(outputs, targets)
        self._communicator.sum(totals)
        return {str(name): float(score) for name, score in self._workload.scores(totals).items()}
