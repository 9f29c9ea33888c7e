"""Starts the ranks of a search with mpiexec, follows them, and starts them again when they die.

The launcher notices a job that ends and a rank whose heartbeat stops, ends what is left (TERM, then KILL), and resumes
from the journals. A signal or `atoll stop` ends the search cleanly; a second interrupt ends it at once.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atoll.platform import launch
from atoll.platform.heartbeat import HeartbeatMonitor
from atoll.platform.launch import Ending, LaunchError
from atoll.platform.rank import EXIT_JOURNAL
from atoll.platform.study import Study
from atoll.storage import journal
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalError
from atoll.storage.lock import Lock
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import Store

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
POLL_INTERVAL = 0.1
LITTLE_SPACE = 1 << 16
JOURNALS_FULL = "a journal cannot be written"
_MAKE_ROOM = "what was recorded stays readable: make room, then go on with --resume"
_RANK_VARIABLES = ("PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_", "SLURM_PROCID", "SLURM_STEP")


def mpiexec() -> str:
    """The launcher of the MPI that mpi4py loads: that of the wheel beside this Python, or else the one on the PATH."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = os.environ.get("ATOLL_MPIEXEC") or (str(beside) if beside.exists() else shutil.which("mpiexec"))
    if found is None:
        raise LaunchError("no mpiexec beside this Python or on the PATH: `python -m pip install mpich` brings one")
    return found


