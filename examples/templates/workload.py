"""A template for a workload: copy this file, rename MyWorkload, and adapt what the comments describe.

A workload fixes the data, the network, the loss, the metric and the target, so that methods can be compared on it. A
study names it as `workload: workload.py:MyWorkload`. For regression, derive from Workload in place of Classification
and define `loss` and `measure` (see own_workload.py).
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from atoll import Classification, Data, Samples, find_file

FILE = "my_data.npz"
# Part of the error message if the file is missing. Say what it contains and where to get it.
HOW_TO_GET = (
    "It holds inputs float32 (n, features) and targets int64 (n,). Put it in a folder, and name that folder with the "
    "study's `data` or with ATOLL_DATA."
)


class MyWorkload(Classification):
    """One line for readers of the code; `summary` is the line for `atoll workloads`."""

    summary: ClassVar[str] = "my data, a perceptron with one hidden layer"
    # The value of the metric that counts as solved: `seconds_to_target` is measured to it. None: no target.
    target: float | None = 0.9
    # Passes over the training data. Studies override it with `epochs`.
    epochs: ClassVar[int] = 10
    # Classification sets `metric = "accuracy"` and `direction = "maximize"`.

    def check_data(self, folder: Path | None) -> None:
        """Raise DataMissing if the file is absent. Called before any rank starts, so it must be cheap."""
        find_file(FILE, folder, HOW_TO_GET)

    def load(self, folder: Path | None) -> Data:
        """Load and split the data. Must return the same samples on every rank and at every call: fix all seeds."""
        with np.load(find_file(FILE, folder, HOW_TO_GET)) as archive:
            inputs, targets = torch.from_numpy(archive["inputs"]), torch.from_numpy(archive["targets"])
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
        train, validation, test = order.tensor_split([int(0.7 * len(order)), int(0.85 * len(order))])
        # The network's shape depends on the data here; `model` is called after `load`.
        self._num_features, self._num_classes = inputs.shape[1], 1 + int(targets.max())
        # Training data train, validation data decide what is best, test data are only reported.
        return Data(*(Samples(inputs[part], targets[part]) for part in (train, validation, test)))

    def transform(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Prepare a batch on the rank's device. `generator` is None in evaluation: augment only if it is not."""
        if generator is None:
            return inputs
        return inputs + 0.01 * torch.randn(inputs.shape, generator=generator, device=inputs.device)

    def model(self) -> nn.Module:
        """Make the network. atoll seeds torch before the call. `mac`, `admm_dual` and `dni` need an nn.Sequential."""
        return nn.Sequential(nn.Linear(self._num_features, 32), nn.ReLU(), nn.Linear(32, self._num_classes))
