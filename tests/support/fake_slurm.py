"""A small Slurm on this host: sbatch, srun, squeue, scancel and scontrol that really start and signal processes.

A controller (slurmctld) queues jobs, gives them nodes, and starts, signals and ends their processes as the manual pages
of Slurm 23 say. Its commands are executables in a folder for PATH. Departures from Slurm:

- Nodes are names: all processes run on this host. A node has one job at a time.
- Time limits may be rounded to less than minutes (`resolution`), and KillWait be shorter than 30 s, for tests' sake.
- The signal of --signal is sent on time; Slurm may send it up to 60 s early.
- srun starts the tasks of an MPI program by the mpiexec next to this Python, which is in place of Slurm's PMI plugin.
- A process belongs to the job that its environment names; Slurm uses cgroups.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
TAG, STEP, TASK = "FAKE_SLURM_JOB", "FAKE_SLURM_STEP", "FAKE_SLURM_TASK"
SPOOL = "FAKE_SLURM_SPOOL"
SHORT = {
    "A": "account", "a": "array", "c": "cpus-per-task", "d": "dependency", "D": "chdir", "e": "error", "J": "job-name",
    "n": "ntasks", "N": "nodes", "o": "output", "p": "partition", "t": "time", "q": "qos", "C": "constraint",
    "w": "nodelist", "G": "gpus", "K": "kill-on-bad-exit", "l": "label", "u": "user", "j": "jobs", "h": "noheader",
    "r": "array", "s": "signal", "b": "batch", "f": "full", "i": "input",
}  # fmt: skip
OTHERWISE = {
    ("scancel", "t"): "state",
    ("squeue", "t"): "states",
    ("squeue", "o"): "format",
    ("squeue", "n"): "name",
}
VALUES = {
    "sbatch": {
        "account", "array", "chdir", "constraint", "cpus-per-task", "dependency", "error", "export", "gpus",
        "gpus-per-node", "gpus-per-task", "gres", "hint", "job-name", "kill-on-invalid-dep", "mem", "mem-per-cpu",
        "nodes", "ntasks",
        "ntasks-per-node", "open-mode", "output", "partition", "qos", "signal", "time", "licenses", "mail-type",
        "mail-user",
    },
    "srun": {
        "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "nodelist", "cpu-bind", "gpu-bind", "gpus-per-task",
        "mpi", "export", "input", "output", "distribution", "external-launcher",
    },
    "squeue": {"user", "jobs", "states", "format", "name", "partition"},
    "scancel": {"signal", "state", "user", "name"},
}  # fmt: skip
FLAGS = {
    "sbatch": {"parsable", "requeue", "no-requeue", "exclusive", "quiet", "test-only"},
    "srun": {"kill-on-bad-exit", "label", "exclusive", "overlap", "quiet"},
    "squeue": {"noheader", "array", "me", "all"},
    "scancel": {"batch", "full", "quiet", "me"},
}
COMPACT = {
    "PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD", "FAILED": "F", "TIMEOUT": "TO",
    "CANCELLED": "CA",
}  # fmt: skip
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"}


class Refused(Exception):
    """What a command prints on standard error."""


def parse(command: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options by their long names, and what follows them."""
    options: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
        else:
            name, given, value = SHORT.get(word[1], word[1:]), word[2:], word[2:].removeprefix("=")
            name = OTHERWISE.get((command, word[1]), name)
        if name in FLAGS[command]:
            options[name] = value if given else "1"
        elif name in VALUES[command]:
            options[name] = value if given else rest.pop(0) if rest else ""
        else:
            raise Refused(f"{command}: unrecognized option '{word}'\nTry \"{command} --help\" for more information")
    return options, rest


def directives(script: str) -> list[str]:
    """The words of a script's #SBATCH lines, which end at its first command."""
    words: list[str] = []
    for line in script.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return words


