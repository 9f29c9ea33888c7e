"""A study with a user's own code and data, in a folder of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

WORKLOAD = """
import torch

import helper
from atoll import Classification, Data, Samples, find_file


class Mine(Classification):
    epochs = 1

    def check_data(self, folder):
        find_file("x.txt", folder, "It is a number.")

    def load(self, folder):
        threshold = float(find_file("x.txt", folder, "It is a number.").read_text())
        x = torch.rand(90, 4, generator=torch.Generator().manual_seed(0))
        y = (x[:, 0] > threshold + helper.SHIFT).to(torch.int64)
        return Data(*(Samples(x[part::3], y[part::3]) for part in range(3)))

    def model(self):
        return torch.nn.Linear(4, 2)
"""


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, /, **content: object) -> None:
    """Write s.yaml, w.py, its helper.py, which becomes importable for the test's time, and data/x.txt."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "helper", None)  # so that the test's end removes it
    del sys.modules["helper"]
    (folder / "w.py").write_text(WORKLOAD)
    (folder / "helper.py").write_text("SHIFT = 0.1\n")
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data/x.txt").write_text("0.5\n")
    write_study(folder, **content)


def write_study(folder: Path, /, **content: object) -> None:
    study = {"name": "s", "workload": "w.py:Mine", "method": "ddp", "trials": 2, "data": "data"}
    study |= {"sampler": {"name": "random"}, "space": {"batch_size": 8, "wire": "float32"}}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))
