"""Shows trials where the study's `on_trial` says, while the search runs: each target follows the journals by itself.

A target has a thread of its own next to the recorder, never a rank, so that a slow or absent service delays neither
rows nor trials. How far it has come is in the study's folder (`live/`), not in the store: a store may be deleted, be
replaced or be one of several, and none of this sends a trial twice. The position is written after the target has taken
the lines, so a kill in between repeats them: TensorBoard's files are cut back to what the position knows, MLflow finds
the run that it has, and a command runs a second time, for one trial at most.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from atoll.analysis.formatting import counted
from atoll.platform.launch import extras
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study.on_trial import MLFLOW, TENSORBOARD, Command, shown, without_secrets
from atoll.storage.events import (
    Event,
    ProgressReported,
    TrialEnded,
    TrialEvent,
    TrialKey,
    TrialLost,
    TrialStarted,
    as_line,
)
from atoll.storage.files import rights, write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import Chunk
from atoll.storage.launches import JournalTail
from atoll.storage.lock import Lock, Locked

log = logging.getLogger("atoll.live")

TIMEOUT = 30.0  # seconds after the end of a search until targets that lag are given up


@dataclass
class Trial:
    """One attempt at a trial, as far as a target knows it.

    Attributes:
        started: its first line.
        step: of its last report.
        saved: what the target must know of it after a restart, as JSON.
    """

    started: TrialStarted
    step: int = 0
    saved: dict[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """What trials are sent to. An exception of a method means that nothing is certain: the lines are sent again.

    Attributes:
        name: for messages, without passwords.
        settles_each: whether the position is written after each end of a trial, not once for many lines.
        num_refused: the number of ends and reports that the target did not take, and will not.
    """

    name: str
    settles_each: bool
    num_refused: int

    def check(self) -> None:
        """Raise LaunchError if this can never work."""

    def open(self) -> None:
        """Begin, or begin again after a failure."""

    def start(self, trial: Trial) -> None:
        """A trial starts."""

    def report(self, trial: Trial, reports: Sequence[ProgressReported]) -> None:
        """A trial has made reports."""

    def end(self, trial: Trial, end: TrialEnded | TrialLost) -> None:
        """A trial ends."""

    def settle(self) -> None:
        """Make sure that what was taken stays."""

    def give_up(self) -> None:
        """Return from any call soon; called by another thread."""

    def close(self, *, failed: bool) -> None:
        """Release what `open` took."""


def make(target: str | Command, folder: StudyFolder, row: Mapping[str, Any]) -> Target:
    """The target that a study names.

    Args:
        target: with absolute paths.
        folder, row: the study's files, and its row in the store.
    """
    if isinstance(target, Command):
        from atoll.platform.launch.live_command import CommandTarget

        return CommandTarget(target, folder, row)
    if target.startswith(TENSORBOARD):
        from atoll.platform.launch.live_tensorboard import TensorBoardTarget

        return TensorBoardTarget(target.removeprefix(TENSORBOARD), row)
    from atoll.platform.launch.live_mlflow import MLflowTarget

    return MLflowTarget(target.removeprefix(MLFLOW), row)


def check(targets: Sequence[str | Command], row: Mapping[str, Any] | None = None) -> None:
    """Raise LaunchError if a target can never work: an extra is missing, a folder cannot be written.

    That a service does not answer is no such reason.
    """
    for target in targets:
        if isinstance(target, str):
            extras.require_live_extra(target.partition(":")[0])
            make(target, StudyFolder("."), row or {"name": "check"}).check()


class LiveLog:
    """Follows a study's journals for one target.

    Args:
        target: as the study has it; it identifies the position in the study's folder.
        folder, row: the study's files, and its row.
    """

    def __init__(self, target: str | Command, folder: StudyFolder, row: Mapping[str, Any]) -> None:
        identity = target if isinstance(target, str) else json.dumps([target.words, target.folder])
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.target = make(target, folder, row)
        self._folder = folder
        self._position = folder.live / f"{name}.json"
        self._lock = Lock(folder.live / f"{name}.lock")
        self._is_open = self._has_lock = False
        self._stopping = threading.Event()
        self._running: dict[TrialKey, Trial] = {}
        self._ended: set[TrialKey] = set()
        self._tail = JournalTail(folder.journals)

    def catch_up(self) -> bool:
        """Send all complete lines; returns whether this could be done, as another process may do it now.

        Raises:
            Exception: whatever the target raises; the next call goes on from the last position.
        """
        if not self._has_lock:
            self._folder.live.mkdir(rights(), exist_ok=True)
            try:
                self._lock.acquire()
            except Locked:
                return False
            self._has_lock = True
        self._lock.refresh()
        if not self._is_open:
            self._read_position()
            self.target.open()
            self._is_open = True
        while not self._stopping.is_set() and (chunks := self._tail.read()):
            self._send(_in_order(chunks))
            self.target.settle()
            self._tail.advance(chunks)
            self._ended.clear()
            self._write_position()
            self._lock.refresh()
        return True

    def _send(self, lines: Iterator[Event]) -> None:
        reports: dict[TrialKey, list[ProgressReported]] = {}
        for event in lines:
            if self._stopping.is_set():
                raise InterruptedError("the end of the time for sending")
            if not isinstance(event, TrialEvent) or event.key in self._ended:
                continue
            if isinstance(event, TrialStarted):
                self._running[event.key] = trial = Trial(event)
                self.target.start(trial)
            elif event.key in self._running:
                if isinstance(event, ProgressReported):
                    reports.setdefault(event.key, []).append(event)
                elif isinstance(event, TrialEnded | TrialLost):
                    self._report(event.key, reports.pop(event.key, []))
                    self._end(event)
        for key, several in reports.items():
            self._report(key, several)

    def _report(self, key: TrialKey, reports: list[ProgressReported]) -> None:
        if reports:
            trial = self._running[key]
            self.target.report(trial, reports)
            trial.step = reports[-1].step

    def _end(self, event: TrialEnded | TrialLost) -> None:
        self.target.end(self._running[event.key], event)
        del self._running[event.key]
        if self.target.settles_each:
            self._ended.add(event.key)
            self._write_position()

    def _read_position(self) -> None:
        try:
            content = json.loads(self._position.read_text())
        except FileNotFoundError:
            content = {"offsets": {}, "running": [], "ended": []}
        self._tail = JournalTail(self._folder.journals, content["offsets"])
        self._ended = {(number, attempt) for number, attempt in content["ended"]}
        trials = (
            Trial(TrialStarted.model_validate(one["started"]), one["step"], one["saved"]) for one in content["running"]
        )
        self._running = {trial.started.key: trial for trial in trials}

    def _write_position(self) -> None:
        running = [
            {"started": as_line(trial.started), "step": trial.step, "saved": trial.saved}
            for trial in self._running.values()
        ]
        content = {"target": self.target.name, "offsets": self._tail.offsets, "running": running}
        write_whole(self._position, json.dumps(content | {"ended": sorted(self._ended)}))

    def num_left(self) -> int:
        """The number of trials' ends that were not sent yet."""
        tail, number = JournalTail(self._folder.journals, self._tail.offsets), 0
        while chunks := tail.read():
            tail.advance(chunks)
            number += sum(
                isinstance(event, TrialEnded | TrialLost) and event.key not in self._ended
                for event in _in_order(chunks)
            )
        return number

    def reset(self) -> None:
        """Forget what was sent since the last position."""
        if self._is_open:
            self._is_open = False
            self.target.close(failed=True)

    def give_up(self) -> None:
        """End a call of `catch_up` soon; called by another thread."""
        self._stopping.set()
        self.target.give_up()

    def close(self) -> None:
        """Release the target."""
        if self._is_open:
            self._is_open = False
            self.target.close(failed=False)
        if self._has_lock:
            self._has_lock = False
            with contextlib.suppress(OSError):  # the study's folder may be gone
                self._lock.release()


