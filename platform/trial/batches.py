"""A rank's share of each global batch, of samples that are tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from atoll.methods.common.nested import Nested
from atoll.methods.method import Batch
from atoll.platform.trial.shares import Purpose, Share, data_seed, order
from atoll.platform.workloads.workload import Part, Samples

Transform = Callable[[Nested, torch.Generator | None], Nested]

MAX_DEVICE_SHARE = 0.25  # of the device's memory, for data


class Batches(Protocol):
    """A rank's batches, whatever they are loaded from.

    Attributes:
        num_batches: the number of batches of an epoch, equal on all ranks.
    """

    num_batches: int

    def example(self) -> Nested:
        """The network's inputs for one batch, without augmentation."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from batch `start` on."""

    def pass_over(self, num_batches: int, poll: Callable[[], None]) -> None:
        """Prepare to continue after so many batches of the training; `poll` is called in between."""

    def close(self) -> None:
        """End the processes that load batches."""


class EpochBatches:
    """This rank's share of each global batch of an epoch, in an order determined by the seed.

    Args:
        samples: the training data.
        share: this rank's share.
        seed: the trial's.
        transform: makes inputs from loaded data, with a generator for random augmentation.
        device: the rank's device. Default: the samples' device.
    """

    def __init__(
        self,
        samples: Samples,
        share: Share,
        seed: int,
        transform: Transform = lambda inputs, _: inputs,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        self._samples = samples
        self._share = share
        self._device = torch.device(samples.targets.device if device is None else device)
        self._transform = transform
        self._seed = seed
        self.num_batches = share.num_batches(len(samples))

    def example(self) -> Tensor:
        """The network's inputs for one batch, without augmentation."""
        first = self._share.of(0)
        inputs: Tensor = self._transform(self._samples.inputs[: first.stop - first.start].to(self._device), None)
        return inputs

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on."""
        permutation = order(len(self._samples), self._seed, epoch).to(self._samples.targets.device)
        # All ranks use the same order, and each augments its own share.
        generator = torch.Generator(self._device)
        for number in range(start, self.num_batches):
            generator.manual_seed(data_seed(Purpose.TRANSFORM, self._seed, epoch, self._share.place, number))
            indices = permutation[self._share.of(number)]
            inputs = self._transform(self._samples.inputs[indices].to(self._device), generator)
            targets = self._samples.targets[indices].to(self._device)
            yield Batch(indices=indices.to(self._device), inputs=inputs, targets=targets)

    def pass_over(self, num_batches: int, poll: Callable[[], None]) -> None:
        """Nothing: any batch of an epoch can be made."""

    def close(self) -> None:
        """Nothing to end: the samples are in memory."""


class NoSamples:
    """The batches of a rank that only serves: as many as the others', without samples.

    Args:
        batches: another rank's, which are never loaded.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.num_batches = batches.num_batches

    def example(self) -> Nested:
        """The network's inputs for one batch of the others, without augmentation."""
        return self._batches.example()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on."""
        none = torch.empty(0)
        for _ in range(start, self.num_batches):
            yield Batch(indices=none.to(torch.int64), inputs=none, targets=none)

    def pass_over(self, num_batches: int, poll: Callable[[], None]) -> None:
        """Nothing: there are no samples to pass over."""

    def close(self) -> None:
        """End the processes that have loaded the example."""
        self._batches.close()


def without_augmentation(transform: Transform) -> Transform:
    """The transform for evaluation, without a random generator."""
    return lambda inputs, _: transform(inputs, None)


def on_device(device: str, data: Part) -> Part:
    """Samples on the device; large ones, and data sets, stay in host memory, and their batches are moved one by one."""
    if device == "cpu" or not isinstance(data, Samples):
        return data
    if data.inputs.nbytes > MAX_DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory:
        return data
    return Samples(data.inputs.to(device), data.targets.to(device))
