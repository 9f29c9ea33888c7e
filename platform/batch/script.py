"""The script of a job.

Everything but the lines of `batch.setup` is quoted. The batch system sends USR1 to the script alone, which passes it on
to the search; where the system sends nothing before the limit, the script does so itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from atoll.platform.batch.job import Job
from atoll.platform.batch.systems import SYSTEMS, BatchSystem

_BODY = """\
job={job_id}
jobs={folder}
{log}# A request to stop, before the time limit or by `atoll stop`, goes to the search.
asked= search=
trap 'asked=1; [ -z "$search" ] || kill -USR1 "$search" 2>/dev/null' USR1 TERM
{timer}atoll job start "$jobs" "$job" || exit
code=75
if [ -z "$asked" ]; then
  {command} &
  search=$!
  [ -z "$asked" ] || kill -USR1 "$search"
  asked=1  # wait again after each signal
  while [ -n "$asked" ]; do asked=; wait "$search"; code=$?; done
fi
atoll job end "$jobs" "$job" "$code"
exit "$code"
"""

_TIMER = """\
(trap 'kill $!; exit' TERM; sleep {left} & wait $!; kill -USR1 $$) </dev/null >/dev/null 2>&1 &
timer=$!
trap 'kill "$timer" 2>/dev/null' EXIT
"""


def script(job: Job) -> str:
    """The text of a job's script. Raises BatchError if a path cannot be written into its directives."""
    system = SYSTEMS[job.batch.system]
    head = [f"{system.prefix} {line}" for line in [*system.directives(job), *job.batch.options]]
    first = f"# Searches the study {job.name}; written by `atoll submit`."
    return "\n".join(["#!/bin/bash", *head, first, "", *_environment(job), "", _body(job, system)])


def _environment(job: Job) -> Iterator[str]:
    batch = job.batch
    if batch.modules:
        yield "module load " + " ".join(map(shlex.quote, batch.modules))
    yield from batch.setup
    for name, value in batch.environment.items():
        yield f"export {name}={shlex.quote(value)}"
    if job.store is not None:
        yield f"export ATOLL_STORE={shlex.quote(job.store)}"
    if batch.launcher == "atoll" and batch.launcher_options:
        command = shlex.join(["mpiexec", *batch.launcher_options])
        yield f"export ATOLL_MPIEXEC={shlex.quote(command)}"
    yield f'export PATH={shlex.quote(str(job.programs))}:"$PATH"'
    yield f"cd {shlex.quote(str(job.directory))} || exit"


def _body(job: Job, system: BatchSystem) -> str:
    folder, log, timer, limit = shlex.quote(str(job.folder)), "", "", ""
    if not system.has_live_log:
        log = 'exec >>"$jobs/$job.log" 2>&1  # it shows the job while it runs\n'
    if not system.signals_itself:
        left = job.seconds - job.batch.stop_seconds
        timer = _TIMER.format(left=left)
        # The search takes it as the time from its own start.
        limit = f"export ATOLL_WALLTIME=$(({job.seconds} - SECONDS))\n  "
    command = " ".join([*_launcher(job), shlex.join(["atoll", "search", str(job.study_file), "--continue"])])
    if job.arguments:
        command += " " + shlex.join(job.arguments)
    return _BODY.format(job_id=system.job_id, folder=folder, log=log, timer=timer, command=limit + command)


def _launcher(job: Job) -> Iterator[str]:
    """What starts the ranks; nothing if `atoll search` does."""
    options = map(shlex.quote, job.batch.launcher_options)
    if job.batch.launcher == "srun":
        yield f"srun --nodes={job.nodes} --ntasks={job.ranks} --ntasks-per-node={job.ranks_per_node}"
        # Since Slurm 22.05 srun does not take it from sbatch.
        if job.cores_per_rank is not None:
            yield f"--cpus-per-task={job.cores_per_rank} --cpu-bind=cores"
        yield "--kill-on-bad-exit=1"
    elif job.batch.launcher == "mpiexec":
        yield f"mpiexec -n {job.ranks}"
    yield from options
