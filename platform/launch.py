"""Starts a search: checks everything that can be checked, then starts the MPI job, follows it, and ends it cleanly.

`atoll search` starts `mpiexec` by itself; inside someone's own mpirun or srun, every rank calls `join` instead.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from atoll.platform import registry, resume
from atoll.platform.study import Study
from atoll.storage import journal
from atoll.storage.folder import DEFAULT_PARENT, StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import DEFAULT_URL, Store

EXIT_STOPPED = 75
RECORDING_TIMEOUT = 60.0
REQUIRED = {"mpi4py": "mpi4py", "torch": "torch", "propulate": "propulate", "sklearn": "scikit-learn"}


class LaunchError(Exception):
    """The search cannot start; the message says why, and what would help."""


@dataclass(frozen=True)
class Ending:
    """How a search ended.

    Attributes:
        state: complete, stopped or failed.
        reason: why, unless it is complete.
        recorded: whether the store holds every line.
    """

    state: str
    reason: str | None
    recorded: bool

    @property
    def exit_code(self) -> int:
        """0 complete, 75 stopped and resumable, 1 failed or not recorded."""
        return {"complete": 0 if self.recorded else 1, "stopped": EXIT_STOPPED}.get(self.state, 1)


def store_url(option: str | None, study: Study | None = None) -> str:
    """The store's URL: the option, ATOLL_STORE, the study's, or the default."""
    return option or os.environ.get("ATOLL_STORE") or (study.store if study else None) or DEFAULT_URL


def study_folder(study: Study) -> StudyFolder:
    """Where the study's files go."""
    return StudyFolder(Path(study.folder) if study.folder else DEFAULT_PARENT / study.name)


