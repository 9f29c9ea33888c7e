"""A workload that notes, in the folder COUNTING, how many training steps each rank took in each trial."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from mpi4py import MPI

from atoll.platform.workloads.digits import DigitsMlp


class Counting(DigitsMlp):
    def model(self):
        self.number = torch.initial_seed()  # the trial's seed, which is its number here
        self.steps = 0
        return super().model()

    def loss(self, outputs, targets):
        if torch.is_grad_enabled():  # evaluation does not count
            self.steps += 1
            file = Path(os.environ["COUNTING"]) / f"{self.number}.{MPI.COMM_WORLD.rank}"
            file.write_text(str(self.steps))
        time.sleep(float(os.environ.get("SECONDS_PER_STEP", "0")))
        return super().loss(outputs, targets)
