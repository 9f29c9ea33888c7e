"""Evaluates a model on data distributed over the ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import IterableDataset, Subset

from atoll.communication.communicator import Communicator
from atoll.methods.common.evaluation import evaluating
from atoll.methods.method import Batch
from atoll.platform.study.loader import Loader
from atoll.platform.trial.loaders import EvaluationBatches
from atoll.platform.workloads.workload import Part, Samples, Workload


class Evaluator:
    """Evaluates a model on data distributed over the ranks.

    Args:
        workload: measures.
        data: the samples, or the data set.
        communicator: the ranks.
        device: the rank's device.
        part: the part's name, for messages.
        loader: how a data set is loaded.

    Raises:
        ValueError: if there are no samples, of which every mean would be NaN, as if training had diverged.
    """

    def __init__(
        self,
        workload: Workload,
        data: Part,
        communicator: Communicator,
        device: str = "cpu",
        part: str = "validation",
        loader: Loader | None = None,
    ) -> None:
        if not isinstance(data, IterableDataset) and not len(data):  # type: ignore[arg-type]
            raise ValueError(f"the {part} data of {type(workload).__name__} must have at least one sample; got none")
        self._workload = workload
        self._communicator = communicator
        self._part = part
        self._batches = evaluation_batches(workload, data, communicator.rank, communicator.size, device, loader)
        self._nothing = torch.zeros(workload.num_totals, dtype=torch.float64)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The loss, the metric, and the workload's further metrics over all samples."""
        totals = self._nothing.clone()
        with torch.no_grad(), evaluating(model):
            for batch in self._batches:
                self._communicator.progress()
                totals += self._workload.totals(self._workload.forward(model, batch), batch.targets)
        self._communicator.sum(totals)
        return {str(name): float(score) for name, score in self._workload.scores(totals).items()}

    def close(self) -> None:
        """End the processes that load batches."""
        self._batches.close()


def spread(data: Part, share: float) -> Part:
    """A fixed share of a part: samples at equal distances, the same in every training.

    Raises:
        ValueError: for a stream, which has no length and may have no end.
    """
    if isinstance(data, IterableDataset):
        raise ValueError("evaluate_train needs training data with a length; got a stream: omit it")
    size: int = len(data)  # type: ignore[arg-type]
    num = max(1, round(share * size))
    if num == size:
        return data
    positions = [number * size // num for number in range(num)]
    if isinstance(data, Samples):
        return Samples(data.inputs[positions], data.targets[positions])
    return Subset(data, positions)


def evaluation_batches(
    workload: Workload, data: Part, rank: int, num_ranks: int, device: str, loader: Loader | None = None
) -> SampleBatches | EvaluationBatches:
    """This rank's batches of the data for evaluation, without augmentation."""
    if isinstance(data, Samples):
        return SampleBatches(workload, data, slice(rank, None, num_ranks), device)
    return EvaluationBatches(data, rank, num_ranks, workload, loader or Loader(), device=device)


class SampleBatches:
    """Batches of samples that are tensors."""

    def __init__(self, workload: Workload, samples: Samples, share: slice, device: str) -> None:
        self._workload = workload
        self._inputs, self._targets = samples.inputs[share], samples.targets[share]
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        size = self._workload.evaluation_batch_size
        for start in range(0, len(self._targets), size):
            chunk = slice(start, start + size)
            inputs, targets = self._inputs[chunk].to(self._device), self._targets[chunk].to(self._device)
            indices = torch.arange(start, start + len(targets))
            yield Batch(indices=indices, inputs=self._workload.transform(inputs, None), targets=targets)

    def close(self) -> None:
        """Nothing to end."""
