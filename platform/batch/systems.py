"""The batch systems: their directives and commands.

Slurm's sbatch(1), squeue(1), scancel(1); PBS Professional's qsub(1B), qstat(1B), qsig(1B), and Torque's, where they
differ; LSF's bsub(1), bjobs(1), bkill(1).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from atoll.platform.batch.job import BatchError, Job

COMMAND_TIMEOUT = 120.0  # a busy scheduler takes its time
_UNQUOTED = re.compile(r"[A-Za-z0-9_./:@%+,=\[\]()*-]+")
QUEUED, RUNNING = "queued", "running"


class SystemUnavailable(Exception):
    """The batch system cannot be asked; the message says why."""


@dataclass(frozen=True)
class InQueue:
    """A job that the batch system holds.

    Attributes:
        state: queued or running.
        reason: why it waits, in the system's words; empty if it does not tell.
    """

    state: str
    reason: str = ""


def in_directive(text: str) -> str:
    """A value of a directive, in quotes if it needs them. Raises BatchError if no quotes would do."""
    if _UNQUOTED.fullmatch(text):
        return text
    if not text.isprintable() or any(character in text for character in "\"'\\`$"):
        raise BatchError(
            "paths and options of a job must be printable, without quotes, backslashes and dollars, as batch systems "
            f"read their directives without a shell; got {text!r}"
        )
    return f'"{text}"'


def clock(seconds: int) -> str:
    """A time as hours:minutes:seconds."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _run(command: Sequence[str], *, stdin: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        with open(stdin or os.devnull) as given:
            return subprocess.run(
                command, stdin=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False,
                env=outside_of_jobs(os.environ),
            )  # fmt: skip
    except FileNotFoundError:
        raise SystemUnavailable(f"{command[0]} is not on the PATH of this host") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemUnavailable(f"{command[0]}: {error}") from None


def outside_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a Slurm job's own settings would do to a job that is submitted from it."""
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


