"""The workload of train.py: its data, network and metric go in unchanged."""

from dataclasses import dataclass

import torch
from train import CLASSES, Net, Shapes, confusion, macro_f1

from atoll import Classification, Data


@dataclass(frozen=True, kw_only=True)
class Settings:
    width: int = 8
    label_smoothing: float = 0.1


class ShapesWorkload(Classification):  # its loss is cross-entropy, with smoothed labels in training
    Hyperparameters = Settings
    metric, target, epochs = "macro_f1", 0.95, 6
    num_totals = len(CLASSES) ** 2 + 1

    def load(self, folder):
        return Data(Shapes(640, 0, augment=True), Shapes(160, 1), Shapes(160, 2))

    def model(self):
        return Net(self.hyperparameters.width)

    def measure(self, outputs, targets):  # of one batch; `totals` and `scores` measure all of them
        return torch.tensor(macro_f1(confusion(outputs, targets)))

    def totals(self, outputs, targets):
        return torch.cat([confusion(outputs, targets).flatten(), self.loss(outputs, targets)[None] * len(targets)])

    def scores(self, totals):
        counts = totals[:-1].reshape(len(CLASSES), -1)
        return {"loss": totals[-1] / counts.sum(), "macro_f1": macro_f1(counts)}
