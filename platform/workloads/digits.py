"""Handwritten digits: 1,797 real 8x8 images of ten classes, embedded in atoll.

`data/digits.npz` holds the test set of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak, 1998, doi:10.24432/C50P49, license CC BY 4.0), in the order of scikit-learn's `load_digits`: images uint8
(1797, 64) with values from 0 to 16, and labels uint8 (1797,).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from atoll.platform.workloads.split import stratified_split
from atoll.platform.workloads.workload import Classification, Data, Samples, standardize

_FILE = Path(__file__).with_name("data") / "digits.npz"
_SPLIT_SEED = 0


@cache
def _load() -> Data[Samples]:
    with np.load(_FILE, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    train, rest = stratified_split(labels, 0.3, _SPLIT_SEED)
    validation, test = (rest[part] for part in stratified_split(labels[rest], 0.5, _SPLIT_SEED))
    parts = (train, validation, test)
    inputs = standardize(*(torch.tensor(images[part], dtype=torch.float32) for part in parts))
    targets = [torch.tensor(labels[part], dtype=torch.int64) for part in parts]
    return Data(*(Samples(x, y) for x, y in zip(inputs, targets, strict=True)))


class DigitsMlp(Classification):
    """Two hidden layers on 64 pixels."""

    summary: ClassVar[str] = "handwritten digits 8x8, a multi-layer perceptron 64-64-64-10"
    target: float | None = 0.97

    def load(self, folder: Path | None) -> Data[Samples]:
        """1,257 training, 270 validation and 270 test images, (n, 64)."""
        return _load()

    def model(self) -> nn.Module:
        """64-64-64-10 with ReLU: 8,970 parameters."""
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class DigitsCnn(Classification):
    """Two convolutions on 8x8 pixels."""

    summary: ClassVar[str] = "handwritten digits 8x8, two convolutions with batch normalization"
    target: float | None = 0.98

    def load(self, folder: Path | None) -> Data[Samples]:
        """The data of digits_mlp as images (n, 1, 8, 8)."""
        data = _load()
        return Data(*(Samples(_image(part.inputs), part.targets) for part in (data.train, data.validation, data.test)))

    def model(self) -> nn.Module:
        """16 and 32 channels of 3x3, batch normalization, one pooling, a linear layer."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )


def _image(inputs: Tensor) -> Tensor:
    return inputs.view(-1, 1, 8, 8)
