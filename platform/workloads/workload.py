"""The interface of a workload: fixed data, network, loss, metric and target, on which methods are compared."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from atoll.methods.common.groups import ParameterGroup, default_groups
from atoll.methods.common.nested import Nested, num_samples
from atoll.methods.method import Batch, MetricDirections, forward
from atoll.searchspaces.space import SearchSpace
from atoll.storage.files import make_folder

# Notes what `find_file` finds, while `Workload.data_files` listens.
_found: ContextVar[list[Path]] = ContextVar("found")


class DataMissing(FileNotFoundError):
    """A workload's data files are absent; the message names the places searched and how to get the files.

    Example:
        >>> from pathlib import Path
        >>> from atoll import DataMissing, find_file
        >>> try:
        ...     find_file("my_data.npz", Path("no-such-folder"), "Download it from example.org.")
        ... except DataMissing as error:
        ...     print(str(error).partition(";")[0])
        my_data.npz was not found
    """


@dataclass(frozen=True)
class Samples:
    """Inputs (n, ...) and targets (n, ...) of n samples: tensors in memory, or mapped from a file.

    Example:
        >>> import torch
        >>> from atoll import Samples
        >>> samples = Samples(inputs=torch.rand(100, 64), targets=torch.zeros(100, dtype=torch.int64))
        >>> len(samples)
        100
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


Part = Samples | Dataset[Any]
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Data(Generic[P]):
    """The three parts of a data set.

    Each part is `Samples`, a map-style `torch.utils.data.Dataset`, or an `IterableDataset`; atoll makes the batches.

    Attributes:
        train: what methods train on.
        validation: what the search optimizes the metric on.
        test: what benchmarks report; the search never looks at it.

    Example:
        >>> import torch
        >>> from atoll import Data, Samples
        >>> inputs, targets = torch.rand(100, 4), torch.arange(100) % 3
        >>> parts = [Samples(inputs[part], targets[part]) for part in (slice(70), slice(70, 85), slice(85, 100))]
        >>> data = Data(*parts)
        >>> len(data.train), len(data.validation), len(data.test)
        (70, 15, 15)
    """

    train: P
    validation: P
    test: P

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            if not isinstance(part := getattr(self, name), Samples | Dataset):
                advice = "return its dataset, and define `collate`" if isinstance(part, DataLoader) else "see Data"
                raise TypeError(
                    f"{name} must be Samples, a torch Dataset or an IterableDataset, of which atoll makes batches; got "
                    f"{type(part).__name__}: {advice}"
                )


@dataclass(frozen=True, kw_only=True)
class NoHyperparameters:
    """The hyperparameters of a workload whose network and loss are fixed."""


