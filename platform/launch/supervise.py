"""Starts the ranks of a search with mpiexec, monitors them, and restarts them when they die.

The launcher detects a job that ends and a rank whose heartbeat stops, terminates the rest (TERM, then KILL), and
resumes from the journals. A signal or `atoll stop` ends the search cleanly; a second interrupt ends it immediately.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.platform.exit_codes import EXIT_JOURNAL
from atoll.platform.launch import lifecycle, live, provenance_log, running
from atoll.platform.launch.blame import explanation, hosts, log_size, suspected_workers, was_killed
from atoll.platform.launch.first_trials import FirstTrials
from atoll.platform.launch.lifecycle import Ending
from atoll.platform.launch.mpiexec import end_job, kill_ranks, start_ranks
from atoll.platform.launch.signals import stop_on_signals
from atoll.platform.ranks.heartbeat import HeartbeatMonitor
from atoll.platform.stop_signals import STOP_SIGNALS
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage import launches
from atoll.storage.events import Event, Restarted, TrialStarted
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalError
from atoll.storage.lock import Lock
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import Store
from atoll.storage.urls import absolute, parse

POLL_INTERVAL = 0.1
LITTLE_SPACE = 1 << 16
HURRIED_TIMEOUT = 1.0  # seconds for the targets of `on_trial` after a second interrupt
JOURNALS_FULL = "a journal cannot be written"
_MAKE_ROOM = "recorded results stay readable: free some disk space, then continue with --resume"


@dataclass(frozen=True)
class Run:
    """A search while its ranks run.

    Attributes:
        study, folder: the study and its files.
        launch: the number of this launch.
        lock: the launcher's lock, to be refreshed.
        follow: called repeatedly.
        hurry: set when the ranks must end immediately.
        function: the function that trials call, if it travels to the ranks.
    """

    study: Study
    folder: StudyFolder
    launch: int
    lock: Lock
    follow: Callable[[StudyFolder], None]
    hurry: threading.Event
    function: bytes | None = None


def run_study(
    plan: Plan,
    url: str,
    *,
    resuming: bool | None,
    follow: Callable[[StudyFolder], None],
    accept_changes: bool = False,
    belongs_to: Mapping[str, Any] | None = None,
    run_ranks: Callable[[Run], str | None] | None = None,
    function: bytes | None = None,
    is_complete: Callable[[], bool] = lambda: False,
) -> Ending:
    """Run a whole search: start the ranks, record, restart the ranks when they die, and write the ending.

    Args:
        plan: the resolved and checked study.
        url: the store's URL.
        resuming: whether to continue an existing study; None to do so if there is one.
        follow: called repeatedly while the search runs, and once at the end.
        accept_changes: whether to continue it although its code, data or libraries have changed.
        belongs_to: further fields of the study's row: its benchmark, and its role there.
        function: the function that trials call, if ranks cannot import it from a file.
        is_complete: whether the search was ended by whom it belongs to, whatever its budget.
        run_ranks: runs the ranks, and returns the reason if they failed. Default: with mpiexec, supervised.

    Raises:
        LaunchError, Locked, StoreError: if it cannot start.
    """
    study = plan.study
    lifecycle.check_name_is_free(study, url)
    live.check(study.on_trial)
    folder = lifecycle.study_folder(study)
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.lock)
    lock.acquire()
    try:
        lifecycle.prepare(plan, url, resuming=resuming, accept_changes=accept_changes, belongs_to=belongs_to)
        first_trials = FirstTrials(folder, study)

        row = lifecycle.row(folder)
        at = absolute(parse(url))  # user code may change the working directory of this process, if it is in it
        thread = RecorderThread(Recorder(folder, lambda: Store(at), row))
        thread.start()
        shown = live.LiveLogs(study.on_trial, folder, row)
        shown.start()
        with stop_on_signals(folder) as hurry:

            def following(folder: StudyFolder) -> None:
                first_trials.look()
                if first_trials.is_unheard:  # the ranks do not hear it either
                    hurry.set()
                follow(folder)

            run = Run(study, folder, launches.newest(folder.journals), lock, following, hurry, function)
            failure = (run_ranks or supervise)(run)
        try:
            state, reason = lifecycle.end(folder, study, failure, first_trials.reason, is_complete=is_complete())
            is_written = True
        except JournalError as error:
            state, reason, is_written = "failed", failure or first_trials.reason or error.strerror, False
        recorded = thread.finish(lifecycle.RECORDING_TIMEOUT)
        if recorded and not is_written:
            lifecycle.tell_store(at, row, state, reason)
        shown.finish(HURRIED_TIMEOUT if hurry.is_set() else live.TIMEOUT)
        follow(folder)
    finally:
        lock.release()
    return Ending(state, reason, recorded)


def supervise(run: Run) -> str | None:
    """Run the ranks with mpiexec, and restart them when they die. Returns the reason if they failed, otherwise None."""
    return _Supervisor(run).run()


@dataclass(frozen=True)
class _JobEnd:
    """How an MPI job ended.

    Attributes:
        failure: the reason, if its ranks have not done their part.
        exit_code: mpiexec's.
        silent: the ranks that fell silent, or ended before their time.
    """

    failure: str | None
    exit_code: int
    silent: Sequence[int] = ()


class _Supervisor:
    """Starts the ranks until they finish, are stopped, or have died too often."""

    def __init__(self, run: Run) -> None:
        self._study = run.study
        self._folder = run.folder
        self._lock = run.lock
        self._follow = run.follow
        self._hurry = run.hurry
        self._launch = run.launch
        self._function = run.function
        self._stopping = running.StopClock(run.folder)
        self._num_ranks = run.study.topology.shape().world_size

    def run(self) -> str | None:
        """Return the reason if the search failed; None if it finished or was stopped."""
        for num_restarts in range(self._study.max_restarts + 1):
            log_start = log_size(self._folder.log)
            ended = self._run_once()
            failure = ended.failure
            if failure is None or self._hurry.is_set() or self._folder.stop_request.exists():
                return None
            free = shutil.disk_usage(self._folder.path).free
            # On a full disk, mpiexec may fail to write its log before it reports how a rank ended.
            if failure == JOURNALS_FULL or free < LITTLE_SPACE:
                failure = JOURNALS_FULL
                return f"{failure} ({free} bytes are free in {self._folder.path}); {_MAKE_ROOM}"
            failure += explanation(self._folder, log_start)
            has_begun = any(isinstance(event, TrialStarted) for event in self._events_of_this_launch())
            if not has_begun and not was_killed(self._folder, log_start, ended.exit_code):  # it would fail again
                return failure
            suspected = suspected_workers(self._folder, self._launch, log_start, ended.silent)
            with launches.next_launch(self._folder.journals) as lines:
                self._launch = lines.launch
                lifecycle.mark_lost(self._folder, lines, failure, suspected)
                if changed := provenance_log.changed_files(self._folder, self._study.data):
                    return f"{failure}; the ranks are not restarted, as {provenance_log.reason(changed)}"
                if num_restarts < self._study.max_restarts:
                    lines.append(Restarted(reason=failure), sync=True)
        return f"{failure}; the ranks were restarted {self._study.max_restarts} times (max_restarts)"

    def _run_once(self) -> _JobEnd:
        """Start the ranks once, and wait for their end."""
        beats = [self._folder.heartbeat(rank) for rank in range(self._num_ranks)]
        for beat in beats:
            beat.unlink(missing_ok=True)
        monitor = HeartbeatMonitor(beats, self._study.heartbeat_timeout)
        arguments = ["search", str(self._folder.path), str(self._launch)]
        arguments += ["function"] if self._function is not None else []
        job = start_ranks(self._num_ranks, arguments, self._folder.log, self._function)
        silent: list[int] = []
        try:
            while job.poll() is None and not (silent := monitor.silent()):
                self._follow(self._folder)
                self._lock.refresh()
                self._end_when_stopping_takes_too_long(job)
                time.sleep(POLL_INTERVAL)
        finally:
            asked = self._folder.stop_request.exists()
            if job.poll() is None:
                end_job(job, grace=2.0)
                if not asked:  # the terminated ranks took the signal for a stop request
                    self._folder.stop_request.unlink(missing_ok=True)
            kill_ranks(self._folder, hosts(self._folder, self._launch))
        code = job.returncode
        if silent:
            names, seconds = ", ".join(map(str, silent)), self._study.heartbeat_timeout
            return _JobEnd(f"rank {names} made no progress for {seconds:g} s (heartbeat_timeout)", code, silent)
        if code == 0:
            quiet = [rank for rank, beat in enumerate(beats) if beat.exists()]
            names = ", ".join(map(str, quiet))
            return _JobEnd(f"rank {names} ended during the search with exit code 0" if quiet else None, code, quiet)
        if -code in STOP_SIGNALS:  # the user sent mpiexec a stop signal, to stop the search
            try:
                running.request_stop(self._folder)
            except OSError:  # as on a full disk
                self._hurry.set()
        return _JobEnd(JOURNALS_FULL if code == EXIT_JOURNAL else f"the MPI job ended with exit code {code}", code)

    def _end_when_stopping_takes_too_long(self, job: subprocess.Popen[bytes]) -> None:
        seconds = self._stopping.seconds()
        if self._hurry.is_set() or (seconds is not None and seconds > self._study.stop_grace):
            end_job(job, grace=2.0)

    def _events_of_this_launch(self) -> list[Event]:
        return launches.replay(self._folder.journals, since=self._launch)
