"""A workload whose measurement raises what the learning rate's number says, and methods with odd notes and metrics."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from aborting import Tiny

from atoll.methods.data_parallel.local_sgd import LocalSgd
from atoll.platform.workloads.workload import Data, Samples


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("nothing to say")

    __repr__ = __str__


class MuteExit(MuteError):
    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


class Stopped(Exception):
    """Has the name of one of atoll's own, which means that a trial is queued again."""


class OwnBaseError(BaseException):
    pass


RAISED = {
    "exit": SystemExit(2),
    "exit_zero": SystemExit(0),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
    "base": OwnBaseError("b"),
    "mute": MuteError(),
    "mute_exit": MuteExit(),
    "named_stopped": Stopped("s"),
    "surrogate": FileNotFoundError("no such image: caf\udce9\0.png"),
    "long": ValueError("a" * 3_000_000 + "end"),
}


class Raising(Tiny):
    """RAISED names the exception, RAISED_AFTER the seconds until then.

    "changes" changes how numpy handles errors, and "none" does nothing.
    """

    def loss(self, outputs, targets):
        if os.environ["RAISED"] == "changes":
            np.seterr(over="raise")
        error = RAISED.get(os.environ["RAISED"])
        if error is not None and torch.is_grad_enabled():
            time.sleep(float(os.environ.get("RAISED_AFTER", "0")))
            raise error
        return super().loss(outputs, targets)


class Odd(LocalSgd):
    """Notes that are no strings, and numbers that are no floats."""

    @property
    def notes(self):
        return (7, "caf\udce9")

    def metrics(self):
        return {"one": np.float32(1.0), "two": torch.tensor(2)}


class NothingToValidate(Raising):
    def load(self, folder: Path | None) -> Data:
        whole = super().load(folder).train
        return Data(whole, Samples(whole.inputs[:0], whole.targets[:0]), whole)
