"""When the job ends that this process is part of: by the study, by atoll's own variable, or by the batch system."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from atoll.platform.study.walltime import seconds_of

_started = time.time()  # of this process, but for its first imports

# Variables with the end of the job in seconds since the epoch, and with its length. LSF and PBS Pro tell neither to a
# job; the scripts of `atoll submit` do, by ATOLL_WALLTIME.
ENDS = ("SLURM_JOB_END_TIME",)
LENGTHS = ("ATOLL_WALLTIME", "PBS_WALLTIME")


def end_of_job(walltime: float | None, environment: Mapping[str, str] | None = None) -> float | None:
    """When the job ends, in seconds since the epoch: the earliest of what is known; None if nothing is.

    Args:
        walltime: the study's, in seconds from the start of this process.
        environment: the variables. Default: this process's.
    """
    variables = os.environ if environment is None else environment
    ends = [] if walltime is None else [_started + walltime]
    for name in ENDS:
        if variables.get(name, "").isdigit():
            ends.append(float(variables[name]))
    for name in LENGTHS:
        if value := variables.get(name):
            try:
                ends.append(_started + seconds_of(value))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return min(ends, default=None)
