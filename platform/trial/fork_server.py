"""A process from which each trial of a rank is forked: it has imported everything and loaded the data, and no more.

It is forked before the rank starts MPI, which does not survive a fork, and it has no threads when it forks in turn. It
runs user code only to import it; then it only forks, waits and kills. So it outlives whatever a trial does.

When the rank ends, however that happens, its end of the channel closes, and the server kills the trial and ends. If the
server is killed, the system kills the trial.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import torch

from atoll.communication.channel import Channel, wait_for
from atoll.platform.stop_signals import STOP_SIGNALS
from atoll.platform.study import registry
from atoll.storage import names

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
KILL_PATIENCE = 60.0  # seconds that the system gets to end what was killed

Main = Callable[[Channel], None]


class ServerEnded(RuntimeError):
    """The fork server has ended, and with it the rank's means to train."""


def check_system() -> None:
    """Raise ValueError if this system lacks what trials in processes of their own need."""
    if sys.platform != "linux":
        raise ValueError(f"isolate: process needs Linux, and this is {sys.platform}: use isolate: restore")


@dataclass(frozen=True)
class ProcessEnd:
    """How a trial's process ended.

    Attributes:
        exit_code: what it returned; minus a signal's number if that ended it.
        crash: Python's frames at a fatal signal, or nothing.
        num_left: processes that it had started and left; they were killed.
    """

    exit_code: int
    crash: str
    num_left: int

    def __str__(self) -> str:
        return ending(self.exit_code)


def ending(exit_code: int) -> str:
    """How a process ended, by its exit code, in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        number = signal.Signals(-exit_code)
    except ValueError:  # a real-time signal
        return f"was ended by signal {-exit_code}"
    hint = ": by the system if memory was short, or by a user" if number is signal.SIGKILL else ""
    return f"was ended by {number.name} ({signal.strsignal(number)}{hint})"


# The servers of this process, of which a rank has one, and a test one for each of its virtual ranks.
_servers: weakref.WeakSet[ForkServer] = weakref.WeakSet()


class ForkServer:
    """The rank's side; `start` makes it."""

    def __init__(self, channel: Channel, process: int) -> None:
        self.channel = channel
        self.process = process
        self.note: str | None = None
        self._end: ProcessEnd | None = None
        self._crash: IO[bytes] | None = None
        self._is_ready = False
        self._status: int | None = None  # of the server's own end, which the system tells once
        self._killed: float | None = None

    @classmethod
    def start(cls, main: Main) -> ForkServer:
        """Fork the server from this process, which must have no other threads and not have started MPI.

        Args:
            main: what a trial's process runs, with its channel to the rank.
        """
        check_system()
        sys.stdout.flush()
        sys.stderr.flush()
        mine, its = Channel.pair()
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            mine.close()
            for other in _servers:  # only its own rank may reach it
                other.channel.close()
            _be_server(its, main, parent)
        its.close()
        _servers.add(server := cls(mine, process))
        return server

    def prepare(self, method: str, workload: str, data: str | None, threads: int, serve: Callable[[], None]) -> None:
        """Import the method and the workload and load the data there, with so many threads; serves meanwhile.

        Raises:
            ServerEnded: if the server did, such as because code of the user ended it while it was imported.
        """
        self.channel.send(["prepare", method, workload, data, threads])
        while not self._is_ready:
            serve()
            self._receive()
            wait_for([self.channel], 0.05)

    def start_trial(self) -> Channel:
        """Fork a process for a trial; returns the channel to it. `ended` tells of its end."""
        mine, its = socket.socketpair()
        self._crash = tempfile.TemporaryFile()  # noqa: SIM115  (until the process has ended)
        self._end = self._killed = None
        self.channel.send(["crash"], os.dup(self._crash.fileno()))
        self.channel.send(["trial"], its.detach())
        return Channel(mine)

    def kill(self) -> None:
        """Kill the trial's process and what it has started."""
        if self._killed is None:
            self._killed = time.monotonic()
            self.channel.send(["kill"])

    def ended(self) -> ProcessEnd | None:
        """How the trial's process ended; None while it lives.

        Raises:
            ServerEnded: if the server has ended.
        """
        if self._end is None:
            self._receive()
        if self._end is None and self._killed is not None and time.monotonic() - self._killed > KILL_PATIENCE:
            raise ServerEnded(f"the trial's process cannot be killed: it lives {KILL_PATIENCE:g} s after its kill")
        return self._end

    def _receive(self) -> None:
        for kind, *content in self.channel.receive():
            if kind == "ready":
                (self.note,) = content
                self._is_ready = True
            elif kind == "ended":
                exit_code, num_left = content
                self._end = ProcessEnd(exit_code, self._read_crash(), num_left)
        if self.channel.is_closed and self._end is None:
            if self._status is None:
                _, self._status = os.waitpid(self.process, 0)
            how = ending(os.waitstatus_to_exitcode(self._status))
            raise ServerEnded(f"the process from which trials are forked {how}")

    def _read_crash(self) -> str:
        assert self._crash is not None
        with self._crash as file:
            file.seek(0)
            return file.read().decode(errors="replace")

    def close(self) -> None:
        """End the server, and a trial that is left."""
        self.channel.send(["end"])
        self.channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process, 0)