def seconds(text: str, resolution: int) -> int:
    """A time limit: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]; rounded up."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise Refused("sbatch: error: Invalid --time specification")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, secs = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, secs = numbers
    else:
        hours, (minutes, secs) = 0, [*numbers, 0][:2]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
    return math.ceil(total / resolution) * resolution


def tagged(tag: str, name: str = TAG) -> list[int]:
    """The processes whose environment has name=tag."""
    wanted, found = f"{name}={tag}".encode(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def send(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


@dataclass
class Job:
    id: int
    options: dict[str, str]
    script: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    limit: int
    num_nodes: int
    num_tasks: int
    array: int | None = None
    task: int | None = None
    tasks: list[int] = field(default_factory=list)
    state: str = "PENDING"
    reason: str = "None"
    restarts: int = 0
    nodes: list[str] = field(default_factory=list)
    start: float = 0.0
    end: float = 0.0
    process: subprocess.Popen | None = None
    warned: bool = False
    kill_at: float | None = None
    becomes: str | None = None
    exit: str = "0:0"

    @property
    def name(self) -> str:
        """Of the array's task, or of the job."""
        return str(self.id) if self.array is None else f"{self.array}_{self.task}"

    @property
    def is_active(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING")


class Controller:
    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.settings = json.loads((spool / "slurm.conf").read_text())
        self.jobs: dict[int, Job] = {}
        self.next = self.settings["first"]

    def run(self) -> None:
        """Serve commands and look after the jobs until SIGTERM, which ends all jobs."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as waiting:
            server.bind(str(self.spool / "socket"))
            server.listen(64)
            waiting.register(server, selectors.EVENT_READ)
            try:
                while True:
                    if waiting.select(0.05):
                        self._answer(server.accept()[0])
                    self._tick()
                    self._account()
            finally:
                for job in self.jobs.values():
                    while job.is_active and (left := tagged(self._tag(job))):  # one may just have forked another
                        send(left, signal.SIGKILL)

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            asked = json.loads(stream.readline())
            try:
                said = {"out": getattr(self, asked["command"])(asked), "err": "", "code": 0}
            except Refused as error:
                said = {"out": "", "err": f"{error}\n", "code": 1}
            self._account()
            with contextlib.suppress(BrokenPipeError):
                stream.write(json.dumps(said) + "\n")
                stream.flush()

    def _tag(self, job: Job) -> str:
        return f"{self.spool}:{job.id}"

    def _account(self) -> None:
        """What a test may look up, as with sacct."""
        rows = [
            {
                "id": job.name, "state": job.state, "reason": job.reason, "exit": job.exit, "restarts": job.restarts,
                "start": job.start, "end": job.end, "nodes": job.nodes,
                "pid": job.process.pid if job.process is not None and job.is_active else None,
            }
            for job in self.jobs.values()
        ]  # fmt: skip
        partial = self.spool / ".accounting"
        partial.write_text(json.dumps(rows))
        partial.replace(self.spool / "accounting.json")

    # Commands.

    def sbatch(self, asked: dict) -> str:
        words = asked["argv"]
        given, rest = parse("sbatch", words)
        if not rest:
            raise Refused("sbatch: error: no script")
        path = Path(asked["cwd"], rest[0])
        if not path.is_file():
            raise Refused(f"sbatch: error: Unable to open file {rest[0]}")
        script = path.read_text()
        if not script.startswith("#!"):
            raise Refused("sbatch: error: This does not look like a batch script.  The first\nline must start with #!")
        in_script, rest_of_script = parse("sbatch", directives(script))
        if rest_of_script:
            raise Refused(f"sbatch: error: Invalid directive found in batch script: {rest_of_script[0]}")
        environment = asked["environment"]
        outside = {
            name.removeprefix("SBATCH_").lower().replace("_", "-"): value
            for name, value in environment.items()
            if name.startswith("SBATCH_")
        }
        options = in_script | {name: value for name, value in outside.items() if name in VALUES["sbatch"]} | given
        self._check(options)
        first = self._add(options, script, rest[1:], environment, asked["cwd"])
        return f"{first}\n" if "parsable" in options else f"Submitted batch job {first}\n"

    def _check(self, options: dict[str, str]) -> None:
        failed = "sbatch: error: Batch job submission failed:"
        partition = options.setdefault("partition", self.settings["partitions"][0])
        if partition not in self.settings["partitions"]:
            raise Refused(
                f"sbatch: error: invalid partition specified: {partition}\n{failed} Invalid partition name specified"
            )
        if int(options.get("nodes", 1)) > len(self.settings["nodes"]):
            raise Refused(f"{failed} Requested node configuration is not available")
        waiting = sum(job.state not in ENDED for job in self.jobs.values())
        if waiting >= self.settings["max_jobs"]:
            policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
            raise Refused(f"{failed} {policy}")
        for _, ids in self._clauses(options.get("dependency", "")):
            if any(not self._found(one) for one in ids):
                raise Refused(f"{failed} Job dependency problem")

    def _add(self, options: dict[str, str], script: str, arguments: list[str], environment: dict, cwd: str) -> int:
        per_node = int(options.get("ntasks-per-node", 1))
        num_nodes = int(options.get("nodes", math.ceil(int(options.get("ntasks", 1)) / per_node)))
        num_tasks = int(options.get("ntasks", num_nodes * per_node))
        limit = seconds(options.get("time", "60"), self.settings["resolution"])
        array = options.get("array")
        tasks = [] if array is None else _numbers(array)
        first = self.next
        for task in tasks or [None]:
            job = Job(
                self.next, options, script, arguments, environment, options.get("chdir", cwd), limit, num_nodes,
                num_tasks, array=None if task is None else first, task=task, tasks=tasks,
            )  # fmt: skip
            self.jobs[job.id] = job
            self.next += 1
        return first

    def squeue(self, asked: dict) -> str:
        options, _ = parse("squeue", asked["argv"])
        states = [state.upper() for state in options.get("states", "").split(",") if state]
        wanted = [one for one in options.get("jobs", "").split(",") if one]
        if len(wanted) == 1 and not self._found(wanted[0]):
            raise Refused("slurm_load_jobs error: Invalid job id specified")
        form = options.get("format", "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R")
        lines = [] if "noheader" in options else [_formatted(form, HEAD)]
        for job in self.jobs.values():
            is_listed = job.state not in ENDED
            if states:
                is_listed = states == ["ALL"] or not {job.state, COMPACT[job.state]}.isdisjoint(states)
            if is_listed and (not wanted or any(job in self._found(one) for one in wanted)):
                lines.append(_formatted(form, self._fields(job)))
        return "".join(f"{line}\n" for line in lines)

    def _fields(self, job: Job) -> dict[str, str]:
        ran = time.time() - job.start if job.is_active else 0
        reason = job.reason if not job.is_active else "None"
        return {
            "i": job.name, "A": str(job.id), "F": str(job.array or job.id), "P": job.options["partition"],
            "j": job.options.get("job-name", "sbatch"), "u": "user", "t": COMPACT[job.state], "T": job.state,
            "M": f"{int(ran) // 60}:{int(ran) % 60:02}", "l": f"{job.limit // 60}:{job.limit % 60:02}",
            "D": str(job.num_nodes), "N": ",".join(job.nodes), "r": reason,
            "R": ",".join(job.nodes) if job.is_active else f"({job.reason})",
        }  # fmt: skip

    def scancel(self, asked: dict) -> str:
        options, ids = parse("scancel", asked["argv"])
        number = None if "signal" not in options else _signal(options["signal"])
        states = {state.upper() for state in options.get("state", "").split(",") if state}
        problems = []
        for one in ids:
            found = self._found(one)
            if not found:
                problems.append(f"scancel: error: Kill job error on job id {one}: Invalid job id specified")
            for job in found:
                if job.state in ENDED or (states and not {job.state, COMPACT[job.state]} & states):
                    continue
                self._cancel(job, number, options)
        if problems:
            raise Refused("\n".join(problems))
        return ""

    def _cancel(self, job: Job, number: int | None, options: dict[str, str]) -> None:
        if job.state == "PENDING":
            job.state, job.reason = "CANCELLED", "None"
        elif number is None:
            self._end(job, "CANCELLED", "")
        elif "batch" in options:
            assert job.process is not None
            send([job.process.pid], number)
        elif "full" in options:
            send(tagged(self._tag(job)), number)
        else:
            send(tagged(self._tag(job), STEP), number)

    def scontrol(self, asked: dict) -> str:
        verb, *rest = asked["argv"]
        if verb == "show" and rest[0] == "hostnames":
            return "".join(f"{name}\n" for name in _expanded(rest[1]))
        if verb != "requeue":
            raise Refused(f"invalid keyword: {verb}")
        for one in ",".join(rest).split(","):
            for job in self._found(one):
                if "no-requeue" in job.options or not job.is_active:
                    raise Refused(f"Requested operation is presently disabled for job {one}")
                self._end(job, "PENDING", " DUE TO JOB REQUEUE")
        return ""

    # Jobs.

    def _found(self, text: str) -> list[Job]:
        number, _, task = text.partition("_")
        if not number.isdecimal():
            return []
        jobs = [job for job in self.jobs.values() if job.array == int(number) or job.id == int(number)]
        return [job for job in jobs if not task or job.task == int(task)]

    @staticmethod
    def _clauses(text: str) -> list[tuple[str, list[str]]]:
        clauses = []
        for clause in text.split(",") if text else []:
            kind, *ids = clause.split(":")
            if kind not in ("afterok", "afternotok", "afterany", "singleton"):
                raise Refused("sbatch: error: Batch job submission failed: Job dependency problem")
            clauses.append((kind, ids))
        return clauses

    def _waits(self, job: Job) -> str | None:
        """Dependency or DependencyNeverSatisfied; None if the job may start."""
        for kind, ids in self._clauses(job.options.get("dependency", "")):
            others = [other for one in ids for other in self._found(one)]
            if kind == "singleton":
                named = [other for other in self.jobs.values() if other.id < job.id]
                same = [o for o in named if o.options.get("job-name") == job.options.get("job-name")]
                if any(other.state not in ENDED for other in same):
                    return "Dependency"
            if any(other.state not in ENDED for other in others):
                return "Dependency"
            succeeded = [other.state == "COMPLETED" for other in others]
            if (kind == "afterok" and not all(succeeded)) or (kind == "afternotok" and any(succeeded)):
                return "DependencyNeverSatisfied"
        return None

    def _tick(self) -> None:
        for job in [*self.jobs.values()]:
            if job.is_active:
                self._look_after(job)
        for job in self.jobs.values():
            if job.state != "PENDING":
                continue
            waits = self._waits(job)
            if waits == "DependencyNeverSatisfied" and job.options.get("kill-on-invalid-dep") == "yes":
                job.state, job.reason = "CANCELLED", waits
                continue
            taken = {node for other in self.jobs.values() if other.is_active for node in other.nodes}
            free = [node for node in self.settings["nodes"] if node not in taken]
            job.reason = waits or ("None" if len(free) >= job.num_nodes else "Resources")
            if job.reason == "None":
                self._start(job, free[: job.num_nodes])

    def _look_after(self, job: Job) -> None:
        now = time.time()
        assert job.process is not None
        if (code := job.process.poll()) is not None:
            if left := tagged(self._tag(job)):
                job.state = "COMPLETING"
                send(left, signal.SIGKILL)
                return
            job.exit = f"{code}:0" if code >= 0 else f"0:{-code}"
            job.state = job.becomes or ("COMPLETED" if code == 0 else "FAILED")
            job.nodes, job.end = [], now
            if job.state == "PENDING":
                job.restarts += 1
            job.becomes = job.kill_at = None
            return
        kind, _, before = job.options.get("signal", "").partition("@")
        if kind and not job.warned and now >= job.end - int(before or 60):
            job.warned = True
            number = _signal(kind.rpartition(":")[2])
            send([job.process.pid] if "B" in kind.split(":")[0] else tagged(self._tag(job), STEP), number)
        if job.becomes is None and now >= job.end:
            self._end(job, "TIMEOUT", " DUE TO TIME LIMIT")
        elif job.kill_at is not None and now >= job.kill_at:
            send(tagged(self._tag(job)), signal.SIGKILL)

    def _end(self, job: Job, state: str, why: str) -> None:
        """TERM to all processes, then KILL after KillWait."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._log(job, f"slurmstepd: error: *** JOB {job.id} ON {job.nodes[0]} CANCELLED AT {when}{why} ***\n")
        job.becomes, job.kill_at = state, time.time() + self.settings["kill_wait"]
        send(tagged(self._tag(job)), signal.SIGTERM)

    def _output(self, job: Job) -> Path:
        default = "slurm-%j.out" if job.array is None else "slurm-%A_%a.out"
        values = {"j": str(job.id), "A": str(job.array or job.id), "a": str(job.task), "N": job.nodes[0], "u": "user"}
        values |= {"%": "%", "x": job.options.get("job-name", "")}
        name = re.sub(r"%(.)", lambda found: values[found[1]], job.options.get("output", default))
        return Path(job.directory, name)

    def _log(self, job: Job, text: str) -> None:
        with contextlib.suppress(OSError), self._output(job).open("a") as log:
            log.write(text)

    def _start(self, job: Job, nodes: list[str]) -> None:
        job.nodes, job.start, job.warned, job.kill_at = nodes, time.time(), False, None
        job.end = job.start + job.limit
        spooled = self.spool / f"job{job.id:05d}"
        spooled.mkdir(exist_ok=True)
        script = spooled / "slurm_script"
        script.write_text(job.script)
        script.chmod(0o700)
        appends = job.options.get("open-mode") == "append"
        try:
            log = self._output(job).open("ab" if appends else "wb")
        except OSError:
            job.state, job.exit, job.nodes = "FAILED", "0:53", []
            return
        with log:
            job.process = subprocess.Popen(
                [str(script), *job.arguments],
                cwd=job.directory,
                env=self._environment(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        job.state = "RUNNING"

    def _environment(self, job: Job) -> dict[str, str]:
        exported = job.options.get("export", "ALL")
        environment = dict(job.environment) if exported.startswith("ALL") else {"PATH": job.environment["PATH"]}
        for pair in exported.split(","):
            name, given, value = pair.partition("=")
            environment |= {name: value} if given else {}
        per_node = [job.num_tasks // job.num_nodes + (n < job.num_tasks % job.num_nodes) for n in range(job.num_nodes)]
        counts = _compressed(per_node)
        cpus = str(self.settings["cpus"])
        environment |= {
            "SLURM_JOB_ID": str(job.id), "SLURM_JOBID": str(job.id), "SLURM_JOB_NAME": job.options.get("job-name", ""),
            "SLURM_JOB_NODELIST": ",".join(job.nodes), "SLURM_NODELIST": ",".join(job.nodes),
            "SLURM_JOB_NUM_NODES": str(job.num_nodes), "SLURM_NNODES": str(job.num_nodes),
            "SLURM_NTASKS": str(job.num_tasks), "SLURM_NPROCS": str(job.num_tasks),
            "SLURM_TASKS_PER_NODE": counts, "SLURM_JOB_CPUS_PER_NODE": _compressed([int(cpus)] * job.num_nodes),
            "SLURM_CPUS_ON_NODE": cpus, "SLURM_JOB_PARTITION": job.options["partition"],
            "SLURM_JOB_START_TIME": str(int(job.start)), "SLURM_JOB_END_TIME": str(int(job.end)),
            "SLURM_SUBMIT_DIR": job.directory, "SLURM_SUBMIT_HOST": socket.gethostname(), "SLURM_CLUSTER_NAME": "fake",
            "SLURMD_NODENAME": job.nodes[0], "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
            "SLURM_GTIDS": "0", "SLURM_CONF": str(self.spool / "slurm.conf"), "ENVIRONMENT": "BATCH",
            TAG: self._tag(job), SPOOL: str(self.spool),
        }  # fmt: skip
        for option, name in (
            ("ntasks-per-node", "SLURM_NTASKS_PER_NODE"),
            ("cpus-per-task", "SLURM_CPUS_PER_TASK"),
            ("gpus-per-node", "SLURM_GPUS_PER_NODE"),
            ("account", "SLURM_JOB_ACCOUNT"),
        ):
            if option in job.options:
                environment[name] = job.options[option]
        if job.restarts:
            environment["SLURM_RESTART_COUNT"] = str(job.restarts)
        if job.array is not None:
            environment |= {
                "SLURM_ARRAY_JOB_ID": str(job.array), "SLURM_ARRAY_TASK_ID": str(job.task),
                "SLURM_ARRAY_TASK_COUNT": str(len(job.tasks)), "SLURM_ARRAY_TASK_MIN": str(min(job.tasks)),
                "SLURM_ARRAY_TASK_MAX": str(max(job.tasks)),
            }  # fmt: skip
        return environment


HEAD = {
    "i": "JOBID", "P": "PARTITION", "j": "NAME", "u": "USER", "t": "ST", "T": "STATE", "M": "TIME", "D": "NODES",
    "R": "NODELIST(REASON)", "r": "REASON", "l": "TIME_LIMIT", "N": "NODELIST", "A": "JOBID", "F": "ARRAY_JOB_ID",
}  # fmt: skip


def _formatted(form: str, fields: dict[str, str]) -> str:
    def one(found: re.Match[str]) -> str:
        text, width = fields[found[3]], int(found[2] or 0)
        return text if not width else text[:width].rjust(width) if found[1] else text[:width].ljust(width)

    return re.sub(r"%(\.?)(\d*)([a-zA-Z])", one, form)


def _numbers(text: str) -> list[int]:
    """1-3,7%2"""
    numbers: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _compressed(counts: list[int]) -> str:
    """4(x2),3"""
    groups: list[list[int]] = []
    for count in counts:
        if groups and groups[-1][0] == count:
            groups[-1][1] += 1
        else:
            groups.append([count, 1])
    return ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in groups)


def _expanded(names: str) -> list[str]:
    return names.split(",")


def _signal(name: str) -> int:
    return int(name) if name.isdecimal() else signal.Signals[f"SIG{name.removeprefix('SIG')}"]


def srun(words: list[str]) -> int:
    """Run a step: tasks with Slurm's variables, in the job's nodes."""
    options, program = parse("srun", words)
    environment = dict(os.environ)
    if TAG not in environment:
        print("srun: error: Unable to allocate resources: this Slurm runs steps of jobs only", file=sys.stderr)
        return 1
    num_tasks = int(options.get("ntasks", environment["SLURM_NTASKS"]))
    nodes = options.get("nodelist", environment["SLURM_JOB_NODELIST"]).split(",")[: int(options.get("nodes", 1000))]
    step = f"{environment[TAG]}.{os.getpid()}"
    environment |= {STEP: environment[TAG], TASK: step, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(num_tasks)}
    environment |= {"SLURM_STEP_NUM_NODES": str(len(nodes)), "SLURM_NTASKS": str(num_tasks)}
    environment["SLURM_STEP_NODELIST"] = ",".join(nodes)
    task = [sys.executable, __file__, "task", str(num_tasks), ",".join(nodes), *program]
    if Path(program[0]).name.startswith("hydra_") or options.get("mpi") == "none":
        tasks = [
            subprocess.Popen(task, env=environment | {"PMI_RANK": str(rank)}, stdin=subprocess.DEVNULL)
            for rank in range(num_tasks)
        ]
    else:
        plain = {name: value for name, value in environment.items() if not name.startswith(("SLURM", STEP, TASK))}
        plain["FAKE_SLURM_TASKS_ENVIRONMENT"] = json.dumps(environment)
        mpiexec = str(Path(sys.executable).parent / "mpiexec")
        tasks = [subprocess.Popen([mpiexec, "-launcher", "fork", "-n", str(num_tasks), *task], env=plain)]
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda given, _frame: send(tagged(step, TASK), given))
    codes = [one.wait() for one in tasks]
    highest = max(code if code >= 0 else 128 - code for code in codes)
    if highest:
        print(f"srun: error: {nodes[0]}: task 0: Exited with exit code {highest}", file=sys.stderr)
    return highest


def task(words: list[str]) -> None:
    """One task of a step, which becomes its program."""
    num_tasks, nodes, program = int(words[0]), words[1].split(","), words[2:]
    rank, inherited = int(os.environ["PMI_RANK"]), dict(os.environ)
    given = json.loads(inherited.pop("FAKE_SLURM_TASKS_ENVIRONMENT", "{}"))
    is_mpi = bool(given)
    per_node = math.ceil(num_tasks / len(nodes))
    node = rank // per_node
    environment = given | {name: value for name, value in inherited.items() if not given or name.startswith("PMI")}
    environment |= {
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % per_node), "SLURM_NODEID": str(node),
        "SLURMD_NODENAME": nodes[node], "SLURM_TASK_PID": str(os.getpid()),
    }  # fmt: skip
    if not is_mpi:
        environment.pop("PMI_RANK")
    os.execvpe(program[0], program, environment)


def client(command: str, words: list[str]) -> int:
    spool = Path(os.environ[SPOOL])
    asked = {"command": command, "argv": words, "cwd": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(spool / "socket"))
        except OSError:
            print(f"{command}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
            return 1
        with connection.makefile("rw") as stream:
            stream.write(json.dumps(asked) + "\n")
            stream.flush()
            said = json.loads(stream.readline())
    sys.stdout.write(said["out"])
    sys.stderr.write(said["err"])
    return said["code"]


class Cluster:
    """A running fake Slurm, for tests.

    Attributes:
        environment: what its commands need: PATH, and where the controller is.
    """

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.environment = {"PATH": f"{spool / 'bin'}:{os.environ['PATH']}", SPOOL: str(spool)}

    def jobs(self) -> dict[str, dict]:
        """What became of all jobs so far, by id."""
        return {row["id"]: row for row in json.loads((self.spool / "accounting.json").read_text())}

    def call(self, *words: str, code: int = 0) -> str:
        """The output of a command."""
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def wait(self, *ids: str, states: set[str] = ENDED, timeout: float = 60.0) -> None:
        """Wait until these jobs, or all, are in one of the states."""
        until = time.monotonic() + timeout
        while not all(row["state"] in states for name, row in self.jobs().items() if not ids or name in ids):
            assert time.monotonic() < until, self.jobs()
            time.sleep(0.05)


@contextlib.contextmanager
def running(num_nodes: int = 2, **settings: object) -> Iterator[Cluster]:
    """A fake Slurm while the body runs; all of its jobs end with it.

    Args:
        num_nodes: number of nodes.
        settings: resolution and kill_wait in seconds, max_jobs, partitions, cpus.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        spool = Path(folder)
        defaults = {"resolution": 60, "kill_wait": 30, "max_jobs": 10000, "partitions": ["batch"]}
        defaults["cpus"] = os.cpu_count()
        nodes = {"nodes": [f"node{number}" for number in range(1, num_nodes + 1)], "first": 101}
        (spool / "slurm.conf").write_text(json.dumps(defaults | nodes | settings))
        (spool / "bin").mkdir()
        for command in COMMANDS:
            path = spool / "bin" / command
            path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {command} "$@"\n')
            path.chmod(0o755)
        controller = subprocess.Popen([sys.executable, __file__, "slurmctld", str(spool)])
        try:
            while not (spool / "accounting.json").exists():
                assert controller.poll() is None
                time.sleep(0.02)
            yield Cluster(spool)
        finally:
            controller.terminate()
            controller.wait()


def main() -> int:
    command, *words = sys.argv[1:]
    if command == "slurmctld":
        Controller(Path(words[0])).run()
    if command == "task":
        task(words)
    try:
        return srun(words) if command == "srun" else client(command, words)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
