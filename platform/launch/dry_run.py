"""A study's dry run before its ranks start: in a process of its own, within a time limit, and told when it is cut.

The launcher has imported torch to check the study, so a forked process starts at once, and what the user's code leaves
behind (memory, a GPU's context, a crash) ends with it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from typing import Any

import torch

from atoll.platform.launch import descendants
from atoll.platform.launch.job_variables import is_rank_variable
from atoll.platform.search.proposals import draw
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.plan import Plan
from atoll.platform.trial.dry_run import DryRun, Mistake, Undecided
from atoll.platform.trial.isolation import isolated

LIMIT = 10.0  # seconds, before a search; `atoll check` has none
GRACE = 1.0  # seconds that its process has to end, and then to end when asked to
LOOK = 0.05  # seconds between looks at whether the process lives
MOST = 4  # configurations, if all of them fail


@dataclass(frozen=True)
class Verdict:
    """What a dry run found.

    Attributes:
        state: passed, refused, or undecided.
        said: the reason, or what passed.
        is_of_method: whether it is refused because of what the method cannot do.
        found: shapes, the loss and the scores of the batch that passed.
        seconds: its duration.
    """

    state: str
    said: str
    is_of_method: bool = False
    found: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def check(plan: Plan, *, forks: bool = True, say: Callable[[str], None]) -> None:
    """Make a dry run of a study before its search, unless its `check` is false.

    Args:
        plan: the resolved study.
        forks: whether in a process of its own, within LIMIT; otherwise in this one, without a limit, for debuggers.
        say: receives a line if the dry run could not decide.

    Raises:
        Mistake: if none of the study's configurations that were tried can be trained.
    """
    if not plan.study.check or plan.training is None:  # a function's first call is its first trial
        return
    _raise(run(plan, limit=LIMIT, forks=forks), say)


def check_configuration(configuration: Configuration, *, test: bool, say: Callable[[str], None]) -> None:
    """Make a dry run of one configuration, with several seeds. Raises Mistake if it cannot be trained.

    Of a function's there is none: it would be the call itself.
    """
    if configuration.calls_function:
        return
    several = _seeds(configuration)
    _raise(_run(several, configuration.device, test=test, limit=LIMIT, forks=True), say)


def _raise(verdict: Verdict, say: Callable[[str], None]) -> None:
    if verdict.state == "refused":
        advice = "(found by a check of one batch; --no-check goes on regardless)"
        raise Mistake(f"{verdict.said} {advice}", is_of_method=verdict.is_of_method)
    if verdict.state == "undecided":
        say(f"{verdict.said}; going on")


def run(plan: Plan, *, limit: float | None, forks: bool = True) -> Verdict:
    """Take one batch of the study's default configuration through its workload.

    Only if it fails, others are tried, with other seeds: the smallest batch, and random ones. One that passes will do.
    """
    test = plan.study.confirm is not None
    return _run(_candidates(plan), plan.study.topology.device, test=test, limit=limit, forks=forks)


def _candidates(plan: Plan) -> Iterator[Configuration]:
    """The default configuration, then others, each with a seed of its own."""
    study = plan.study
    several = _hyperparameters(plan) if study.confirm is None else iter(study.confirm.configurations * 2)
    for number, hyperparameters in enumerate(islice(several, MOST)):
        yield plan.configuration(hyperparameters, 0, 1, "cpu").model_copy(update={"seed": study.seed + number})


def _hyperparameters(plan: Plan) -> Iterator[dict[str, Any]]:
    feasible = (h for h in plan.space.extremes() if plan.infeasibility(h) is None)
    yield from islice(feasible, 1)
    yield from sorted(feasible, key=lambda h: h.get("batch_size", 0))[:1]
    for number in count():
        yield draw(plan.space, plan.infeasibility, plan.study.seed + number)[1]


def _seeds(configuration: Configuration) -> list[Configuration]:
    return [configuration.model_copy(update={"seed": configuration.seed + number}) for number in range(MOST)]


def _run(several: Iterable[Configuration], device: str, *, test: bool, limit: float | None, forks: bool) -> Verdict:
    started = time.monotonic()

    def found(tell: Callable[[str], None]) -> Verdict:
        return _first_that_passes(several, DryRun(_device(device), test=test, tell=tell))

    if forks and sys.platform == "linux":
        verdict = _in_a_process(found, limit)
    else:
        with contextlib.redirect_stdout(sys.stderr), isolated([]):
            verdict = found(lambda _: None)
    return Verdict(**asdict(verdict) | {"seconds": time.monotonic() - started})


def _device(device: str) -> str:
    return "cuda:0" if device != "cpu" and torch.cuda.device_count() else "cpu"


def _first_that_passes(several: Iterable[Configuration], dry_run: DryRun) -> Verdict:
    mistakes: list[Mistake] = []
    for configuration in several:
        try:
            found = dry_run(configuration)
        except Undecided as undecided:
            return Verdict("undecided", f"one batch could not be checked here: {undecided}")
        except Mistake as mistake:
            mistakes.append(mistake)
            continue
        if mistakes:
            return Verdict("undecided", f"the default configuration fails, and another one passes: {mistakes[0]}")
        return Verdict("passed", _told(found), found=found)
    # Such as one whose batch is small enough for the data, and whose loss is wrong all the same.
    farthest = max(mistakes, key=lambda mistake: mistake.num_stages)
    return Verdict("refused", str(farthest), farthest.is_of_method)


def _told(found: dict[str, Any]) -> str:
    scores = ", ".join(f"{name} {value:.4g}" for name, value in found["scores"].items())
    return (
        f"inputs {found['inputs']}, targets {found['targets']}, outputs {found['outputs']}; before training: loss "
        f"{found['loss']:.4g}, and on a batch of validation data {scores}"
    )


def _in_a_process(found: Callable[[Callable[[str], None]], Verdict], limit: float | None) -> Verdict:
    """Run it in a forked process; after `limit` seconds, or a crash, it is undecided."""
    with descendants.ended():
        return _in_a_child(found, limit)


def _in_a_child(found: Callable[[Callable[[str], None]], Verdict], limit: float | None) -> Verdict:
    reads, writes = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if (process := os.fork()) == 0:
        _child(found, reads, writes)
    os.close(writes)
    with contextlib.suppress(OSError):  # whichever comes first, the process does the same
        os.setpgid(process, process)
    try:
        content, in_time = _read(process, reads, limit)
    except BaseException:
        _end(process, signal.SIGTERM)
        raise
    finally:
        os.close(reads)
    status = _end(process, *([] if in_time else [signal.SIGTERM]))
    lines = [json.loads(line) for line in content.splitlines() if line.endswith(b"}")]
    if lines and "state" in lines[-1]:
        return Verdict(**lines[-1])
    stage = f" in the stage {lines[-1]['stage']!r}" if lines else ""
    if not in_time:
        said = f"the check of one batch was stopped after {limit:g} s{stage}; `atoll check` has no time limit"
        return Verdict("undecided", said)
    signaled = os.WIFSIGNALED(status)
    how = f"signal {os.WTERMSIG(status)}" if signaled else f"exit code {os.waitstatus_to_exitcode(status)}"
    return Verdict("undecided", f"the check of one batch ended with {how}{stage}")


def _end(process: int, *numbers: int) -> int:
    """Wait for the end of the process, for GRACE after each signal, then kill it; returns its status.

    What it has started, and left in its process group, is killed.
    """
    try:
        for number in numbers or (0,):
            os.kill(process, number)
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                if _has_ended(process):
                    return os.waitpid(process, 0)[1]
                time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        return os.waitpid(process, 0)[1]
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process, signal.SIGKILL)


def _has_ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _child(found: Callable[[Callable[[str], None]], Verdict], reads: int, writes: int) -> None:
    """The forked process: it never returns."""
    code = 1
    try:
        os.close(reads)
        os.setpgid(0, 0)  # what it starts is ended with it
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # whoever reads the terminal from another group is stopped
        signal.signal(signal.SIGTERM, _interrupt)  # the launcher's handler would only note it
        os.dup2(2, 1)  # what the user's code prints must not mix with JSON
        sys.stdout = sys.stderr
        for name in [name for name in os.environ if is_rank_variable(name)]:
            del os.environ[name]  # else the user's code would start MPI in the name of this rank
        torch.set_num_threads(1)  # the parent's threads are not there

        def write(content: dict[str, Any]) -> None:
            os.write(writes, json.dumps(content, default=str).encode() + b"\n")

        write(asdict(found(lambda stage: write({"stage": stage}))))
        code = 0
    except KeyboardInterrupt:
        pass  # the launcher's business, or its time is over
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.__stderr__)
    finally:
        os._exit(code)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _read(process: int, reads: int, limit: float | None) -> tuple[bytes, bool]:
    """What the process writes until it ends; whether it does so in time.

    The pipe's end does not tell: a process that the user's code has started may hold it open.
    """
    content, end = b"", None if limit is None else time.monotonic() + limit
    while True:
        remaining = math.inf if end is None else end - time.monotonic()
        if remaining <= 0:
            return content, False
        has_ended = _has_ended(process)
        if not select.select([reads], [], [], 0 if has_ended else min(remaining, LOOK))[0]:
            if has_ended:
                return content, True
            continue
        if not (chunk := os.read(reads, 1 << 16)):
            return content, True
        content += chunk
