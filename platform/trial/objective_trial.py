"""A trial as a user's function sees it: hyperparameters in, reports and checkpoints out, and a communicator."""

from __future__ import annotations

import math
import operator
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, SupportsIndex

import numpy as np
import torch

from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.failure import Diverged
from atoll.platform.trial.progress import Progress
from atoll.storage.files import make_folder


class Pruned(Exception):
    """The trial is not worth continuing; `trial.report` raises it on all ranks.

    Example:
        >>> from atoll import Pruned
        >>> issubclass(Pruned, Exception)
        True
    """


class Stage(Protocol):
    """What a trial needs of its rank and its worker."""

    def at_home(self) -> AbstractContextManager[None]:
        """Entered by every call; raises the reason to end the trial."""

    def poll(self) -> None:
        """The work of every wait; raises the reason to end the trial."""

    def agree(self, decide: Callable[[], bool]) -> bool:
        """What the root decides, on all ranks; collective."""

    def prunes(self, progress: Progress) -> bool:
        """Whether the trial is to end; on the root."""

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint; collective. Raises Stopped on all ranks if the search was asked to stop."""

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint's state; collective."""


@dataclass(frozen=True)
class Facts:
    """What a trial tells of itself.

    Attributes:
        number: of the trial, from 0; attempt: from 0, if ranks have died before its end.
        folder: the trial's own; None if there is none.
        device: this rank's.
    """

    number: int
    attempt: int
    folder: Path | None
    device: str


