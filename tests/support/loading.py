"""A workload whose data come from a DataLoader's workers, as a user's file would have it."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data, Samples


class Noisy(Dataset):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples.inputs[i] + 0.1 * torch.randn(64), self.samples.targets[i]


class Loading(DigitsMlp):
    def load(self, folder):
        data = super().load(folder)
        return Data(Noisy(data.train), Noisy(data.validation), Noisy(data.test))
