"""A rank's share of the training data, whatever it is loaded from, as its method takes it."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import IterableDataset

from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.loader import Loader
from atoll.platform.trial.batches import Batches, EpochBatches, Transform, on_device, without_augmentation
from atoll.platform.trial.loaders import LoadedBatches, StreamedBatches
from atoll.platform.trial.shares import Share
from atoll.platform.workloads.workload import Part, Samples, Workload


def training_batches(
    workload: Workload, configuration: Configuration, data: Part, share: Share, hyperparameters: object, device: str
) -> Batches:
    """This rank's share of the training data.

    Args:
        workload: makes batches.
        configuration: names the method, and has the seed, the length and the loader's settings.
        data: the training data.
        share: this rank's share.
        hyperparameters: the method's.
        device: this rank's device.

    Raises:
        NotApplicable: for data that the method cannot be trained on, or too few of them.
    """
    method = registry.method(configuration.method)
    name, seed = configuration.method, configuration.seed
    transform: Transform = workload.transform
    if keeps_samples := method.keeps_samples(hyperparameters):
        transform = without_augmentation(transform)
    if isinstance(samples := on_device(device, data), Samples):
        return EpochBatches(samples, share, seed, transform, device=device)
    loader = configuration.loader or Loader()
    batches: LoadedBatches | StreamedBatches
    if isinstance(data, IterableDataset):
        if keeps_samples:
            raise NotApplicable(
                f"{name} keeps something for each sample, so it needs training data with positions; got the "
                f"iterable {type(data).__name__}: return a map-style Dataset or Samples"
            )
        per_epoch = workload.steps_per_epoch or length_in_steps(workload, configuration)
        if per_epoch is None:
            raise NotApplicable(
                "iterable training data have no epochs: give the study's or workload's `steps`, or the workload's "
                f"`steps_per_epoch`; got epochs {configuration.epochs or workload.epochs}"
            )
        batches = StreamedBatches(data, share, seed, workload, loader, transform, num_batches=per_epoch, device=device)
    else:
        assert not isinstance(data, Samples)
        batches = LoadedBatches(data, share, seed, workload, loader, transform, device=device)
    if method.layer_parallel and not isinstance(inputs := batches.example(), Tensor):
        raise NotApplicable(
            f"{name} cuts the network into a chain of layers, so each batch's inputs must be one tensor; got "
            f"{type(inputs).__name__}"
        )
    return batches


def length_in_steps(workload: Workload, configuration: Configuration) -> int | None:
    """The training's length in steps: the configuration's or the workload's; None if it is in epochs."""
    return configuration.steps or (None if configuration.epochs else workload.steps)