class ObjectiveTrial(Mapping[str, Any]):
    """One trial of a function: a mapping of the active hyperparameters, with what the function may call.

    All ranks of the trial call the function, each with a trial of its own. `report`, `checkpoint` and `last_checkpoint`
    are collective: all ranks call them, equally often. What rank 0 reports and returns counts.

    Attributes:
        comm: the trial's ranks, an `mpi4py.MPI.Intracomm` of its own; with ranks that are threads, of one process, an
            object with the same methods for Python objects and NumPy arrays.
        number: of the trial, from 0.
        attempt: from 0; more if ranks have died, or the search was stopped, before its end.
        seed: the study's seed plus `number`; the same on all ranks.
        device: this rank's, such as cpu or cuda:0.

    Example:
        >>> import atoll
        >>> def objective(trial):
        ...     for step in range(3):
        ...         trial.report((trial["x"] - 0.3) ** 2 + 1 / (1 + step), step)
        ...     return (trial["x"] - 0.3) ** 2
    """

    def __init__(
        self,
        configuration: Configuration,
        facts: Facts,
        comm: Any,
        stage: Stage,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.comm = comm
        self.number, self.attempt, self.seed = facts.number, facts.attempt, configuration.seed
        self.device = facts.device
        self._folder = facts.folder
        self._hyperparameters = dict(configuration.hyperparameters)
        self._stage = stage
        self._on_progress = on_progress
        self._is_root = comm.Get_rank() == 0
        self._started, self._seconds_before = time.perf_counter(), 0.0
        self._step = -1
        self._has_ended = False
        self.pruned: Pruned | None = None  # raised on all ranks
        self._num_checkpoints = 0
        self._reports: list[Progress] = []

    # The hyperparameters.

    def __getitem__(self, name: str) -> Any:
        try:
            return self._hyperparameters[name]
        except KeyError:
            names = ", ".join(self._hyperparameters) or "none"
            raise KeyError(f"the trial has no hyperparameter {name!r}; it has {names}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._hyperparameters)

    def __len__(self) -> int:
        return len(self._hyperparameters)

    @property
    def folder(self) -> Path:
        """The trial's own folder, on all of its ranks and in all of its attempts; made when it is asked for."""
        if self._folder is None:
            raise RuntimeError("this trial has no folder: use `atoll train --folder`")
        make_folder(self._folder)
        return self._folder

    # Reports.

    def report(
        self,
        value: SupportsFloat,
        step: SupportsIndex | None = None,
        metrics: Mapping[str, SupportsFloat] | None = None,
    ) -> None:
        """Report the present value of the objective: for the trial's curve, for pruning, and as a point to stop at.

        Args:
            value: of rank 0; that of the others is not looked at. With several objectives, of the first one.
            step: 0 or more, and more than that of the report before. Default: the next one.
            metrics: further values by name, which the curve is to have.

        Raises:
            Pruned: on all ranks, if the trial is behind at a rung of the study's pruning.
            Diverged: if the value is NaN or infinite; the trial has then failed.
            ValueError: for a step that does not increase.
        """
        self._check_that_it_runs()
        with self._stage.at_home():
            self._stage.poll()
            self._step = step = next_step(step, self._step)
            progress = self._progress(value, step, metrics or {}) if self._is_root else None
            if progress is not None:
                self._reports.append(progress)
                self._on_progress(progress)
            if self._stage.agree(lambda: progress is not None and self._stage.prunes(progress)):
                self.pruned = Pruned(f"pruned after step {step}")
                raise self.pruned

    def _progress(self, value: SupportsFloat, step: int, metrics: Mapping[str, SupportsFloat]) -> Progress:
        metric = number(value, "the reported value")
        if not math.isfinite(metric):
            raise Diverged(f"diverged at step {step}: the reported value is {metric}")
        return reported(step, self.seconds, metric, {str(name): number(one, name) for name, one in metrics.items()})

    @property
    def seconds(self) -> float:
        """Seconds that the function has run, in this attempt and before the checkpoint from which it continues."""
        return self._seconds_before + time.perf_counter() - self._started

    def end(self) -> None:
        """The function has returned: calls from now on raise RuntimeError."""
        self._has_ended = True

    def _check_that_it_runs(self) -> None:
        if self._has_ended:
            raise RuntimeError(f"trial {self.number} has ended: its function has returned")

    # Checkpoints.

    def checkpoint(self, state: Any) -> None:
        """Write this rank's state, from which the trial continues if it is interrupted; collective.

        When all ranks have written, the checkpoint before is removed; when the trial has ended, the last one. If the
        search was asked to stop, the trial stops here.

        Args:
            state: numbers, strings, booleans, None, NumPy arrays, torch tensors, and lists, tuples and dicts of these.

        Raises:
            TypeError: for a state of anything else: it would have to be unpickled.
        """
        self._check_that_it_runs()
        with self._stage.at_home():
            self._num_checkpoints = max(self._num_checkpoints + 1, self._step + 1)
            self._stage.save(
                {
                    "step": self._num_checkpoints,
                    "state": packed(state),
                    "reported": self._step,
                    "seconds": self.seconds,
                    "reports": [vars(progress) for progress in self._reports],  # the root's
                }
            )

    def last_checkpoint(self) -> Any:
        """The state of this rank at the newest checkpoint of an earlier attempt, or None; collective, and first.

        The reports from before it are repeated, so that the curve of this attempt is whole.

        Raises:
            RuntimeError: after a report.
        """
        self._check_that_it_runs()
        with self._stage.at_home():
            if self._step >= 0 or self._num_checkpoints:
                raise RuntimeError("last_checkpoint must be called before the first report and the first checkpoint")
            if (kept := self._stage.load()) is None:
                return None
            self._num_checkpoints, self._step = kept["step"], kept["reported"]
            self._seconds_before, self._started = kept["seconds"], time.perf_counter()
            self._reports = [Progress(**report) for report in kept["reports"]]
            if self._is_root:
                for progress in self._reports:
                    self._on_progress(replace(progress, is_repeated=True))
            return unpacked(kept["state"])


def next_step(step: SupportsIndex | None, last: int) -> int:
    """The step of a report after one of step `last` (-1: none). Raises ValueError if it does not increase."""
    number = last + 1 if step is None else operator.index(step)
    if number <= last or number < 0:
        after = f" after {last}" if last >= 0 else ""
        raise ValueError(f"step must be 0 or more, and increase; got {number}{after}")
    return number


def reported(step: int, seconds: float, metric: float, metrics: dict[str, float]) -> Progress:
    """A report of a function: what only trainings have is NaN, which the journal does not keep."""
    return Progress(
        step=step,
        epoch=step,
        seconds=seconds,
        train_loss=math.nan,
        validation_loss=None,
        metric=metric,
        learning_rate=math.nan,
        wire_bytes=math.nan,
        metrics=metrics,
        last=False,
        by_steps=True,
    )


def number(value: object, what: str) -> float:
    """A real number that user code gives. Raises TypeError for anything else."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kind = type(value).__qualname__
        raise TypeError(f"{what} must be a number; got {reprlib.repr(value)} of type {kind}") from None


def numbers(returned: object) -> float | dict[str, float]:
    """What a function returns: a number, or several by name.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(returned, Mapping):
        return {str(name): number(value, f"the returned {name}") for name, value in returned.items()}
    if returned is None:
        raise TypeError("the objective must return a number, or a mapping of names to numbers, on rank 0; got None")
    return number(returned, "what the objective returns")


_ARRAY = "numpy.ndarray"


def packed(state: Any) -> Any:
    """A state with tensors in place of NumPy's arrays, and numbers in place of its scalars."""
    if isinstance(state, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.array(state, order="C"))}
    if isinstance(state, np.generic):
        return state.item()
    if type(state) is dict:
        if _ARRAY in state:
            raise TypeError(f"a state's key must be another one than {_ARRAY!r}, which stands for arrays")
        return {key: packed(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(packed(value) for value in state)
    return state


def unpacked(state: Any) -> Any:
    """The state that was packed."""
    if type(state) is dict:
        if state.keys() == {_ARRAY}:
            return state[_ARRAY].numpy()
        return {key: unpacked(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(unpacked(value) for value in state)
    return state
