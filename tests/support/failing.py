"""A workload whose ranks fail on purpose, as the environment says: used by tests of real MPI searches."""

from __future__ import annotations

import math
import os
import signal
import time

import torch
from mpi4py import MPI

from atoll.platform.workloads.digits import DigitsMlp


class Failing(DigitsMlp):
    """FAIL=raise raises on one rank of every third trial, after a few steps; FAIL=kill ends
    its process in trial 2; FAIL=slow takes its time."""

    trials_made = 0

    def model(self):
        type(self).trials_made += 1
        self.steps = 0
        self.number = torch.initial_seed()  # the trial's seed, which is its number here
        return super().model()

    def loss(self, outputs, targets):
        self.steps += 1
        kind, third = os.environ.get("FAIL", ""), self.trials_made % 3 == 0
        if kind == "raise" and third and MPI.COMM_WORLD.rank % 2 == 1 and self.steps == 5:
            raise RuntimeError("broken on purpose")
        if kind == "nan" and third and MPI.COMM_WORLD.rank % 2 == 1 and self.steps == 5:
            return super().loss(outputs, targets) * math.nan
        if kind == "kill" and self.number == 2 and self.steps == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind in ("slow", "kill"):
            time.sleep(0.02)
        return super().loss(outputs, targets)
