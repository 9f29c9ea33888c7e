"""A rank's share of each global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from atoll.methods.method import Batch, NotApplicable
from atoll.platform.workloads.workload import Samples

Transform = Callable[[Tensor, torch.Generator | None], Tensor]

MAX_DEVICE_SHARE = 0.25  # of the device's memory, for data


class EpochBatches:
    """This rank's share of each global batch of an epoch, in an order determined by the seed.

    Global batch k is the k-th run of p*b samples of the epoch's permutation, and rank r takes its r-th run of b
    samples. So p ranks with batch size b see the same data as one rank with batch size p*b. The remaining samples,
    which do not fill a global batch, are left out in this epoch.

    Args:
        samples: the training data.
        batch_size, rank, num_ranks, seed: of this rank, and of the trial.
        transform: makes inputs from loaded data, with a generator for random augmentation.
        whole: whether each rank sees the whole of each global batch.
        device: the rank's device. Default: the samples' device.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        rank: int,
        num_ranks: int,
        seed: int,
        transform: Transform = lambda inputs, _: inputs,
        *,
        whole: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        self._samples = samples
        self._device = torch.device(samples.targets.device if device is None else device)
        self._transform = transform
        self._global_size = batch_size * num_ranks
        self._batch_size, self._rank = (self._global_size, 0) if whole else (batch_size, rank)
        self._seed = seed
        self.num_batches = len(samples) // self._global_size
        if self.num_batches == 0:
            raise NotApplicable(
                f"a global batch must have at most {len(samples)} samples, the size of the training data; batch_size "
                f"{batch_size} on {num_ranks} ranks makes {self._global_size}"
            )

    def example(self) -> Tensor:
        """The network's inputs for one batch, without augmentation."""
        return self._transform(self._samples.inputs[: self._batch_size].to(self._device), None)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        seed, lies = self._seed * 1_000_003 + epoch, self._samples.targets.device
        order = torch.randperm(len(self._samples), generator=torch.Generator().manual_seed(seed)).to(lies)
        # All ranks use the same order, and each augments its own share.
        generator = torch.Generator(self._device).manual_seed((seed * 1_000_003 + self._rank) % 2**63)
        for number in range(self.num_batches):
            start = number * self._global_size + self._rank * self._batch_size
            indices = order[start : start + self._batch_size]
            inputs = self._transform(self._samples.inputs[indices].to(self._device), generator)
            targets = self._samples.targets[indices].to(self._device)
            yield Batch(indices=indices.to(self._device), inputs=inputs, targets=targets)


def without_augmentation(transform: Transform) -> Transform:
    """The transform for evaluation, without a random generator."""
    return lambda inputs, _: transform(inputs, None)


def on_device(device: str, samples: Samples) -> Samples:
    """The samples on the device; large data stay in host memory, and their batches are moved one by one."""
    if device == "cpu":
        return samples
    if samples.inputs.nbytes > MAX_DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory:
        return samples
    return Samples(samples.inputs.to(device), samples.targets.to(device))