def _in_order(chunks: Mapping[str, Chunk]) -> Iterator[Event]:
    """The lines of journals by time; those of one journal stay in order if its clock was set back."""
    timed = []
    for chunk in chunks.values():
        now = 0.0
        for event in chunk.events:
            now = max(now, event.time)
            timed.append((now, event))
    return (event for _, event in sorted(timed, key=lambda entry: entry[0]))


def _in_short(error: Exception) -> str:
    return without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0])[:300]


class _LiveThread(threading.Thread):
    """Sends to one target while something else runs."""

    INTERVAL = 0.5
    LONGEST_INTERVAL = 30.0

    def __init__(self, live: LiveLog) -> None:
        super().__init__(name=f"live {live.target.name}", daemon=True)
        self._live = live
        self._stopping, self._given_up = threading.Event(), threading.Event()
        self._num_failures = 0
        self._failure: str | None = None
        self.is_elsewhere = False

    def run(self) -> None:
        interval = self.INTERVAL
        while True:
            stopping = self._stopping.is_set()
            is_done = self._try_once()
            if stopping and (is_done or self.is_elsewhere):
                break
            interval = self.INTERVAL if is_done else min(2 * interval, self.LONGEST_INTERVAL)
            if self._given_up.wait(min(interval, 2.0)) if stopping else self._stopping.wait(interval):
                interval = self.INTERVAL
            if self._given_up.is_set():
                break
        self._live.close()

    def _try_once(self) -> bool:
        try:
            self.is_elsewhere = not self._live.catch_up()
        except Exception as error:  # on any error the search must continue, and the next try may succeed
            self._live.reset()
            if not self._given_up.is_set():
                self._tell(error)
            return False
        self._failure = None
        return not self.is_elsewhere

    def _tell(self, error: Exception) -> None:
        self._num_failures += 1
        failure = _in_short(error)
        if self._failure is None:  # once, until it works again
            log.warning(
                "%s cannot be sent to (%s); the search continues, and it is tried again", self._target_name, failure
            )
        self._failure = failure

    @property
    def _target_name(self) -> str:
        return self._live.target.name

    def ask_to_finish(self) -> None:
        """Send the rest, then end."""
        self._stopping.set()

    def finish(self, until: float) -> None:
        """Wait for the end, tell what is missing, and end anyway at the time `until` of the monotonic clock."""
        self.join(max(0.0, until - time.monotonic()))
        if self.is_alive():
            self._given_up.set()
            self._live.give_up()
            self.join(2.0)
        self._summarize()

    def _summarize(self) -> None:
        failed = (
            f"; {counted(self._num_failures, 'try', 'tries')} failed, the last: {self._failure}"
            if self._failure
            else ""
        )
        if not self.is_elsewhere and (num_left := self._live.num_left()):
            log.warning(
                "%s lacks the ends of %s%s; `atoll record FOLDER --on-trial TARGET` sends them",
                self._target_name,
                counted(num_left, "trial"),
                failed,
            )
        elif self._num_failures:
            log.warning(
                "%s has everything after all; %s failed", self._target_name, counted(self._num_failures, "try", "tries")
            )
        if number := self._live.target.num_refused:
            log.warning(
                "%s did not take %s, or failed for them",
                self._target_name,
                counted(number, "trial or report", "trials or reports"),
            )


