"""Workloads that fail, wait or count on purpose, as the environment says. Ranks are processes over MPI, or threads."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from atoll.platform.workloads.digits import DigitsMlp


def world_rank() -> int:
    """This rank's number: of the thread in a search in one process, else of the process."""
    name = threading.current_thread().name
    if name.startswith("rank "):
        return int(name.removeprefix("rank "))
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank


class _Disturbed(DigitsMlp):
    def model(self):
        self.number = torch.initial_seed()  # the trial's seed, which is its number here
        self.steps = 0
        return super().model()

    def trains(self) -> bool:
        """Whether a loss is for a training step; evaluations are not counted."""
        if torch.is_grad_enabled():
            self.steps += 1
        return torch.is_grad_enabled()


class Failing(_Disturbed):
    """FAIL=raise raises on one rank of every third trial, after a few steps; FAIL=nan diverges there; FAIL=kill ends
    the process of trial 2; FAIL=slow takes its time; FAIL=chdir
    changes the working directory, and beats."""

    def loss(self, outputs, targets):
        kind, is_fifth = os.environ.get("FAIL", ""), self.trains() and self.steps == 5
        fails = is_fifth and self.number % 3 == 2 and world_rank() % 2 == 1
        if kind == "raise" and fails:
            raise RuntimeError("broken on purpose")
        if kind == "nan" and fails:
            return super().loss(outputs, targets) * math.nan
        if kind == "kill" and self.number == 2 and is_fifth:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "chdir" and is_fifth:
            os.chdir("/")
            time.sleep(0.2)  # the heartbeat is due
        if kind in ("slow", "kill"):
            time.sleep(0.02)
        return super().loss(outputs, targets)


class Chaos(_Disturbed):
    """Trials raise on a rank, diverge, or never end, by the numbers that CHAOS lists for "raise", "nan" and "hang"."""

    STEP_SECONDS = 0.01

    def loss(self, outputs, targets):
        self.trains()
        time.sleep(self.STEP_SECONDS)
        numbers = json.loads(os.environ.get("CHAOS", "{}"))
        kind = next((kind for kind, some in numbers.items() if self.number in some), None)
        is_chosen = self.steps >= 3 and world_rank() % 2 == self.number % 2
        if kind == "raise" and is_chosen:
            raise RuntimeError("broken on purpose")
        if kind == "nan" and is_chosen:
            return super().loss(outputs, targets) * math.nan
        if kind == "hang" and self.steps >= 3:
            time.sleep(0.2)
        return super().loss(outputs, targets)


def die_at(place: str) -> None:
    """Kill this process if the folder DIE has a file of that name: the first process that comes by takes it."""
    try:
        (Path(os.environ["DIE"]) / place).unlink()
    except (KeyError, FileNotFoundError):
        return
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(Chaos):
    """Its ranks die at the places that the folder DIE names: start, split, migration, journal (in a line), finish."""

    def load(self, folder):
        self.die_on_the_way()
        die_at("start")
        return super().load(folder)

    @staticmethod
    def die_on_the_way() -> None:
        """Have the search itself come by these places, once in a process."""
        from atoll.communication.mpi_world import MpiWorld
        from atoll.platform.search.island import Island
        from atoll.platform.trial.worker import Worker

        def before(owner: type, name: str, act: Callable[..., None]) -> None:
            original = getattr(owner, name)
            if not hasattr(original, "dies"):

                def acting(self, *arguments, **options):
                    act(self, *arguments)
                    return original(self, *arguments, **options)

                acting.dies = True
                setattr(owner, name, acting)

        write = os.write

        def tear(file: int, data: bytes) -> int:
            if (
                bytes(data).startswith(b'{"event":"trial_ended"')
                and (Path(os.environ.get("DIE", "")) / "journal").exists()
            ):
                write(file, data[: len(data) // 2])
                die_at("journal")
            return write(file, data)

        before(MpiWorld, "split", lambda *_: die_at("split"))
        before(Island, "migrate", lambda *_: die_at("migration"))
        before(Worker, "dismiss", lambda *_: die_at("finish"))
        os.write = tear


class Counting(_Disturbed):
    """Notes, in the folder COUNTING, how many training steps each rank took in each trial."""

    def loss(self, outputs, targets):
        if self.trains():
            file = Path(os.environ["COUNTING"]) / f"{self.number}.{world_rank()}"
            file.write_text(str(self.steps))
        time.sleep(float(os.environ.get("SECONDS_PER_STEP", "0")))
        return super().loss(outputs, targets)