# The server's process.


def _be_server(channel: Channel, main: Main, parent: int) -> NoReturn:
    try:
        _end_with_parent(parent)
        _leave_job()
        for number in STOP_SIGNALS:  # they ask the ranks, who decide; a terminal and Slurm send them to every process
            signal.signal(number, _nothing)  # a handler, as ignored signals stay ignored in programs that are started
        _Server(channel, main).run()
    except BaseException:
        traceback.print_exc()
        _flush()
        os._exit(1)
    os._exit(0)


def _nothing(_number: int, _frame: object) -> None:
    pass


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _end_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(0)


def _leave_job() -> None:
    """No process of a trial is a rank of the MPI job: if its code starts MPI, that is a job of one rank."""
    if os.environ.get("PMI_FD", "").isdigit():
        with contextlib.suppress(OSError):
            os.close(int(os.environ["PMI_FD"]))
    for name in [name for name in os.environ if name.startswith(("PMI_", "PMIX_"))]:
        del os.environ[name]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


class _Server:
    """Forks, waits and kills."""

    def __init__(self, channel: Channel, main: Main) -> None:
        self._channel = channel
        self._main = main
        self._trial: int | None = None
        self._crash: int | None = None
        self._is_over = False
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # processes that a trial's process leaves become ours
        self._deaths, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve the rank until it ends."""
        while True:
            for kind, *content in self._channel.receive():
                if kind == "prepare":
                    self._prepare(*content)
                elif kind == "crash":
                    self._crash = self._channel.take_file()
                elif kind == "trial":
                    self._fork(self._channel.take_file())
                elif kind == "kill":
                    self._kill()
                elif kind == "end":
                    self._is_over = True
            self._reap()
            if self._channel.is_closed or self._is_over:
                break
            wait_for([self._channel], None, files=[self._deaths])
        self._kill()
        _end_children()

    def _prepare(self, method: str, workload: str, data: str | None, threads: int) -> None:
        # In a thread, because OpenMP's threads end with the one that started them, and would be missing after a fork.
        loading = threading.Thread(target=_load, args=(method, workload, data, threads))
        loading.start()
        loading.join()
        gc.collect()
        gc.freeze()  # trials' garbage collections would touch, and so copy, all the memory that they share
        left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        note = f"importing the method or the workload started threads ({', '.join(left)}); trials do not have them"
        _prctl(_PR_SET_PDEATHSIG, 0)  # from now on the channel tells, and there is time to end what a trial has started
        self._channel.send(["ready", note if left else None])

    def _fork(self, end: int) -> None:
        assert self._trial is None, "the last trial has not ended"
        assert self._crash is not None
        _flush()
        server = os.getpid()
        self._trial = os.fork()
        if self._trial == 0:
            self._be_trial(server, end, self._crash)
        with contextlib.suppress(OSError):  # whichever comes first, the process does the same
            os.setpgid(self._trial, self._trial)
        os.close(end)
        os.close(self._crash)

    def _be_trial(self, server: int, end: int, crash: int) -> NoReturn:
        exit_code = 1
        try:
            _end_with_parent(server)
            os.setpgid(0, 0)  # what it starts can be killed with it
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            os.close(self._deaths)
            os.close(self._waker)
            faulthandler.enable(crash)
            self._main(Channel(socket.socket(fileno=end)))
            exit_code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            _flush()
            os._exit(exit_code)  # no exit handler of user code, no wait for its threads

    def _kill(self) -> None:
        if self._trial is not None:
            for kill in (os.kill, os.killpg):
                with contextlib.suppress(OSError):
                    kill(self._trial, signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._deaths, 1 << 12)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                process, status = ended
                if process == self._trial:
                    with contextlib.suppress(OSError):
                        os.killpg(process, signal.SIGKILL)
                    self._trial = None
                    self._channel.send(["ended", os.waitstatus_to_exitcode(status), _end_children()])


def _load(method: str, workload: str, data: str | None, threads: int) -> None:
    torch.set_num_threads(threads)
    with contextlib.suppress(BaseException):  # each trial will raise it again, and record it
        if method == names.FUNCTION:
            registry.function(workload)
            return
        registry.method(method)
        registry.workload(workload).load(Path(data) if data else None)


def _end_children() -> int:
    """Kill all children of this process, and theirs, which become its children; returns how many were alive."""
    children, num_alive = Path(f"/proc/self/task/{threading.get_native_id()}/children"), 0
    with contextlib.suppress(OSError):  # a kernel without this file: only the process group was killed
        while found := children.read_text().split():
            for process in map(int, found):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(process, os.WNOHANG)[0] == 0:
                        num_alive += 1
                        os.kill(process, signal.SIGKILL)
                        os.waitpid(process, 0)
    return num_alive
