"""A workload whose trials misbehave by their numbers, as CHAOS says: raise on a rank, NaN, or never end."""

from __future__ import annotations

import json
import math
import os
import time

import torch
from mpi4py import MPI

from atoll.platform.workloads.digits import DigitsMlp

BEHAVIOUR = {
    int(number): kind for kind, numbers in json.loads(os.environ.get("CHAOS", "{}")).items() for number in numbers
}
STEP_SECONDS = 0.01


class Chaos(DigitsMlp):
    def model(self):
        self.number = torch.initial_seed()  # the trial's seed, which is its number here
        self.steps = 0
        return super().model()

    def loss(self, outputs, targets):
        self.steps += 1
        kind = BEHAVIOUR.get(self.number)
        time.sleep(STEP_SECONDS)
        if self.steps >= 3 and kind == "raise" and MPI.COMM_WORLD.rank % 2 == self.number % 2:
            raise RuntimeError("broken on purpose")
        if self.steps >= 3 and kind == "nan" and MPI.COMM_WORLD.rank % 2 == self.number % 2:
            return super().loss(outputs, targets) * math.nan
        if self.steps >= 3 and kind == "hang":
            time.sleep(0.2)
        return super().loss(outputs, targets)
