"""Data sets for tests of loading; spawned workers import them from here."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset


class Numbers(Dataset):
    """Item i is i, with three random numbers."""

    def __init__(self, count=40):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        drawn = torch.tensor([float(torch.rand(1)), np.random.rand(), random.random()], dtype=torch.float64)
        return {"x": torch.tensor(float(index)), "drawn": drawn}, index


class Counting(IterableDataset):
    def __init__(self, count=40):
        self.count = count

    def __iter__(self):
        return iter((torch.tensor([float(i)]), i) for i in range(self.count))
