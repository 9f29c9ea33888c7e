"""The interface of a workload: data, model, loss, metric and target, fixed so that methods can be compared on it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from atoll.searchspaces.space import SearchSpace


class DataMissing(FileNotFoundError):
    """A workload's data are not where they were looked for; the message says where, and how to get them."""


@dataclass(frozen=True)
class Samples:
    """Inputs (n, ...) and targets (n, ...)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Data:
    """The three parts: training trains, validation tunes, test reports."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True, kw_only=True)
class NoHyperparameters:
    """The hyperparameters of a workload whose network and loss are fixed."""


class Workload(ABC):
    """A training problem.

    Class attributes:
        Hyperparameters: a frozen keyword-only dataclass of what may be searched of network and loss.
        search_space: what of them is searched, on top of the optimizer settings that all methods share.
        summary: one line for `atoll workloads`.
        metric: name of what is optimised, computed by `measure` on the validation data.
        direction: whether a larger or a smaller metric is better.
        target: the metric's value that counts as solved; None where there is none.
        epochs: passes over the training data unless the study says otherwise.
        further_metrics: what is recorded beside the metric: name -> mean over a batch of (outputs, targets), a scalar.
    """

    Hyperparameters: ClassVar[type] = NoHyperparameters
    search_space: ClassVar[SearchSpace] = SearchSpace(())
    summary: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"
    direction: ClassVar[Literal["maximize", "minimize"]] = "maximize"
    target: float | None = None
    epochs: ClassVar[int] = 20
    further_metrics: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType({})

    def __init__(self, hyperparameters: Any = None) -> None:
        self.hyperparameters = self.Hyperparameters() if hyperparameters is None else hyperparameters

    def check_data(self, folder: Path | None) -> None:  # noqa: B027  (embedded data are always there)
        """Raise DataMissing where `load` would not find its files; cheap."""

    @abstractmethod
    def load(self, folder: Path | None) -> Data:
        """Load, split and normalise the data; the same on every rank and at every call.

        Args:
            folder: where the data files are; None to look where ATOLL_DATA says.
        """

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Loaded inputs as the network takes them, called after `load`, on the rank's device.

        Args:
            inputs: (b, ...) of a batch.
            generator: for random augmentation, on the inputs' device; None where the model is evaluated.
        """
        return inputs

    @abstractmethod
    def model(self) -> nn.Module:
        """Make the network; its initial weights come from torch's global random state."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss over a batch, a scalar."""

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean metric over a batch, a scalar."""

    @property
    def num_totals(self) -> int:
        """The length of `totals`."""
        return 3 + len(self.further_metrics)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What `scores` needs of a batch, (k,): sums over its samples, which are added over all batches and ranks."""
        means = [self.loss(outputs, targets), self.measure(outputs, targets)]
        means += [measure(outputs, targets) for measure in self.further_metrics.values()]
        size = len(targets)
        return torch.tensor([*(float(mean) * size for mean in means), size], dtype=torch.float64)

    def scores(self, totals: Tensor) -> dict[str, float]:
        """The loss (`loss`), the metric and further metrics, of the sums of `totals`."""
        names = ["loss", self.metric, *self.further_metrics]
        return {name: float(total / totals[-1]) for name, total in zip(names, totals, strict=False)}


class Classification(Workload):
    """Cross-entropy and accuracy."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits (b, classes) against class indices (b,)."""
        return nn.functional.cross_entropy(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of correct classes."""
        return (outputs.argmax(dim=-1) == targets).to(torch.float64).mean()


class LibraryMissing(ValueError):
    """A workload needs a library that is not installed; the message says how to get it."""


def require_models(workload: str) -> None:
    """Raise LibraryMissing unless the extra `models` is installed."""
    require_library("transformers", "models", f"{workload} takes its network from")


def require_library(library: str, extra: str, purpose: str) -> None:
    """Raise LibraryMissing unless `library`, which `extra` installs, is there; `purpose` goes before its name."""
    if find_spec(library) is None:
        raise LibraryMissing(f'{purpose} {library}, which is not installed; `pip install "atoll[{extra}]"`')


def find_file(names: str | tuple[str, ...], folder: Path | None, how_to_get: str) -> Path:
    """The first of `names` that is in `folder`, or else in the folder that ATOLL_DATA names.

    Raises:
        DataMissing: with the places that were looked at and `how_to_get`.
    """
    configured = os.environ.get("ATOLL_DATA")
    folders = [folder] if folder else [Path(configured)] if configured else []
    names = (names,) if isinstance(names, str) else names
    for path in (candidate / name for candidate in folders for name in names):
        if path.exists():
            return path
    places = (
        ", ".join(str(f.absolute()) for f in folders) or "no folder: neither the study's `data` nor ATOLL_DATA is set"
    )
    raise DataMissing(f"{' or '.join(names)} was not found; looked in {places}. {how_to_get}")


def standardise(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Shift and scale all parts by the mean and deviation of each feature of the training part; constant ones to 0."""
    mean, deviation = train.mean(dim=0), train.std(dim=0)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return [(part - mean) / scale for part in (train, *others)]