class Workload(ABC):
    """A training problem: subclass it, and define `load`, `model`, `loss` and `measure`.

    The loss must be a mean over samples, each of whose terms depends on its own sample only.

    Class attributes:
        Hyperparameters: a frozen keyword-only dataclass of the network's and the loss's hyperparameters. Default: none.
        search_space: their ranges, on top of the optimizer settings that all methods share.
        summary: one line for `atoll workloads`.
        metric: name of the optimized metric, which `measure` computes on the validation data.
        direction: whether a larger or a smaller metric is better.
        target: the metric's value that counts as solved; None for no target.
        epochs: passes over the training data, unless the study overrides them.
        steps: length of the training in steps, unless the study overrides it. Default: `epochs` counts.
        further_metrics: metrics recorded next to the main one: name -> function of (outputs, targets) that returns the
            mean over a batch, a scalar.
        metric_directions: the better direction, minimize or maximize, of further metrics, and of others that `scores`
            always returns; None if neither is better as such. A study may have them as objectives.
        evaluation_batch_size: samples that are evaluated at once.
        steps_per_epoch: steps that count as an epoch, for iterable training data. Default: the whole training.

    Example:
        >>> import torch
        >>> from atoll import Data, Samples, Workload
        >>> class Doubling(Workload):
        ...     metric, direction, target = "mse", "minimize", 1e-3
        ...
        ...     def load(self, folder):
        ...         x = torch.linspace(-1, 1, 30)[:, None]
        ...         return Data(*(Samples(x[part::3], 2 * x[part::3]) for part in range(3)))
        ...
        ...     def model(self):
        ...         return torch.nn.Linear(1, 1)
        ...
        ...     def loss(self, outputs, targets):
        ...         return torch.nn.functional.mse_loss(outputs, targets)
        ...
        ...     measure = loss
        >>> workload = Doubling()
        >>> data = workload.load(None)
        >>> workload.loss(2 * data.train.inputs, data.train.targets)
        tensor(0.)
    """

    Hyperparameters: ClassVar[type] = NoHyperparameters
    search_space: ClassVar[SearchSpace] = SearchSpace(())
    summary: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"
    direction: ClassVar[Literal["maximize", "minimize"]] = "maximize"
    target: float | None = None
    epochs: ClassVar[int] = 20
    steps: ClassVar[int | None] = None
    further_metrics: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]] = MappingProxyType({})
    metric_directions: ClassVar[MetricDirections] = MappingProxyType({})
    evaluation_batch_size: ClassVar[int] = 256  # forecasts of 720 steps by a wide network take 6 MB each
    steps_per_epoch: ClassVar[int | None] = None
    _trial_folder: Path | None = None

    def __init__(self, hyperparameters: Any = None) -> None:
        self.hyperparameters = self.Hyperparameters() if hyperparameters is None else hyperparameters

    @property
    def trial_folder(self) -> Path | None:
        """The trial's own folder, for files of the workload's; made when it is first asked for.

        In a search it is `trials/NUMBER` in the study's folder, which all ranks share and which stays until `atoll
        delete`; a trial that is trained again, after a crash, finds the files of its earlier attempt. `atoll train`
        names one with --folder, and otherwise makes a temporary one, as `atoll check` does. The names checkpoint.json,
        weights.safetensors, step-* and .* are atoll's. None if the workload is used by itself.
        """
        if self._trial_folder is not None:
            make_folder(self._trial_folder)
        return self._trial_folder

    @trial_folder.setter
    def trial_folder(self, folder: Path | None) -> None:
        self._trial_folder = folder

    def check_data(self, folder: Path | None) -> None:  # noqa: B027  (embedded data are always there)
        """Raise DataMissing if `load` would not find its files; must be cheap."""

    def data_files(self, folder: Path | None) -> Sequence[Path]:
        """The files and folders that `load` reads; must be cheap.

        A study records their sizes and hashes, and is not resumed with others. Default: those that `check_data` finds
        with `find_file`; if it finds none, all of the folder that the study's `data` names.

        Args:
            folder: the folder of the data files. None: the folder that ATOLL_DATA names.
        """
        found: list[Path] = []
        token = _found.set(found)
        try:
            self.check_data(folder)
        finally:
            _found.reset(token)
        return found

    @abstractmethod
    def load(self, folder: Path | None) -> Data[Any]:
        """Load, split and normalize the data; the result is the same on every rank and at every call.

        Args:
            folder: the folder of the data files. None: the folder that ATOLL_DATA names.
        """

    def collate(self, items: list[Any]) -> Nested:
        """Make a batch of a data set's items. Default: torch's `default_collate`, which stacks their tensors.

        It runs in the processes that load batches. Sequences of different lengths are padded here.
        """
        return default_collate(items)

    def inputs_and_targets(self, batch: Nested) -> tuple[Nested, Nested]:
        """Split a collated batch into the network's inputs and the loss's targets.

        Default: a pair is both; of a dict, `labels` are the targets, and all else the inputs.
        """
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        if isinstance(batch, Mapping) and "labels" in batch:
            return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
        shape = f"keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(
            "a batch must be a pair of inputs and targets, or a dict with `labels`, unless the workload defines "
            f"`inputs_and_targets`; got {shape}"
        )

    def forward(self, model: nn.Module, batch: Batch) -> Nested:
        """The network's outputs. Default: `model(inputs)`; a dict of inputs gives names, a tuple several arguments."""
        return forward(model, batch)

    def transform(self, inputs: Nested, generator: torch.Generator | None) -> Nested:
        """Turn loaded inputs into the network's, on the rank's device; called after `load`.

        Args:
            inputs: (b, ...) of a batch, or a nesting of such tensors.
            generator: for random augmentation, on the inputs' device; None in evaluation.
        """
        return inputs

    @abstractmethod
    def model(self) -> nn.Module:
        """Make the network; its initial weights come from torch's global random state."""

    def parameter_groups(self, model: nn.Module) -> Sequence[ParameterGroup]:
        """The factors of learning rate and weight decay of the network's parameters.

        Each trained parameter must be in one group. Methods that factor a layer train its factors as its weight.
        Default: biases, one-dimensional parameters and those of normalization layers do not decay.
        """
        return default_groups(model)

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss over a batch, a scalar."""

    def training_loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss that methods minimize, a scalar; `loss` is what validation reports. Default: the same.

        For what only training has, such as smoothed labels, so that trials with different settings compare.
        """
        return self.loss(outputs, targets)

    @abstractmethod
    def measure(self, outputs: Any, targets: Any) -> Tensor:
        """The mean metric over a batch, a scalar."""

    @property
    def num_totals(self) -> int:
        """The length of `totals`."""
        return 3 + len(self.further_metrics)

    def totals(self, outputs: Any, targets: Any) -> Tensor:
        """Sums (k,) over a batch's samples, which are added over all batches and ranks and passed to `scores`."""
        means = [self.loss(outputs, targets), self.measure(outputs, targets)]
        means += [measure(outputs, targets) for measure in self.further_metrics.values()]
        size = num_samples(targets)
        return torch.tensor([*(float(mean) * size for mean in means), size], dtype=torch.float64)

    def scores(self, totals: Tensor) -> dict[str, float]:
        """The loss (as `loss`), the metric and the further metrics, from the sums of `totals`."""
        names = ["loss", self.metric, *self.further_metrics]
        return {name: float(total / totals[-1]) for name, total in zip(names, totals, strict=False)}


