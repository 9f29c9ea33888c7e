"""A trial's checkpoints: files in its folder from which the same number of ranks continue, also on other hosts.

Each rank writes its own state. When all have, the root writes the manifest, which names the step: a checkpoint is whole
or not there. Files are read with `weights_only=True`: nothing in them can run code.
"""

from __future__ import annotations

import json
import math
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atoll.communication.communicator import Communicator
from atoll.methods.common.plain import require_plain
from atoll.platform.study.configuration import Configuration, history
from atoll.platform.trial.triggers import IntervalTrigger
from atoll.storage.files import make_folder, replacing
from atoll.storage.folder import TrialFolder

# Where a training runs may differ when it goes on; what it computes may not. Versions of libraries that change what is
# measured are the launcher's to judge.
_MAY_DIFFER = {"origin", "threads", "device", "data", "checkpoint", "versions"}

_LENGTHS = (["epochs"], ["steps"])  # a training may become longer


class Checkpoints:
    """The checkpoints of one trial, as one of its ranks sees them. All methods are collective.

    Args:
        folder: the trial's; made when it is needed.
        configuration: the trial's; a checkpoint of another one is not read.
        communicator: the worker's ranks; traffic on it does not count as the method's.

    While hyperparameters are changed by a schedule, the checkpoint from which a training has continued stays until it
    ends or pauses, as others may continue from it (`sampler: pbt`).

    Attributes:
        stays: whether one stays when the trial has ended, which then may become longer.
        best: the step of the first one at or after the best evaluation, if that one is kept.
    """

    def __init__(self, folder: Path, configuration: Configuration, communicator: Communicator) -> None:
        self._folder = TrialFolder(folder)
        self._communicator = communicator
        self.stays = configuration.checkpoint is not None and configuration.checkpoint.keep != "none"
        self.best: int | None = None
        self._keeps_best = configuration.checkpoint is not None and configuration.checkpoint.keep == "best"
        self._keeps_all = configuration.checkpoint is not None and configuration.checkpoint.keep == "all"
        self._keeps_start = configuration.schedule is not None
        self._start: int | None = None
        self._written: list[int] = []
        self._identity = json.loads(configuration.model_dump_json(exclude=_MAY_DIFFER)) | {"size": communicator.size}

    @property
    def newest(self) -> int | None:
        """The step of the checkpoint that was written or read last; None if there is none."""
        return self._written[-1] if self._written else None

    def write(self, step: int, state: dict[str, Any], notes: list[str], *, is_best: bool = False) -> float:
        """Write the state after `step` steps, and forget those that are not kept; returns all ranks' bytes.

        If a rank cannot write, as on a full disk, the earlier checkpoint stays, and the training goes on.

        Args:
            step: the number of completed steps.
            state: this rank's.
            notes: receives the reason for which a checkpoint was not written.
            is_best: whether the best evaluation has come since the one before.
        """
        require_plain(state)
        totals = torch.zeros(2, dtype=torch.float64)  # bytes written, and ranks that could not
        try:
            totals[0] = self._write_own(step, state)
        except OSError as error:
            totals[1] = 1
            self._note(notes, error)
        self._communicator.sum(totals)  # every rank has written
        best = step if is_best and self._keeps_best else self.best
        if not totals[1] and self._communicator.rank == 0:
            content = {"step": step, "bytes": float(totals[0]), "training": self._identity}
            content |= {} if best is None else {"best": best}
            try:
                with replacing(self._folder.manifest) as partial:
                    partial.write_text(json.dumps(content))
            except OSError as error:
                totals[1] = 1
                self._note(notes, error)
        self._communicator.broadcast(totals)
        if totals[1]:
            self._file(step).unlink(missing_ok=True)
        else:
            self.best = best
            self._forget_earlier(step)
        return float(totals[0])

    def end(self) -> None:
        """The training ends, and nobody continues from where this attempt began; `settle` says what else stays."""
        if self._start is not None and self._start not in (self.best, self.newest):
            self._file(self._start).unlink(missing_ok=True)
        self._start = None

    def prefer_newest(self, notes: list[str]) -> None:
        """The best evaluation was that of the newest checkpoint's step: keep that one."""
        if not self._keeps_best or self.newest is None or self.best == self.newest:
            return
        failed = torch.zeros(1)
        if self._communicator.rank == 0:
            try:
                content = json.loads(self._folder.manifest.read_text())
                with replacing(self._folder.manifest) as partial:
                    partial.write_text(json.dumps(content | {"best": self.newest}))
            except OSError as error:
                failed[0] = 1
                self._note(notes, error)
        self._communicator.broadcast(failed)
        if not failed:
            self.best = self.newest
            self._forget_earlier(self._written.pop())

    def _write_own(self, step: int, state: dict[str, Any]) -> int:
        make_folder(self._folder.path)
        file = self._file(step)
        try:
            with replacing(file) as partial, partial.open("wb") as stream:
                torch.save(state, stream)
        except RuntimeError as error:  # torch's, of a write that failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(str(error).splitlines()[0]) from error
        return file.stat().st_size

    def _note(self, notes: list[str], error: OSError) -> None:
        note = f"a checkpoint could not be written: {error.strerror or error}"
        if note not in notes:
            notes.append(note)

    def _forget_earlier(self, step: int) -> None:
        if not self._keeps_all:
            kept = {self.best, self._start}
            for earlier in self._written:
                if earlier not in kept:
                    self._file(earlier).unlink(missing_ok=True)
            self._written = [earlier for earlier in self._written if earlier in kept]
        self._written.append(step)

    def read(self, notes: list[str]) -> dict[str, Any] | None:
        """The newest checkpoint's state; None if there is none that all ranks can read.

        Args:
            notes: receives the reason for which a checkpoint is not read.
        """
        wanted = torch.tensor([-1.0, -1.0], dtype=torch.float64)
        if self._communicator.rank == 0:
            wanted[:] = torch.tensor(self._newest(notes), dtype=torch.float64)
        self._communicator.broadcast(wanted)
        step, best = map(int, wanted)
        if step < 0:
            return None
        state, why = self._load(step)
        readable = torch.tensor([float(state is not None)])
        self._communicator.sum(readable)
        if readable < self._communicator.size:
            reason = why or "another rank cannot read it"
            notes.append(f"the checkpoint of step {step} was not read ({reason}): the trial started anew")
            return None
        if best >= 0 and self._keeps_best:
            self.best = best
            self._written += [best] if best != step else []
        self._written.append(step)
        if self._keeps_start and not self._keeps_all:
            self._start = step
            for file in self._folder.states(self._communicator.rank):
                if file not in (self._file(step), self._file(best)):
                    file.unlink(missing_ok=True)
        return state

    def _newest(self, notes: list[str]) -> tuple[int, int]:
        """The step of the newest checkpoint and that of the best one; -1 where there is none to be read."""
        try:
            step, training, best = self._folder.read_manifest()
        except FileNotFoundError:
            return -1, -1
        except (OSError, ValueError) as error:
            notes.append(
                f"{self._folder.manifest.name} was not read ({type(error).__name__}: {error}): the trial started anew"
            )
            return -1, -1
        # Hyperparameters may differ from that step on.
        now, training = (_until(step, identity) for identity in (self._identity, training))
        differing = sorted(name for name in {*now, *training} if training.get(name) != now.get(name))
        if differing in _LENGTHS and (before := training.get(differing[0])) and before < (now[differing[0]] or 0):
            (unit,) = differing
            notes.append(f"made longer, from {before} to {now[unit]} {unit}: schedules go on as those of {now[unit]}")
        elif differing:
            notes.append(f"a checkpoint with another {', '.join(differing)} was not used: the trial started anew")
            return -1, -1
        return step, best

    def _load(self, step: int) -> tuple[dict[str, Any] | None, str]:
        file = self._file(step)
        if file.exists() and not file.is_file():  # reading a pipe would wait
            return None, f"{file.name} is not a regular file"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("step") != step:
                return None, f"{file.name} does not hold the state of step {step}"
        except Exception as error:  # such as a torn file, which torch reports in many ways
            return None, f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        return state, ""

    def _file(self, step: int) -> Path:
        return self._folder.state(step, self._communicator.rank)


