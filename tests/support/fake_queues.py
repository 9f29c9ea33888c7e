"""The commands of PBS (qsub, qstat, qdel, qsig) and LSF (bsub, bjobs, bkill) for queues in which tests set the states.

They take and print what the real ones do, as far as submitting, listing and canceling goes; nothing runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

COMMANDS = ("qsub", "qstat", "qdel", "qsig", "bsub", "bjobs", "bkill")
SERVER = ".pbs01"


class Queue:
    """The jobs, in a file: id -> state, directives and what happened to it.

    Attributes:
        folder: with the commands, for PATH.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "jobs.json"

    def install(self) -> None:
        self.folder.mkdir()
        for command in COMMANDS:
            path = self.folder / command
            words = shlex.join([sys.executable, __file__, command, str(self.folder)])
            path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            path.chmod(0o755)
        self.save({})

    def jobs(self) -> dict[str, dict]:
        return json.loads(self._file.read_text())

    def save(self, jobs: dict[str, dict]) -> None:
        self._file.write_text(json.dumps(jobs))

    @contextlib.contextmanager
    def changed(self) -> Iterator[dict[str, dict]]:
        jobs = self.jobs()
        yield jobs
        self.save(jobs)

    def set(self, job: str, state: str) -> None:
        with self.changed() as jobs:
            jobs[job]["state"] = state


def directives(script: str, prefix: str) -> list[str]:
    lines = [line for line in script.splitlines() if line.startswith(f"{prefix} ")]
    return [line.removeprefix(f"{prefix} ") for line in lines]


def qsub(queue: Queue, words: list[str]) -> str:
    *options, script = words
    text = Path(script).read_text()
    found = directives(text, "#PBS")
    if any(option.startswith("-q nowhere") for option in found):
        sys.exit("qsub: Unknown queue")
    with queue.changed() as jobs:
        number = 700 + len(jobs)
        array = next((option.split("1-")[1] for option in found if option.startswith(("-J", "-t"))), None)
        job = f"{number}{'[]' if array else ''}{SERVER}"
        depend = options[options.index("-W") + 1] if "-W" in options else ""
        jobs[job] = {"state": "H" if depend else "Q", "depend": depend, "directives": found, "tasks": int(array or 0)}
    return job


def qstat(queue: Queue, words: list[str]) -> str:
    jobs, lines, unknown = queue.jobs(), [], []
    for job in [word for word in words if not word.startswith("-")]:
        if job not in jobs or jobs[job]["state"] in "CF":
            unknown.append(job)
            continue
        tasks = [job] + [job.replace("[]", f"[{n}]") for n in range(1, jobs[job]["tasks"] + 1) if "-t" in words]
        for one in tasks:
            lines += [f"Job Id: {one}", "    Job_Name = s", f"    job_state = {jobs[job]['state']}"]
            lines += [
                "    Variable_List = PBS_O_HOME=/home/me,",
                "\tPBS_O_LANG=C",
                "    comment = Not Running: no nodes",
                "",
            ]
    for job in unknown:
        print(f"qstat: Unknown Job Id {job}", file=sys.stderr)
    print("\n".join(lines))
    sys.exit(153 if unknown else 0)


def qdel(queue: Queue, words: list[str]) -> str:
    with queue.changed() as jobs:
        for job in words:
            jobs[job] |= {"state": "F", "canceled": sum("canceled" in other for other in jobs.values())}
    return ""


def qsig(queue: Queue, words: list[str]) -> str:
    _, number, job = words
    with queue.changed() as jobs:
        jobs[job]["signal"] = number
    return ""


def bsub(queue: Queue, words: list[str]) -> str:
    found = directives(sys.stdin.read(), "#BSUB")
    with queue.changed() as jobs:
        number = str(800 + len(jobs))
        waits = words[words.index("-w") + 1] if "-w" in words else ""
        array = re.search(r"\[1-(\d+)\]", found[0])
        jobs[number] = {
            "state": "PEND", "depend": waits, "directives": found, "tasks": int(array[1]) if array else 0,
            "words": words,
        }  # fmt: skip
    return f"Job <{number}> is submitted to default queue <normal>."


def bjobs(queue: Queue, words: list[str]) -> str:
    form = words[words.index("-o") + 1]
    assert "-noheader" in words
    assert form == "jobid jobindex stat pend_reason delimiter='|'"
    jobs, lines = queue.jobs(), []
    for number in words[words.index("-o") + 2 :]:
        if number not in jobs:
            print(f"Job <{number}> is not found", file=sys.stderr)
            continue
        for index in range(1, jobs[number]["tasks"] + 1) or [0]:
            lines.append(f"{number}|{index}|{jobs[number]['state']}|-")
    return "\n".join(lines)


def bkill(queue: Queue, words: list[str]) -> str:
    with queue.changed() as jobs:
        if words[0] == "-s":
            jobs[words[2]]["signal"] = words[1]
        else:
            for job in words:
                jobs[job]["state"] = "EXIT"
    return ""


if __name__ == "__main__":
    said = globals()[sys.argv[1]](Queue(Path(sys.argv[2])), sys.argv[3:])
    print(said)
