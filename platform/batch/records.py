"""What is known of submitted jobs, in the study's folder.

A submission is a folder `jobs/1`, `jobs/2`, ... Each file in it has one writer and is written once, whole: whoever
submits a job writes `ID.submitted.json`, and the job itself `ID.RUN.started.json` and `ID.RUN.ended.json`, where RUN
counts its starts, as a job may be requeued. So no lock is needed, on any file system.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atoll.storage.files import write_whole
from atoll.storage.folder import StudyFolder

_ID = r"[A-Za-z0-9_.\[\]-]{1,150}"
_SUBMITTED = re.compile(rf"({_ID})\.submitted\.json")
_RUN = re.compile(rf"({_ID})\.(\d+)\.(started|ended)\.json")


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted.

    Attributes:
        id: the batch system's name of it; of an array, that of the whole.
        position: its place in its chain, from 1.
        lane: its chain, from 1; 0 for an array, whose tasks are the lanes.
        previous: the job that it waits for.
        tasks: the number of tasks of an array; 0 if it is none.
        when: the time, in seconds since 1970.
    """

    id: str
    position: int = 1
    lane: int = 1
    previous: str | None = None
    tasks: int = 0
    when: float = field(default_factory=time.time)


@dataclass
class Run:
    """One start of a job.

    Attributes:
        started: when, and where.
        hostname: its first host.
        progress: what had been searched then; see `chain.progress`.
        ended, code: when it ended, and its exit code; None if it did not say so.
    """

    started: float
    hostname: str
    progress: tuple[int, int] | None = None
    ended: float | None = None
    code: int | None = None


@dataclass(frozen=True)
class Meta:
    """What all jobs of a submission share.

    Attributes:
        name: the study's name.
        study: the study's folder.
        system: the batch system.
        limit: the most jobs of a chain; None: until the study is done.
        lanes: number of chains.
    """

    name: str
    study: str
    system: str
    limit: int | None
    lanes: int


def check_id(job: str) -> str:
    """The id, if it can be part of a file's name. Raises ValueError."""
    if not re.fullmatch(_ID, job):
        raise ValueError(f"a job's id must have letters, digits and _.-[] only; got {job[:60]!r}")
    return job


class Submission:
    """The files of one `atoll submit`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def script(self) -> Path:
        """The script of all of its jobs."""
        return self.path / "job.sh"

    @property
    def meta_file(self) -> Path:
        """What all jobs share, as JSON; without it there is no submission."""
        return self.path / "submission.json"

    @property
    def stopped(self) -> Path:
        """Exists from `atoll stop`: no further job of it searches."""
        return self.path / "stopped"

    def log(self, job: str) -> Path:
        """The log of a job."""
        return self.path / f"{job}.log"

    def write(self, meta: Meta, script: str) -> None:
        """Write what the jobs share; the script may have a password, and is its owner's only."""
        self.script.touch(mode=0o700)
        write_whole(self.script, script)
        write_whole(self.meta_file, json.dumps(asdict(meta), indent=2))

    def meta(self) -> Meta:
        """What all jobs share. Raises FileNotFoundError if the study was deleted."""
        return Meta(**json.loads(self.meta_file.read_text()))

    def add(self, job: Submitted) -> None:
        """Record a job that was submitted."""
        write_whole(self.path / f"{check_id(job.id)}.submitted.json", json.dumps(asdict(job)))

    def submitted(self) -> list[Submitted]:
        """The jobs that were submitted, by lane and position."""
        found = [Submitted(**content) for _, content in self._read(_SUBMITTED)]
        return sorted(found, key=lambda job: (job.lane, job.position, job.when))

    def runs(self) -> dict[str, dict[int, Run]]:
        """The starts of each job, by number."""
        runs: dict[str, dict[int, Run]] = {}
        for (job, number, kind), content in sorted(self._read(_RUN), key=lambda entry: entry[0][2], reverse=True):
            if kind == "started":
                progress = content.get("progress")
                known = None if progress is None else (int(progress[0]), int(progress[1]))
                runs.setdefault(job, {})[int(number)] = Run(content["when"], content["hostname"], known)
            elif int(number) in runs.get(job, {}):
                run = runs[job][int(number)]
                run.ended, run.code = content["when"], content["code"]
        return {job: dict(sorted(numbered.items())) for job, numbered in runs.items()}

    def start(self, job: str, progress: tuple[int, int] | None) -> int:
        """Record that a job starts; returns the number of its starts."""
        number = 1 + max(self.runs().get(job, {}), default=0)
        content = {"when": time.time(), "hostname": socket.gethostname(), "progress": progress}
        write_whole(self.path / f"{check_id(job)}.{number}.started.json", json.dumps(content))
        return number

    def end(self, job: str, code: int) -> None:
        """Record the exit code of a job that ends."""
        number = max(self.runs().get(job, {}), default=1)
        content = {"when": time.time(), "code": code}
        write_whole(self.path / f"{check_id(job)}.{number}.ended.json", json.dumps(content))

    def _read(self, names: re.Pattern[str]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        for path in self.path.iterdir():
            if found := names.fullmatch(path.name):
                yield found.groups(), json.loads(path.read_text())


def submissions(folder: StudyFolder) -> list[Submission]:
    """The submissions of a study, oldest first."""
    if not folder.jobs.is_dir():
        return []
    numbers = sorted(int(path.name) for path in folder.jobs.iterdir() if path.name.isdecimal())
    found = [Submission(folder.jobs / str(number)) for number in numbers]
    return [submission for submission in found if submission.meta_file.exists()]


def next_path(folder: StudyFolder) -> Path:
    """The folder that the next submission will probably have."""
    taken = [int(p.name) for p in folder.jobs.iterdir() if p.name.isdecimal()] if folder.jobs.is_dir() else []
    return folder.jobs / str(1 + max(taken, default=0))


def reserve(folder: StudyFolder) -> Path:
    """Make the folder of a new submission, which no other process gets."""
    folder.jobs.mkdir(parents=True, exist_ok=True)
    while True:
        path = next_path(folder)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