class LiveLogs:
    """All targets of a study while it is recorded.

    Args:
        targets: as the study has them.
        folder, row: the study's files, and its row.
    """

    def __init__(self, targets: Sequence[str | Command], folder: StudyFolder, row: Mapping[str, Any]) -> None:
        self._threads = [_LiveThread(LiveLog(target, folder, row)) for target in targets]

    def start(self) -> None:
        """Begin to follow the journals."""
        for thread in self._threads:
            thread.start()

    def finish(self, timeout: float = TIMEOUT) -> None:
        """Send what is left within `timeout` seconds, and tell what was not sent."""
        for thread in self._threads:
            thread.ask_to_finish()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.finish(until)


def send_all(targets: Sequence[str | Command], folder: StudyFolder, row: Mapping[str, Any]) -> None:
    """Send all that is in a study's journals now, without a time limit.

    Raises:
        LaunchError: if a target fails, or another process sends to it now.
    """
    for target in targets:
        live = LiveLog(target, folder, row)
        try:
            if not live.catch_up():
                raise LaunchError(f"another process sends the trials to {shown(target)} now; wait for its end")
        except LaunchError:
            raise
        except Exception as error:
            live.reset()
            raise LaunchError(
                f"{live.target.name} lacks the ends of {counted(live.num_left(), 'trial')} ({_in_short(error)}); "
                "repeat the command when it is back"
            ) from None
        finally:
            live.close()
        if number := live.target.num_refused:
            log.warning(
                "%s did not take %s, or failed for them",
                live.target.name,
                counted(number, "trial or report", "trials or reports"),
            )
