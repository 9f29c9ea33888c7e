"""Starts the ranks of a search with mpiexec, monitors them, and restarts them when they die.

The launcher detects a job that ends and a rank whose heartbeat stops, terminates the rest (TERM, then KILL), and
resumes from the journals. A signal or `atoll stop` ends the search cleanly; a second interrupt ends it immediately.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.analysis.formatting import counted
from atoll.platform.exit_codes import EXIT_JOURNAL
from atoll.platform.launch import lifecycle, live, mpi_launcher, provenance_log, running
from atoll.platform.launch.blame import explanation, hosts, log_size, suspected_workers, was_killed
from atoll.platform.launch.first_trials import FirstTrials
from atoll.platform.launch.lifecycle import Ending
from atoll.platform.launch.membership import Membership
from atoll.platform.launch.mpiexec import end_job, kill_ranks, start_ranks
from atoll.platform.launch.signals import stop_on_signals
from atoll.platform.ranks.heartbeat import HeartbeatMonitor
from atoll.platform.ranks.terminations import Terminations
from atoll.platform.stop_signals import STOP_SIGNALS
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage import launches
from atoll.storage.events import Restarted, TrialKey
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalError
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
        folder: the study's files.
        member: this launcher's part in the study.
        follow: called repeatedly.
        hurry: set when the ranks must end immediately.
        function: the function that trials call, if it travels to the ranks.
    """

    folder: StudyFolder
    member: Membership
    follow: Callable[[StudyFolder], None]
    hurry: threading.Event
    function: bytes | None = None

    @property
    def study(self) -> Study:
        """The study, which may change between two starts of its ranks."""
        return self.member.plan.study


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
    if run_ranks is None:
        mpi_launcher.choose(study.launcher)
    member = Membership.enter(plan, url, resuming=resuming, accept_changes=accept_changes, belongs_to=belongs_to)
    folder = member.folder
    try:
        first_trials = FirstTrials(folder, study)
        recording = _Recording(member, url)
        with stop_on_signals(member.stop_request) as hurry:

            def following(folder: StudyFolder) -> None:
                member.look()
                recording.look()
                first_trials.look()
                if first_trials.is_unheard:  # the ranks do not hear it either
                    hurry.set()
                follow(folder)

            recording.look()
            run = Run(folder, member, following, hurry, function)
            failure = _run_while_there_are_tickets(run, run_ranks or supervise)
        ending = _end(member, recording, failure, first_trials.reason, hurry, is_complete=is_complete())
        follow(folder)
    finally:
        member.release()
    return ending


class _Recording:
    """Records the journals, and shows trials where the study says, while this launcher leads."""

    def __init__(self, member: Membership, url: str) -> None:
        self._member = member
        self._at = absolute(parse(url))  # user code may change the working directory of this process, if it is in it
        self._thread: RecorderThread | None = None
        self._shown: live.LiveLogs | None = None

    def look(self) -> None:
        """Begin, if this launcher leads now."""
        if not self._member.leads or self._thread is not None:
            return
        folder, row = self._member.folder, lifecycle.row(self._member.folder)
        self._thread = RecorderThread(Recorder(folder, lambda: Store(self._at), row))
        self._thread.start()
        self._shown = live.LiveLogs(self._member.plan.study.on_trial, folder, row)
        self._shown.start()

    def finish(self, hurry: threading.Event) -> bool:
        """Record what is left; returns whether the store is complete, as far as this launcher can tell."""
        if self._thread is None or self._shown is None:
            return True
        recorded = self._thread.finish(lifecycle.RECORDING_TIMEOUT)
        self._shown.finish(HURRIED_TIMEOUT if hurry.is_set() else live.TIMEOUT)
        return recorded

    def tell_end(self, state: str, reason: str | None) -> None:
        """Write the end of a search into the store only."""
        lifecycle.tell_store(self._at, lifecycle.row(self._member.folder), state, reason)


def _run_while_there_are_tickets(run: Run, run_ranks: Callable[[Run], str | None]) -> str | None:
    """Run the ranks, and again if the study changes, or another launcher has died when they had nothing left to do."""
    left: frozenset[TrialKey] = frozenset()
    while True:
        failure = run_ranks(run)
        if failure is not None or run.hurry.is_set() or run.member.asks_to_stop():
            return failure
        if run.member.has_changed():
            with run.member.next_launch("the study has changed", suspected=()) as lines:
                lines.append(Restarted(reason="the study has changed"), sync=True)
            continue
        waiting = run.member.waiting()
        if waiting <= left:  # else they would end at once again
            return None
        left = waiting
        with run.member.next_launch("the ranks had ended", suspected=()):
            pass