def start_ranks(num_ranks: int, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start an MPI job of our ranks, in its own session, printing into `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [mpiexec(), "-n", str(num_ranks), sys.executable, "-m", "atoll.platform.rank", *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=rank_environment(),
        )


def rank_environment() -> dict[str, str]:
    """The ranks' environment: libraries must not start a thread per core before a rank knows its share."""
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | without_rank_variables()


def without_rank_variables() -> dict[str, str]:
    """This process's environment without what makes a process a rank of its parent's MPI job."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_RANK_VARIABLES)}


def end_job(job: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """End an MPI job that is still there: TERM, then KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if job.poll() is not None:
            return
        os.killpg(job.pid, number)
        try:
            job.wait(grace)
        except subprocess.TimeoutExpired:
            continue


def kill_ranks(folder: StudyFolder, since: float) -> None:
    """Kill those ranks of this host, started after `since`, that have outlived their mpiexec."""
    for event in _hosts(folder, since):
        if event["hostname"] == socket.gethostname() and _is_rank_of(folder, event["process"]):
            try:
                os.kill(event["process"], signal.SIGKILL)
            except ProcessLookupError:
                continue


def _hosts(folder: StudyFolder, since: float) -> list[journal.Event]:
    events = journal.replay(folder.journals)
    return [event for event in events if event["event"] == "host" and event["time"] >= since]


def _is_rank_of(folder: StudyFolder, process: int) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return "atoll.platform.rank" in command and str(folder.path) in command


def search(
    study: Study,
    url: str,
    *,
    resuming: bool,
    follow: Callable[[StudyFolder], None],
    belongs_to: Mapping[str, Any] | None = None,
) -> Ending:
    """Run a whole search: start the ranks, record, start them again when they die, and end.

    Args:
        study: what to search; checked.
        url: the store's.
        resuming: whether to go on with what is there.
        follow: called again and again while the search runs, and once at the end.
        belongs_to: further fields of the study's row: the benchmark, and what it is there.

    Raises:
        LaunchError, Locked, StoreError: when it cannot start.
    """
    launch.check_name_is_free(study, url)
    folder = launch.study_folder(study)
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.lock)
    lock.acquire()
    try:
        launch.prepare(study, url, resuming=resuming, belongs_to=belongs_to)
        row = launch.row(folder)
        thread = RecorderThread(Recorder(folder, lambda: Store(url), row))
        thread.start()
        with _stop_on_signals(folder) as hurry:
            failure = _Supervisor(study, folder, lock, follow, hurry).run()
        try:
            state, reason = launch.end(folder, study, failure)
        except JournalError as error:
            state, reason = "failed", failure or error.strerror
        recorded = thread.finish(launch.RECORDING_TIMEOUT)
        follow(folder)
    finally:
        lock.release()
    return Ending(state, reason, recorded)


class _Supervisor:
    """Starts the ranks until they have ended by themselves, were stopped, or have died too often."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        lock: Lock,
        follow: Callable[[StudyFolder], None],
        hurry: threading.Event,
    ) -> None:
        self._study = study
        self._folder = folder
        self._lock = lock
        self._follow = follow
        self._hurry = hurry
        self._num_ranks = study.topology.shape().world_size

    def run(self) -> str | None:
        """Returns why the search failed, or None where it ended or was stopped."""
        for num_restarts in range(self._study.max_restarts + 1):
            started, log_size = time.time(), _size(self._folder.log)
            failure, silent = self._run_once()
            if failure is None or self._folder.stop_request.exists():
                return None
            free = shutil.disk_usage(self._folder.path).free
            # mpiexec may fail to write the log before it can tell how a rank ended.
            if failure == JOURNALS_FULL or free < LITTLE_SPACE:
                failure = JOURNALS_FULL
                return f"{failure} ({free} bytes are free in {self._folder.path}); {_MAKE_ROOM}"
            failure += _explanation(self._folder, log_size)
            if not any(e["event"] == "trial_started" and e["time"] >= started for e in self._events()):
                return failure
            blamed = _blamed(self._folder, started, log_size, silent)
            with launch.launcher_journal(self._folder) as lines:
                launch.mark_lost(self._folder, lines, failure, blamed)
                if num_restarts < self._study.max_restarts:
                    lines.append("restarted", {"reason": failure}, sync=True)
        return f"{failure}; the ranks were started again {self._study.max_restarts} times (max_restarts)"

    def _run_once(self) -> tuple[str | None, list[int]]:
        """Start the ranks once; returns how they died, if they did, and which of them were silent."""
        beats = [self._folder.heartbeat(rank) for rank in range(self._num_ranks)]
        started = time.time()
        monitor = HeartbeatMonitor(beats, self._study.heartbeat_timeout)
        job = start_ranks(self._num_ranks, ["search", str(self._folder.path)], self._folder.log)
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
                if not asked:  # the ranks take the signal that ends them for a request to stop
                    self._folder.stop_request.unlink(missing_ok=True)
            kill_ranks(self._folder, started)
        if silent:
            seconds = self._study.heartbeat_timeout
            return f"rank {', '.join(map(str, silent))} made no progress for {seconds:g} s (heartbeat_timeout)", silent
        if job.returncode == 0:
            return None, []
        if -job.returncode in STOP_SIGNALS:  # someone ended mpiexec: they want the search to stop
            launch.request_stop(self._folder)
        if job.returncode == EXIT_JOURNAL:
            return JOURNALS_FULL, []
        return f"the MPI job ended with code {job.returncode}", []

    def _end_when_stopping_takes_too_long(self, job: subprocess.Popen[bytes]) -> None:
        if not self._folder.stop_request.exists():
            return
        asked = self._folder.stop_request.stat().st_mtime
        if self._hurry.is_set() or time.time() - asked > self._study.stop_grace:
            end_job(job, grace=2.0)

    def _events(self) -> list[journal.Event]:
        return journal.replay(self._folder.journals)


@contextmanager
def _on_stop_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Call `handler` on what asks a search to stop; only a main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def noting_signals() -> Iterator[threading.Event]:
    """Between searches: what would end one sets the event instead of ending this process."""
    asked = threading.Event()
    with _on_stop_signals(lambda _number, _frame: asked.set()):
        yield asked


@contextmanager
def _stop_on_signals(folder: StudyFolder) -> Iterator[threading.Event]:
    """A first signal asks for a clean stop; a second interrupt sets the event: at once."""
    hurry = threading.Event()

    def asked(number: int, _frame: object) -> None:
        if number == signal.SIGINT and folder.stop_request.exists():
            hurry.set()
        launch.request_stop(folder)

    with _on_stop_signals(asked):
        yield hurry


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _log_since(folder: StudyFolder, start: int) -> str:
    with folder.log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _explanation(folder: StudyFolder, log_start: int) -> str:
    """What the ranks' log says of their end: the last error."""
    lines = _log_since(folder, log_start).splitlines()
    errors = [line.strip() for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return f": {errors[-1]} (see {folder.log})" if errors else f" (see {folder.log})"


def _blamed(folder: StudyFolder, since: float, log_start: int, silent: Sequence[int]) -> set[int] | None:
    """The workers of the ranks that died by themselves, as far as mpiexec or heartbeats tell; None if they do not."""
    # Hydra names the process whose end made it end the others.
    named = {int(process) for process in re.findall(r"PID (\d+) RUNNING AT", _log_since(folder, log_start))}
    hosts = _hosts(folder, since)
    workers = {h["worker"] for h in hosts if h["process"] in named or h["world_rank"] in silent}
    return workers or None