class Classification(Workload):
    """A workload with cross-entropy as its loss and accuracy as its metric; define `load` and `model`.

    Example:
        >>> import torch
        >>> from atoll import Classification, Data, Samples
        >>> class Signs(Classification):
        ...     def load(self, folder):
        ...         x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        ...         samples = Samples(x, (x[:, 0] > 0).to(torch.int64))
        ...         return Data(train=samples, validation=samples, test=samples)
        ...
        ...     def model(self):
        ...         return torch.nn.Linear(1, 2)
        >>> validation = Signs().load(None).validation
        >>> logits = torch.cat([-validation.inputs, validation.inputs], dim=1)
        >>> Signs().measure(logits, validation.targets)
        tensor(1., dtype=torch.float64)
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits (b, classes) against class indices (b,)."""
        return nn.functional.cross_entropy(outputs, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same, against labels smoothed by the hyperparameter label_smoothing, if there is one."""
        if not (smoothing := getattr(self.hyperparameters, "label_smoothing", 0.0)):
            return self.loss(outputs, targets)
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of correct classes."""
        return (outputs.argmax(dim=-1) == targets).to(torch.float64).mean()


class LibraryMissing(ValueError):
    """A workload needs a library that is not installed; the message says how to install it."""


def require_models(workload: str) -> None:
    """Raise LibraryMissing unless the extra `models` is installed."""
    require_library("transformers", "models", f"{workload} takes its network from")


def require_library(library: str, extra: str, purpose: str) -> None:
    """Raise LibraryMissing unless `library`, which `extra` installs, is installed.

    Args:
        library: its import name.
        extra: the extra of atoll that installs it.
        purpose: the beginning of the message, before the library's name.
    """
    if find_spec(library) is None:
        raise LibraryMissing(f'{purpose} {library}, which is not installed; `pip install "atoll[{extra}]"`')


def find_file(names: str | tuple[str, ...], folder: Path | None, how_to_get: str) -> Path:
    """The path of the first of `names` that exists in `folder`. Default folder: the one that ATOLL_DATA names.

    Args:
        names: a file's name, or several to try in order.
        folder: the `folder` that `Workload.load` or `check_data` received.
        how_to_get: sentences for the error: contents, source, and where to put the file.

    Raises:
        DataMissing: with the places searched and `how_to_get`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from atoll import find_file
        >>> with tempfile.TemporaryDirectory() as name:
        ...     _ = (Path(name) / "my_data.npz").write_bytes(b"")
        ...     find_file(("my_data.csv", "my_data.npz"), Path(name), "Download it.").name
        'my_data.npz'
    """
    configured = os.environ.get("ATOLL_DATA")
    folders = [folder] if folder else [Path(configured)] if configured else []
    names = (names,) if isinstance(names, str) else names
    for path in (candidate / name for candidate in folders for name in names):
        if path.exists():
            if (found := _found.get(None)) is not None:
                found.append(path)
            return path
    places = (
        ", ".join(str(f.absolute()) for f in folders) or "no folder: neither the study's `data` nor ATOLL_DATA is set"
    )
    raise DataMissing(f"{' or '.join(names)} was not found; looked in {places}. {how_to_get}")


def standardize(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Scale all parts by each feature's mean and deviation in the training part; constant features become 0."""
    mean, deviation = train.mean(dim=0), train.std(dim=0)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return [(part - mean) / scale for part in (train, *others)]
