"""Calls a user's function for one trial, on one rank of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from atoll.communication.communicator import Communicator
from atoll.communication.lent import Lender
from atoll.communication.thread_comm import ThreadComm, shared_board
from atoll.communication.threads import single_rank
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.checkpoints import Checkpoints
from atoll.platform.trial.failure import Stopped
from atoll.platform.trial.objective_trial import Facts, ObjectiveTrial, Pruned, numbers
from atoll.platform.trial.outcome import Report
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks

Agree = Callable[[Callable[[], bool]], bool]


class Caller:
    """One rank's part of one call; it is the stage of its trial.

    Args:
        configuration: the trial's.
        facts: its number, attempt, folder and device.
        hooks: the callbacks; a member's root decides what it prunes.
        comm: the trial's communicator, which the function gets.
        home: entered by every call of the function's; raises the reason to end the trial.
        call: calls the function; raises the reason to end the trial, if there is one.
        poll: the work of every wait; raises the reason to end the trial.
        agree: what the root decides, on all ranks; collective.
        open_files: the communicator for checkpoints; collective, when all ranks are in it.
    """

    def __init__(
        self,
        configuration: Configuration,
        facts: Facts,
        hooks: Hooks,
        comm: Any,
        *,
        home: Callable[[], AbstractContextManager[None]],
        call: Callable[[Callable[[], Any]], Any],
        poll: Callable[[], None],
        agree: Agree,
        open_files: Callable[[], Communicator],
    ) -> None:
        self._configuration, self._facts, self._hooks, self._comm = configuration, facts, hooks, comm
        self.at_home = home
        self._call = call
        self.poll = poll
        self._agree = agree
        self._open_files = open_files
        self._files: Checkpoints | None = None
        self.notes: list[str] = []

    def run(self, report: Report) -> None:
        """Call the function, and fill in this rank's report."""
        called = registry.function(self._configuration.workload)
        trial = ObjectiveTrial(self._configuration, self._facts, self._comm, self, self._hooks.on_progress)
        try:
            returned = self._call(lambda: called(trial))
            report.is_pruned = trial.pruned is not None  # on all ranks, even if the function has swallowed it
            if report.rank == 0 and not report.is_pruned:
                report.returned = numbers(returned)
        except Pruned as pruned:
            report.is_pruned = True
            report.is_alone = pruned is not trial.pruned
        finally:
            trial.end()
            report.called_seconds = trial.seconds
            report.notes = list(self.notes)

    # The trial's stage.

    def agree(self, decide: Callable[[], bool]) -> bool:
        """What the root decides about pruning, on all ranks; collective if the study prunes."""
        if self._hooks.prunes is None:
            return False
        return self._agree(decide)

    def prunes(self, progress: Progress) -> bool:
        """Whether the root ends the trial."""
        return self._hooks.prunes is not None and self._hooks.prunes(progress)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint, and stop if the search was asked to."""
        self._comm.together(lambda: self._checkpoints().write(state["step"], state, self.notes))
        self._hooks.on_checkpoint()
        if self._agree(self._hooks.stops):
            raise Stopped("the search was asked to stop; a checkpoint was written")

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint's state."""
        kept: dict[str, Any] | None = self._comm.together(lambda: self._checkpoints().read(self.notes))
        return kept

    def _checkpoints(self) -> Checkpoints:
        if self._files is None:
            if self._facts.folder is None:
                raise RuntimeError("this trial has no folder for checkpoints: use `atoll train --folder`")
            self._files = Checkpoints(self._facts.folder, self._configuration, self._open_files())
        return self._files


def alone(configuration: Configuration, facts: Facts, hooks: Hooks, *, poll: Callable[[], None]) -> Caller:
    """A call in a process of the trial's own, which is one rank; `poll` raises the reason to end the trial."""

    @contextmanager
    def home() -> Iterator[None]:
        poll()
        yield

    lender = Lender(at_home=home, poll=poll, gives_up=lambda: None, spin=False)
    comm = ThreadComm(0, range(1), shared_board(1), lender)
    return Caller(
        configuration, facts, hooks, comm,
        home=home, call=lambda function: function(), poll=poll, agree=lambda decide: decide(), open_files=single_rank,
    )  # fmt: skip


def facts_of(trial: tuple[int, int] | None, folder: Path | None, device: str) -> Facts:
    """What a trial tells of itself; a training outside of a search has the number 0."""
    number, attempt = trial or (0, 0)
    return Facts(number, attempt, folder, device)