class BatchSystem(ABC):
    """One batch system.

    Attributes:
        prefix: of directives.
        job_id: what a script sets `job` to: the id of the job that it runs in, as in this module.
        signals_itself: whether it sends the signal before the time limit.
        has_live_log: whether a job's output is in its place while it runs.
    """

    prefix: ClassVar[str]
    job_id: ClassVar[str]
    signals_itself: ClassVar[bool] = False
    has_live_log: ClassVar[bool] = True

    @abstractmethod
    def directives(self, job: Job) -> list[str]:
        """The options in the script's head."""

    @abstractmethod
    def submit(self, script: Path, after: str | None) -> str:
        """Submit a script, to run once job `after` has failed; returns the id. Raises SystemUnavailable, BatchError."""

    @abstractmethod
    def queue(self, jobs: Sequence[str]) -> dict[str, InQueue]:
        """Those of the jobs that wait or run. Raises SystemUnavailable."""

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs that wait. Raises SystemUnavailable."""

    @abstractmethod
    def ask_to_stop(self, job: str) -> None:
        """Send USR1 to the script of a running job. Raises SystemUnavailable."""

    def task(self, array: str, number: int) -> str:
        """The id of a task of an array."""
        return f"{array.removesuffix('[]')}[{number}]"

    def array_of(self, task: str) -> str | None:
        """The id of the array that a task belongs to; None if the job is no task."""
        return None if (found := re.fullmatch(r"([^\[]+)\[\d+\](.*)", task)) is None else found[1] + found[2]

    @staticmethod
    def _submitted(command: Sequence[str], form: str, stdin: Path | None = None) -> str:
        done = _run(command, stdin=stdin)
        if done.returncode:
            raise BatchError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
        if (found := re.search(form, done.stdout)) is None:
            raise BatchError(f"{shlex.join(command)} must print a job's id; got {done.stdout[:300]!r}")
        return found[1]


class Slurm(BatchSystem):
    """Slurm."""

    prefix = "#SBATCH"
    job_id = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    signals_itself = True

    def directives(self, job: Job) -> list[str]:
        """As sbatch reads them."""
        batch, log = job.batch, "%A_%a.log" if job.array else "%j.log"
        lines = [f"--job-name={job.name}", f"--nodes={job.nodes}", f"--ntasks={job.ranks}"]
        lines.append(f"--ntasks-per-node={job.ranks_per_node}")
        if job.cores_per_rank is not None:
            lines.append(f"--cpus-per-task={job.cores_per_rank}")
        if job.gpus_per_node:
            lines.append(f"--gpus-per-node={job.gpus_per_node}")
        lines += [f"--time={clock(job.seconds)}", f"--signal=B:USR1@{batch.stop_seconds}", "--requeue"]
        # A file name's pattern: two percent signs are one.
        folder = str(job.folder).replace("%", "%%")
        lines += [f"--output={in_directive(f'{folder}/{log}')}", "--open-mode=append"]
        lines += [f"--array=1-{job.array}"] if job.array else []
        lines += [f"--partition={batch.partition}"] if batch.partition else []
        lines += [f"--account={batch.account}"] if batch.account else []
        return lines

    def submit(self, script: Path, after: str | None) -> str:
        """With sbatch; a job that can never start is canceled."""
        waits = [] if after is None else [f"--dependency=afternotok:{after}", "--kill-on-invalid-dep=yes"]
        return self._submitted(["sbatch", "--parsable", *waits, str(script)], r"(?m)^(\d+)(?:;.*)?$")

    def queue(self, jobs: Sequence[str]) -> dict[str, InQueue]:
        """With squeue."""
        done = _run(["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r"])
        if done.returncode:
            raise SystemUnavailable(f"squeue: {done.stderr.strip()[-500:]}")
        found, wanted = {}, set(jobs)
        for line in done.stdout.splitlines():
            job, state, reason = [*line.strip().split("|"), "", ""][:3]
            if job in wanted:
                is_waiting = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
                found[job] = InQueue(QUEUED, "" if reason == "None" else reason) if is_waiting else InQueue(RUNNING)
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        """With scancel; one that runs by now goes on."""
        _run(["scancel", "--state=PENDING", *jobs])

    def ask_to_stop(self, job: str) -> None:
        """With scancel; srun and mpiexec get it from the script."""
        _run(["scancel", "--batch", "--signal=USR1", job])

    def task(self, array: str, number: int) -> str:
        """As squeue --array prints it."""
        return f"{array}_{number}"

    def array_of(self, task: str) -> str | None:
        """The number before the underscore."""
        return task.partition("_")[0] if "_" in task else None


class Pbs(BatchSystem):
    """PBS Professional and OpenPBS."""

    prefix = "#PBS"
    job_id = '"$PBS_JOBID"'
    has_live_log = False

    def directives(self, job: Job) -> list[str]:
        """As qsub reads them."""
        batch = job.batch
        lines = ["-S /bin/bash", f"-N {self._name(job)}", *self._resources(job), f"-l walltime={clock(job.seconds)}"]
        lines += ["-r y", "-j oe", f"-o {in_directive(f'{job.folder}/')}"]
        lines += [f"{self._array_option} 1-{job.array}"] if job.array else []
        lines += [f"-q {batch.partition}"] if batch.partition else []
        lines += [f"-A {batch.account}"] if batch.account else []
        return lines

    _array_option = "-J"

    def _name(self, job: Job) -> str:
        return job.name

    def _resources(self, job: Job) -> list[str]:
        cores = (job.cores_per_rank or 1) * job.ranks_per_node
        gpus = f":ngpus={job.gpus_per_node}" if job.gpus_per_node else ""
        return [f"-l select={job.nodes}:ncpus={cores}:mpiprocs={job.ranks_per_node}{gpus}", "-l place=scatter"]

    def submit(self, script: Path, after: str | None) -> str:
        """With qsub; PBS deletes a job that can never start."""
        waits = [] if after is None else ["-W", f"depend=afternotok:{after}"]
        return self._submitted(["qsub", *waits, str(script)], r"(?m)^(\d[\w.\[\]-]*)$")

    def queue(self, jobs: Sequence[str]) -> dict[str, InQueue]:
        """With qstat; ids that it does not know any more are told on standard error."""
        if not jobs:
            return {}
        arrays = {array for job in jobs if (array := self._listed_array(job)) is not None}
        plain = [job for job in jobs if self._listed_array(job) is None]
        done = [_run(["qstat", "-f", *plain])] if plain else []
        done += [_run(["qstat", "-t", "-f", *sorted(arrays)])] if arrays else []
        for asked in done:
            if asked.returncode and not re.search(r"(?i)unknown job|has finished", asked.stderr):
                raise SystemUnavailable(f"qstat: {asked.stderr.strip()[-500:]}")
        found = {}
        for match in re.finditer(r"(?ms)^Job Id:? *(\S+)(.*?)(?=^Job Id|\Z)", "\n".join(d.stdout for d in done)):
            state = re.search(r"(?m)^\s*job_state = (\w)", match[2])
            comment = re.search(r"(?m)^\s*comment = (.*)$", match[2])
            if match[1] in jobs and state is not None and state[1] not in "CFX":
                is_waiting = state[1] in "QHWT"
                reason = {"H": "held, such as for the job before it"}.get(state[1], comment[1] if comment else "")
                found[match[1]] = InQueue(QUEUED, reason) if is_waiting else InQueue(RUNNING)
        return found

    def _listed_array(self, job: str) -> str | None:
        found = re.fullmatch(r"(\d+)\[\d+\](.*)", job)
        return None if found is None else f"{found[1]}[]{found[2]}"

    def task(self, array: str, number: int) -> str:
        """The number between the brackets."""
        return array.replace("[]", f"[{number}]", 1)

    def array_of(self, task: str) -> str | None:
        """With empty brackets."""
        return self._listed_array(task)

    def cancel(self, jobs: Sequence[str]) -> None:
        """With qdel."""
        _run(["qdel", *jobs])

    def ask_to_stop(self, job: str) -> None:
        """With qsig."""
        _run(["qsig", "-s", "SIGUSR1", job])


class Torque(Pbs):
    """Torque, which has nodes and processors in place of chunks, and names of at most 15 characters."""

    _array_option = "-t"

    def _name(self, job: Job) -> str:
        return job.name[:15]

    def _resources(self, job: Job) -> list[str]:
        cores = (job.cores_per_rank or 1) * job.ranks_per_node
        gpus = f":gpus={job.gpus_per_node}" if job.gpus_per_node else ""
        return [f"-l nodes={job.nodes}:ppn={cores}{gpus}"]


class Lsf(BatchSystem):
    """LSF."""

    prefix = "#BSUB"
    job_id = '"$LSB_JOBID"; [ "${LSB_JOBINDEX:-0}" = 0 ] || job="$job[$LSB_JOBINDEX]"'

    def directives(self, job: Job) -> list[str]:
        """As bsub reads them; its time limit is in minutes."""
        batch, minutes = job.batch, -(-job.seconds // 60)
        name = f'"{job.name}[1-{job.array}]"' if job.array else job.name
        needs = f"span[ptile={job.ranks_per_node}]"
        needs += f" affinity[core({job.cores_per_rank})]" if job.cores_per_rank else ""
        lines = [f"-J {name}", f"-n {job.ranks}", f'-R "{needs}"', f"-W {minutes // 60}:{minutes % 60:02}"]
        lines += [f'-gpu "num={job.gpus_per_node}"'] if job.gpus_per_node else []
        lines += ["-r", f"-o {in_directive(f'{job.folder}/%J' + ('[%I]' if job.array else '') + '.log')}"]
        lines += [f"-q {batch.partition}"] if batch.partition else []
        lines += [f"-P {batch.account}"] if batch.account else []
        return lines

    def submit(self, script: Path, after: str | None) -> str:
        """With bsub; one that can never start is ended (-ti)."""
        waits = [] if after is None else ["-w", f"exit({after})", "-ti"]
        return self._submitted(["bsub", *waits], r"Job <(\d+)> is submitted", stdin=script)

    def queue(self, jobs: Sequence[str]) -> dict[str, InQueue]:
        """With bjobs, whose delimiter is ours."""
        if not jobs:
            return {}
        arrays = sorted({re.sub(r"\[.*", "", job) for job in jobs}, key=int)
        done = _run(["bjobs", "-noheader", "-o", "jobid jobindex stat pend_reason delimiter='|'", *arrays])
        if done.returncode and "not found" not in done.stderr:
            raise SystemUnavailable(f"bjobs: {done.stderr.strip()[-500:]}")
        found = {}
        for line in done.stdout.splitlines():
            number, index, state, reason = [*line.strip().split("|"), "", "", ""][:4]
            job = f"{number}[{index}]" if index.isdecimal() and int(index) else number
            if job in jobs and state not in ("DONE", "EXIT", "ZOMBI"):
                is_waiting = state in ("PEND", "PSUSP", "WAIT")
                found[job] = InQueue(QUEUED, reason.strip("- ")) if is_waiting else InQueue(RUNNING)
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        """With bkill."""
        _run(["bkill", *jobs])

    def ask_to_stop(self, job: str) -> None:
        """With bkill."""
        _run(["bkill", "-s", "USR1", job])


SYSTEMS: dict[str, BatchSystem] = {"slurm": Slurm(), "pbs": Pbs(), "torque": Torque(), "lsf": Lsf()}
