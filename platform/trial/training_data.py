"""Chooses how a rank gets its batches: from tensors in memory, a data set, or a stream."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from atoll.methods.method import Method, NotApplicable
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.loader import Loader
from atoll.platform.trial.batches import Batches, EpochBatches, Transform, on_device, without_augmentation
from atoll.platform.trial.loaders import LoadedBatches, StreamedBatches
from atoll.platform.trial.shares import Share
from atoll.platform.workloads.workload import Part, Samples, Workload


def training_batches(
    configuration: Configuration,
    workload: Workload,
    data: Part,
    method: type[Method[Any]],
    hyperparameters: object,
    share: Share,
    device: str,
) -> Batches:
    """A rank's share of the training data. Raises NotApplicable if the method cannot train on them.

    Args:
        configuration, workload, data: what is trained, and on what.
        method, hyperparameters: the configuration's.
        share, device: the rank's.
    """
    name, seed, keeps_samples = configuration.method, configuration.seed, method.keeps_samples(hyperparameters)
    transform: Transform = without_augmentation(workload.transform) if keeps_samples else workload.transform
    if isinstance(samples := on_device(device, data), Samples):
        return EpochBatches(samples, share, seed, transform, device=device)
    loader = configuration.loader or Loader()
    batches: LoadedBatches | StreamedBatches
    if isinstance(data, IterableDataset):
        if keeps_samples:
            raise NotApplicable(
                f"{name} keeps something for each sample, so it needs training data with positions; got the iterable "
                f"{type(data).__name__}: return a map-style Dataset or Samples"
            )
        num_batches = _steps_per_epoch(configuration, workload)
        batches = StreamedBatches(
            data, share, seed, workload, loader, transform, num_batches=num_batches, device=device
        )
    else:
        assert not isinstance(data, Samples)
        batches = LoadedBatches(data, share, seed, workload, loader, transform, device=device)
    if method.layer_parallel and not isinstance(inputs := batches.example(), Tensor):
        raise NotApplicable(
            f"{name} cuts the network into a chain of layers, so each batch's inputs must be one tensor; got "
            f"{type(inputs).__name__}"
        )
    return batches


def _steps_per_epoch(configuration: Configuration, workload: Workload) -> int:
    """The steps that count as an epoch of iterable data."""
    number = workload.steps_per_epoch or configuration.steps
    if number is None:
        raise NotApplicable(
            "iterable training data have no epochs: give the study's or workload's `steps`, or the workload's "
            f"`steps_per_epoch`; got epochs {configuration.epochs or workload.epochs}"
        )
    return number
