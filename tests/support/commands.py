"""Runs atoll's commands as a user does, and kills what is left of them after a timeout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ranks import SUPPORT

FAILING, CHAOS, COUNTING, DYING = (
    f"{SUPPORT / 'disturbed.py'}:{name}" for name in ("Failing", "Chaos", "Counting", "Dying")
)
# The part of the optimizer's space where no training diverges: at its other end, large steps with much momentum do.
STABLE = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "momentum": {"low": 0.0, "high": 0.9}}


def start(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "atoll.platform.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # The launcher ends its ranks, which are a process group of their own, on the second signal.
        for number in (signal.SIGTERM, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(3)
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still there after {timeout} s:\n{out[-3000:]}\n{err[-3000:]}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def atoll(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, code: int = 0, timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    done = end(start(*arguments, cwd=cwd, env=env), timeout)
    assert done.returncode == code, f"code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def called(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same inside this process: no time to import torch again. For searches with --in-process, too."""
    from atoll.platform import cli

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["atoll", *map(str, arguments)]
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            returned = end.code
        finally:
            sys.argv = before
    done = subprocess.CompletedProcess(arguments, returned, out.getvalue(), err.getvalue())
    assert done.returncode == code, f"code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@contextlib.contextmanager
def meanwhile(condition: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """While the body searches in this process, wait for a condition in another thread, and act."""
    over, failures = threading.Event(), []

    def wait_and_act() -> None:
        try:
            while not condition():
                assert not over.wait(0.01), "the search ended before its time had come"
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=wait_and_act, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def stopped_when(folder: Path, event: str, count: int) -> contextlib.AbstractContextManager[None]:
    """Ask the search of a study's folder to stop once its journals hold so many events."""
    return meanwhile(lambda: len(journal_lines(folder, event)) >= count, (folder / "stop").touch)


def called_json(*arguments: str, cwd: Path) -> object:
    return json.loads(called(*arguments, "--json", cwd=cwd).stdout)


def atoll_json(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> object:
    return json.loads(atoll(*arguments, "--json", cwd=cwd, env=env).stdout)


def wait_until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def journal_lines(folder: Path, event: str) -> list[dict]:
    lines = []
    for path in (folder / "journals").glob("*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                lines.append(json.loads(line))
    return [line for line in lines if line["event"] == event]