def require_search_extra() -> None:
    """Raise LaunchError unless the `search` extra is installed."""
    import importlib.util

    missing = [package for module, package in REQUIRED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise LaunchError(
            f"a search needs {', '.join(missing)}: install them with `python -m pip install -c constraints.txt -e "
            '".[search]"` (Python 3.11 or 3.12)'
        )


def check(study: Study) -> None:
    """Check what a study asks for, before anything expensive starts: names, space, hyperparameters, data.

    Raises:
        ValueError, DataMissing: with the rule, the value and the valid choices.
    """
    workload = registry.workload(study.workload)
    registry.method(study.method)
    study.search_space()
    workload.check_data(Path(study.data) if study.data else None)


def prepare(study: Study, *, resuming: bool) -> StudyFolder:
    """Make the study's folder, or take it up again; marks the trials that a former start has lost.

    Raises:
        LaunchError: when the study exists and is not to be resumed, or the other way round, or has changed, or is done.
    """
    folder = study_folder(study)
    definition = study.model_dump(mode="json", exclude={"store", "folder"})
    if folder.exists() and not resuming:
        raise LaunchError(
            f"{folder.path} already holds a study; continue it with --resume, choose another --name, or remove it with "
            f"`atoll delete {study.name}`"
        )
    if resuming:
        _check_unchanged(folder, study, definition)
    workload = registry.workload(study.workload)
    row = {
        "name": study.name,
        "state": "running",
        "workload": study.workload,
        "method": study.method,
        "metric": workload.metric,
        "direction": workload.direction,
        "target": workload.target,
        "num_trials": study.trials,
        "definition": definition,
        "folder": str(folder.path.resolve()),
        "started": _started(folder),
    }
    folder.create()
    _write_whole(folder.definition, json.dumps(row, indent=2))
    folder.stop_request.unlink(missing_ok=True)
    with _launcher_journal(folder) as lines:
        lines.append("study_started", {"definition": definition, "num_trials": study.trials}, sync=True)
        mark_lost(folder, lines, "its process ended before it did")
    return folder


def _check_unchanged(folder: StudyFolder, study: Study, definition: dict[str, Any]) -> None:
    if not folder.exists():
        raise LaunchError(f"there is no study to resume in {folder.path}; leave --resume out to start it")
    before = json.loads(folder.definition.read_text())["definition"]
    may_change = {"trials", "topology"}
    changed = [
        f"{key}: {before.get(key)!r} before, {value!r} now"
        for key, value in definition.items()
        if key not in may_change and before.get(key) != value
    ]
    if before["topology"]["ranks"] != definition["topology"]["ranks"]:
        changed.append(f"topology.ranks: {before['topology']['ranks']} before, {definition['topology']['ranks']} now")
    if changed:
        raise LaunchError(
            f"the study has changed since it was started ({'; '.join(changed)}); only trials, islands and workers may"
        )
    if resume.read(journal.replay(folder.journals)).num_budgeted() >= study.trials:
        raise LaunchError(f"{study.name} has used up its {study.trials} trials; give more trials to go on")


def _started(folder: StudyFolder) -> float:
    return float(json.loads(folder.definition.read_text())["started"]) if folder.exists() else time.time()


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


@contextmanager
def _launcher_journal(folder: StudyFolder) -> Iterator[JournalWriter]:
    lines = JournalWriter(folder.journal("launcher"))
    try:
        yield lines
    finally:
        lines.close()


def mark_lost(folder: StudyFolder, lines: JournalWriter, reason: str) -> None:
    """End the trials that have started and whose process is gone."""
    for trial in resume.read(journal.replay(folder.journals)).running():
        lines.append("trial_lost", {"number": trial.number, "attempt": trial.attempt, "reason": reason})


def end(folder: StudyFolder, study: Study, failure: str | None) -> tuple[str, str | None]:
    """Write the study's last line: its state and why."""
    with _launcher_journal(folder) as lines:
        mark_lost(folder, lines, failure or "the search was stopped")
        num_trials = resume.read(journal.replay(folder.journals)).num_budgeted()
        if failure is not None:
            state, reason = "failed", failure
        elif num_trials < study.trials:
            state, reason = "stopped", f"stopped after {num_trials} of {study.trials} trials"
        else:
            state, reason = "complete", None
        lines.append("study_ended", {"state": state, "reason": reason}, sync=True)
    return state, reason


# Starting mpiexec ourselves.


def mpiexec() -> str:
    """The launcher of the MPI that mpi4py loads: that of the wheel beside this Python, or else the one on the PATH."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = os.environ.get("ATOLL_MPIEXEC") or (str(beside) if beside.exists() else shutil.which("mpiexec"))
    if found is None:
        raise LaunchError("no mpiexec beside this Python or on the PATH: `python -m pip install mpich` brings one")
    return found


def start_ranks(num_ranks: int, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start an MPI job of our ranks, in its own process group, printing into `log`."""
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
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | os.environ


def end_job(job: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """End an MPI job that is still there: TERM, then KILL."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        if job.poll() is not None:
            return
        os.killpg(job.pid, number)
        try:
            job.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def search(study: Study, url: str, *, resuming: bool, follow: Callable[[StudyFolder], None]) -> Ending:
    """Run a whole search: start the ranks, record, and end.

    Args:
        study: what to search; checked.
        url: the store's.
        resuming: whether to go on with what is there.
        follow: called again and again while the search runs, and once at the end.
    """
    check_name_is_free(study, url)
    folder = prepare(study, resuming=resuming)
    row = json.loads(folder.definition.read_text())
    thread = RecorderThread(Recorder(folder, lambda: Store(url), row))
    thread.start()
    job = start_ranks(study.topology.shape().world_size, ["search", str(folder.path)], folder.log)
    try:
        with _stop_on_interrupt(folder, job):
            while job.poll() is None:
                follow(folder)
                time.sleep(0.1)
    finally:
        end_job(job)
    failure = None if job.returncode == 0 else _failure(job.returncode, folder)
    state, reason = end(folder, study, failure)
    recorded = thread.finish(RECORDING_TIMEOUT)
    follow(folder)
    return Ending(state, reason, recorded)


def check_name_is_free(study: Study, url: str) -> None:
    """Raise StoreError when the store holds another study of this name; a store that cannot be read says nothing."""
    from atoll.storage.store import StoreError

    try:
        store = Store(url)
    except DBAPIError:
        return
    try:
        for summary in store.studies():
            if summary.study.name == study.name and Path(summary.study.folder) != study_folder(study).path.resolve():
                raise StoreError(
                    f"{store} already holds a study named {study.name!r}, with its files in {summary.study.folder}; "
                    "choose another --name, or delete that study"
                )
    finally:
        store.close()


@contextmanager
def _stop_on_interrupt(folder: StudyFolder, job: subprocess.Popen[bytes]) -> Iterator[None]:
    """The first interrupt asks for a clean stop, the second ends the job at once."""

    def interrupted(_number: int, _frame: object) -> None:
        if folder.stop_request.exists():
            end_job(job, grace=2.0)
        request_stop(folder)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def request_stop(folder: StudyFolder) -> None:
    """Ask a running search to stop: trials in flight end after their current epoch, to be queued again."""
    folder.stop_request.touch()


def _failure(code: int, folder: StudyFolder) -> str:
    lines = folder.log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if "Error" in line or "error" in line]
    last = errors[-1] if errors else lines[-1] if lines else "it printed nothing"
    return f"the MPI job ended with code {code}: {last.strip()} (see {folder.log})"


# Inside someone's own mpirun or srun.

_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "PMIX_RANK")


def inside_mpi() -> bool:
    """Whether this process is one rank of an MPI job that someone else has started."""
    return any(name in os.environ for name in _SIZE_VARIABLES) or (
        "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    )


def join(study: Study, url: str, *, resuming: bool) -> tuple[int, str | None]:
    """Take part in a search as one rank of the MPI job that this process belongs to.

    Returns:
        The exit code, and on rank 0 what there is to say.
    """
    import mpi4py

    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    from atoll.platform import search as rank_of_search
    from atoll.platform.topology import check_world_size

    world = MPI.COMM_WORLD
    check_world_size(study.topology.shape(), world.size)
    refused: Exception | None = None
    if world.rank == 0:
        try:
            check_name_is_free(study, url)
            prepare(study, resuming=resuming)
        except Exception as error:
            refused = error
    if world.bcast(refused is not None):
        if refused is not None:
            raise refused
        return 1, None
    folder = study_folder(study)
    recorder = _start_recorder(folder, url) if world.rank == 0 else None
    try:
        rank_of_search.run(folder, world)
    except BaseException:
        import traceback

        traceback.print_exc()
        world.Abort(1)
    world.barrier()
    if recorder is None:
        return int(world.bcast(None)), None
    state, reason = end(folder, study, None)
    try:
        recorded = recorder.wait(RECORDING_TIMEOUT) == 0
    except subprocess.TimeoutExpired:
        recorded = False
        recorder.terminate()
    ending = Ending(state, reason, recorded)
    world.bcast(ending.exit_code)
    return ending.exit_code, reason or (None if recorded else f"finish recording with `atoll record {folder.path}`")


def _start_recorder(folder: StudyFolder, url: str) -> subprocess.Popen[bytes]:
    # A child of a rank must not look like a rank.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "PMIX", "MPI_", "SLURM"))}
    command = [sys.executable, "-m", "atoll.platform.cli", "record", str(folder.path), "--follow", "--store", url]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)


def record(folder: StudyFolder, url: str, *, follow: bool) -> int:
    """Move a study's journals into the store, now or until its last line; returns the number of lines.

    Raises:
        LaunchError: where there is no study.
        DBAPIError, StoreError: unless following, when the store cannot be written.
    """
    if not folder.exists():
        raise LaunchError(f"{folder.path} holds no study: there is no {folder.definition.name} in it")
    recorder = Recorder(folder, lambda: Store(url), json.loads(folder.definition.read_text()))
    if not follow:
        return recorder.catch_up()
    thread = RecorderThread(recorder)
    thread.start()
    while not _has_ended(folder):
        time.sleep(0.2)
    thread.finish(timeout=24 * 3600.0)
    return 0


def _has_ended(folder: StudyFolder) -> bool:
    events = journal.replay(folder.journals)
    last = [event["event"] for event in events if event["event"] in ("study_started", "study_ended")]
    return last[-1:] == ["study_ended"]