def _until(step: int, identity: dict[str, Any]) -> dict[str, Any]:
    """What a training has computed after so many steps, apart from what it would do from there on."""
    given, schedule = identity.get("hyperparameters"), identity.get("schedule")
    others = {name: value for name, value in identity.items() if name != "schedule"}
    if not isinstance(given, dict) or not isinstance(schedule, dict | None):
        return identity
    return others | {"hyperparameters": history(given, schedule, step)}


@dataclass
class Saver:
    """When checkpoints are written, where, and what they have cost.

    Attributes:
        files: the checkpoints.
        trigger: their interval.
        seconds: this rank's time for them.
        num_bytes: the size of the last one, of all ranks.
        best: the best evaluation's metric, to minimize.
        is_due_for_best: whether no checkpoint has been written since.
    """

    files: Checkpoints
    trigger: IntervalTrigger
    seconds: float = 0.0
    num_bytes: float = 0.0
    best: float = math.inf
    is_due_for_best: bool = False

    def saw(self, value: float) -> None:
        """Take in an evaluation's metric, to minimize."""
        if value < self.best:
            self.best, self.is_due_for_best = value, True

    def end(self, step: int, notes: list[str]) -> None:
        """The last evaluation was after `step` steps: if it was the best, that step's checkpoint is; collective."""
        self.files.end()
        if self.is_due_for_best and self.files.newest == step:
            self.files.prefer_newest(notes)

    def save(self, step: int, take: Callable[[], dict[str, Any]], notes: list[str]) -> None:
        """Write the state that `take` returns; collective."""
        started = time.perf_counter()
        self.num_bytes = self.files.write(step, take(), notes, is_best=self.is_due_for_best)
        self.is_due_for_best = self.is_due_for_best and self.files.newest != step
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> list[float]:
        """Return what checkpoints have cost, and the best evaluation, for which the next checkpoint is."""
        return [self.seconds, self.num_bytes, self.best]

    def load_state_dict(self, state: list[float]) -> None:
        """Continue from `state`."""
        self.seconds, self.num_bytes, *best = state
        self.best = best[0] if best else math.inf

    def metrics(self) -> dict[str, float]:
        """The size of the last checkpoint."""
        return {"checkpoint_bytes": self.num_bytes}


def random_state(device: str) -> dict[str, Any]:
    """The process's random states, as tensors and numbers."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }
    if device != "cpu":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: str) -> None:
    """Continue with random states."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device != "cpu" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