def _end(
    member: Membership,
    recording: _Recording,
    failure: str | None,
    gave_up: str | None,
    hurry: threading.Event,
    *,
    is_complete: bool,
) -> Ending:
    """Leave the study, and write its end if nobody else searches it."""
    is_asked = member.asks_to_stop()
    lost = failure or gave_up or "the search was stopped"
    is_written = True
    try:
        if not member.leave(lost, suspected=None if failure is not None else ()):
            num_others = len(member.others())
            recording.finish(hurry)
            return lifecycle.left(failure or gave_up, is_asked or member.has_tickets(), num_others)
        state, reason = lifecycle.end(member.folder, member.plan.study, failure, gave_up, is_complete=is_complete)
    except JournalError as error:
        state, reason, is_written = "failed", failure or gave_up or error.strerror, False
    recording.look()
    recorded = recording.finish(hurry)
    if recorded and not is_written and member.leads:
        recording.tell_end(state, reason)
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
        asked_to_end: host and number of the ranks' processes that the process manager has terminated.
    """

    failure: str | None
    exit_code: int
    silent: Sequence[int] = ()
    asked_to_end: Collection[tuple[str, int]] = ()


class _Supervisor:
    """Starts the ranks until they finish, are stopped, or have died too often."""

    def __init__(self, run: Run) -> None:
        self._study = run.study
        self._folder = run.folder
        self._member = run.member
        self._follow = run.follow
        self._hurry = run.hurry
        self._function = run.function
        self._stopping = running.StopClock(run.member.asks_to_stop)
        self._num_ranks = run.study.topology.shape().world_size

    def run(self) -> str | None:
        """Return the reason if the search failed; None if it finished or was stopped."""
        for num_restarts in range(self._study.max_restarts + 1):
            log_start = log_size(self._folder.log)
            ended = self._run_once()
            failure = ended.failure
            if failure is None or self._hurry.is_set() or self._member.asks_to_stop():
                return None
            free = shutil.disk_usage(self._folder.path).free
            # On a full disk, mpiexec may fail to write its log before it reports how a rank ended.
            if failure == JOURNALS_FULL or free < LITTLE_SPACE:
                failure = JOURNALS_FULL
                return f"{failure} ({free} bytes are free in {self._folder.path}); {_MAKE_ROOM}"
            failure += explanation(self._folder, log_start)
            has_begun = bool(launches.started_in(self._folder.journals, {self._member.launch}))
            if not has_begun and not was_killed(self._folder, log_start, ended.exit_code):  # it would fail again
                return failure
            suspected = suspected_workers(
                self._folder,
                self._member.launch,
                log_start,
                ended.silent,
                ended.asked_to_end,
                first_rank=self._member.member.first_rank,
            )
            changed = provenance_log.changed_files(self._folder, self._study.data)  # not in a turn: it may take long
            with self._member.next_launch(failure, suspected) as lines:
                if changed:
                    return f"{failure}; the ranks are not restarted, as {provenance_log.reason(changed)}"
                if num_restarts < self._study.max_restarts:
                    lines.append(Restarted(reason=failure), sync=True)
        return f"{failure}; the ranks were restarted {counted(self._study.max_restarts, 'time')} (max_restarts)"

    def _run_once(self) -> _JobEnd:
        """Start the ranks once, and wait for their end."""
        first, launch = self._member.member.first_rank, self._member.launch
        terminations = Terminations(self._folder, launch, self._num_ranks)
        beats = [self._folder.heartbeat(first + rank) for rank in range(self._num_ranks)]
        for beat in beats:
            beat.unlink(missing_ok=True)
        monitor = HeartbeatMonitor(beats, self._study.heartbeat_timeout)
        arguments = ["search", str(self._folder.path), str(launch)]
        arguments += ["function"] if self._function is not None else []
        job = start_ranks(self._num_ranks, arguments, self._folder.log, self._function, self._study.launcher)
        silent: list[int] = []
        try:
            while job.poll() is None and not (silent := monitor.silent()):
                self._follow(self._folder)
                if terminations.is_request_to_living():
                    self._request_stop()
                self._end_when_stopping_takes_too_long(job)
                time.sleep(POLL_INTERVAL)
            # First those that stand still: Open MPI would wake them, and they would fail their trial for its timeout.
            kill_ranks(
                self._folder, [rank for rank in hosts(self._folder, launch) if rank.world_rank - first in silent]
            )
        finally:
            if job.poll() is None:
                end_job(job, grace=2.0)
            kill_ranks(self._folder, hosts(self._folder, launch))
        code, asked = job.returncode, terminations.asked()
        terminations.clear()
        if silent:
            silent = [first + rank for rank in silent]
            names, seconds = ", ".join(map(str, silent)), self._study.heartbeat_timeout
            return _JobEnd(f"rank {names} made no progress for {seconds:g} s (heartbeat_timeout)", code, silent)
        if code == 0:
            quiet = [first + rank for rank, beat in enumerate(beats) if beat.exists()]
            names = ", ".join(map(str, quiet))
            return _JobEnd(f"rank {names} ended during the search with exit code 0" if quiet else None, code, quiet)
        if -code in STOP_SIGNALS or terminations.are_all(asked):  # the user sent mpiexec a stop signal
            self._request_stop()
        failure = JOURNALS_FULL if code == EXIT_JOURNAL else f"the MPI job ended with exit code {code}"
        return _JobEnd(failure, code, asked_to_end=asked)

    def _request_stop(self) -> None:
        try:
            self._member.stop_request.touch()
        except OSError:  # as on a full disk
            self._hurry.set()

    def _end_when_stopping_takes_too_long(self, job: subprocess.Popen[bytes]) -> None:
        if self._hurry.is_set() or self._member.is_late(self._stopping.seconds()):
            end_job(job, grace=2.0)
