"""A workload and a method whose trials do to their processes what nobody should.

MISBEHAVE maps trial numbers to what they do.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import torch

from atoll.methods.data_parallel.local_sgd import LocalSgd, LocalSgdHyperparameters
from atoll.methods.method import Context
from atoll.platform.workloads.digits import DigitsMlp


class Misbehaving(DigitsMlp):
    """From the third step on, on the first rank that comes there: the others need their peer."""

    def model(self):
        self.number = torch.initial_seed()
        self.steps = 0
        return super().model()

    def loss(self, outputs, targets):
        self.steps += torch.is_grad_enabled()
        kind = json.loads(os.environ.get("MISBEHAVE", "{}")).get(str(self.number))
        if kind is not None and self.steps == 3 and self._is_first():
            getattr(self, kind)()
        return super().loss(outputs, targets)

    def _is_first(self) -> bool:
        try:
            Path(os.environ["MARKS"], str(self.number)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def segfault(self):
        ctypes.string_at(0)

    def quit(self):
        os._exit(0)

    def close_files(self):
        os.closerange(3, 4096)
        time.sleep(600)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def change(self):
        """Leaves a process, another directory, and a torch that is none."""
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(os.environ["MARKS"], "left").write_text(str(process.pid))
        os.chdir("/")
        torch.nn.Linear.forward = lambda self, x: x
        torch.Tensor.backward = None
        torch.manual_seed = None

    def hang(self):
        while True:
            time.sleep(1)

    def babble(self):
        for file in Path("/proc/self/fd").iterdir():
            if os.path.exists(file) and os.readlink(file).startswith("socket:"):
                with contextlib.suppress(OSError):  # another one's, whose end has gone
                    os.write(int(file.name), b"\0\0\0\5hello")


class Splitting(LocalSgd):
    """In the trial with seed 0, rank 0's process dies while it waits in a split, where rank 1 comes "late" or "never"
    (SPLIT), as it waits for rank 0 in vain."""

    def __init__(self, hyperparameters: LocalSgdHyperparameters, context: Context) -> None:
        super().__init__(hyperparameters, context)
        communicator = context.communicator
        if context.seed != 0:
            return
        if communicator.rank == 0:
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        elif os.environ["SPLIT"] == "late":
            time.sleep(2.0)
        else:
            communicator.receive(torch.zeros(1), 0)
        communicator.split(0)
