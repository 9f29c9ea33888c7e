"""A trial in a process of its own: nothing that it does to its process reaches the next trial, or the rank.

The process is forked from the rank's fork server (`fork_server.py`). It builds the trial and trains; its communicator
is a proxy, as MPI does not survive a fork. The rank carries out its communication, keeps answering the other ranks, and
hears of progress; it kills a process that does not end, and makes a failed trial of one that ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atoll.analysis.formatting import counted
from atoll.communication.channel import Channel, Message, wait_for
from atoll.communication.communicator import Communicator, PeerAborted
from atoll.communication.ledger import Ledger
from atoll.communication.proxy import ProxyCommunicator, ProxyLink
from atoll.communication.proxy_host import ProxyHost
from atoll.communication.trace import Trace, clock_of
from atoll.methods.common.memory import peak_memory, reset_peak_memory
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.caller import alone, facts_of
from atoll.platform.trial.failure import reason_of, traceback_of
from atoll.platform.trial.fork_server import ForkServer, ProcessEnd, ServerEnded
from atoll.platform.trial.outcome import Report, kind_of
from atoll.platform.trial.output import RankLog
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks, train
from atoll.storage.events import TrialKey
from atoll.storage.text import TRACEBACK_LIMIT, shortened, storable

GRACE = 5.0  # seconds that a process gets to end: after an interruption of its trial, or after its report
BEATS_PER_SILENCE, LONGEST_BEAT = 10, 5.0

# What a process reports; the other fields are the rank's own.
_REPORTED = (
    "error", "reason", "traceback", "ledger", "peak_memory", "seconds", "notes", "is_pruned", "is_paused", "trace",
    "returned", "called_seconds",
)  # fmt: skip


class ProcessDied(Exception):
    """The trial's process ended before the trial did."""


class ProcessSilent(Exception):
    """The trial's process was killed, as it made no progress for too long."""


class Interrupted(Exception):
    """The rank ends the trial."""


@dataclass(frozen=True)
class Work:
    """What a process is to train, and where.

    Attributes:
        configuration, test, folder: see `train`.
        rank, nodes: this rank, and the node of each rank.
        device, threads: of this rank.
        prunes: whether the root may prune the trial.
        pauses: whether a pruned trial writes a checkpoint first.
        records_steps: whether the trial is traced.
        takes_turns: whether it shares cores, so that its thread's own time is what it computes.
        silence: seconds without a message after which the process counts as hung.
        log, trial: the rank's log, and the trial's number and attempt, under which the log keeps its output.
    """

    configuration: dict[str, Any]
    test: bool
    folder: str | None
    rank: int
    nodes: list[int]
    device: str
    threads: int
    prunes: bool
    pauses: bool
    records_steps: bool
    takes_turns: bool
    silence: float
    log: str | None = None
    trial: TrialKey | None = None


# The trial's process.


def main(channel: Channel) -> None:
    """Train what the rank asks for, and report; everything that is raised is in the report."""
    link = ProxyLink(channel)
    while not link.others:
        wait_for([channel], None)
        link.pump()
        if channel.is_closed:
            return
    work = Work(**link.others.popleft()[1])
    if work.log is not None and work.trial is not None:
        RankLog(Path(work.log)).receive(work.trial)
    torch.set_num_threads(work.threads)
    reset_peak_memory()
    ledger = Ledger(Trace(clock_of(work.takes_turns)) if work.records_steps else None)
    its_rank = _Rank(link, work)
    communicator = ProxyCommunicator(
        link, 0, work.rank, work.nodes, range(len(work.nodes)), ledger=ledger, poll=its_rank.poll
    )
    report = Report(work.rank, "")
    try:
        configuration = Configuration.model_validate(work.configuration)
        hooks, folder = its_rank.hooks(communicator), None if work.folder is None else Path(work.folder)
        if configuration.calls_function:
            facts = facts_of(work.trial, folder, work.device)
            alone(configuration, facts, hooks, poll=communicator.progress).run(report)
        else:
            train(configuration, hooks, report, communicator, work.device, test=work.test, folder=folder)
    except BaseException as error:  # SystemExit, too
        report.error, report.reason, report.traceback = kind_of(error), reason_of(error), traceback_of(error)
    report.ledger, report.peak_memory = ledger.rows(), peak_memory()
    channel.send(["report", {name: getattr(report, name) for name in _REPORTED}])
    while not channel.flush():
        wait_for([channel], None)


class _Rank:
    """The rank, as the trial's process sees it."""

    def __init__(self, link: ProxyLink, work: Work) -> None:
        self._link = link
        self._work = work
        self._interval = min(work.silence / BEATS_PER_SILENCE, LONGEST_BEAT)
        self._beaten = time.monotonic()
        self._decisions: list[bool] = []

    def hooks(self, communicator: Communicator) -> Hooks:
        """The callbacks of a trial whose communicator this is."""

        def asks(what: str) -> bool:
            if self._work.rank != 0:
                return False  # the root decides
            self._link.channel.send([what])
            communicator.wait_until(lambda: bool(self._decisions))
            return self._decisions.pop()

        return Hooks(
            on_progress=lambda progress: self._link.channel.send(["progress", vars(progress)]),
            prunes=(lambda _: asks("prunes")) if self._work.prunes else None,
            pauses=self._work.pauses,
            stops=lambda: asks("stops"),
            on_checkpoint=lambda: self._link.channel.send(["saved"]),
        )

    def poll(self) -> None:
        """Show that the trial makes progress; raises if the rank ends it."""
        self._link.pump()
        if (now := time.monotonic()) - self._beaten > self._interval:
            self._beaten = now
            self._link.channel.send(["beat"])
        while self._link.others:
            kind, *content = self._link.others.popleft()
            if kind == "decided":
                self._decisions += content
            elif kind == "aborted":
                raise PeerAborted(content[0], stays=content[1])
            else:
                raise Interrupted(*content)
        if self._link.channel.is_closed:
            raise ConnectionError("the channel to the rank is closed")


# The rank.


class TrialProcess:
    """The rank's side of one trial.

    Args:
        server: forks the process.
        communicator: the worker's ranks.
        hooks: the callbacks of this rank.
        poll: called in every wait; raises to end the trial.
        serve: the same, once the trial has reported.
        stay: called if the process has died while this rank takes part in a split, from which it must not leave.
    """

    IDLE = 5e-3  # seconds between two looks if no communication is under way; a message from the process comes at once
    NUM_LOOKS, SHORTEST, LONGEST, GROWTH = 200, 50e-6, 1e-3, 1.1  # else: without a pause, then with growing pauses

    def __init__(
        self,
        server: ForkServer,
        communicator: Communicator,
        hooks: Hooks,
        *,
        poll: Callable[[], None],
        serve: Callable[[], None],
        stay: Callable[[], None],
    ) -> None:
        self._server = server
        self._hooks = hooks
        self._poll = poll
        self._serve = serve
        self._stay = stay
        self._channel = server.start_trial()
        self._host = ProxyHost(self._channel, communicator)
        self._reported: dict[str, Any] | None = None
        self._progress: Progress | None = None
        self._reason: Exception | None = None  # why the rank has ended the trial
        self._gone: set[int] = set()  # the ranks that have given up
        self._deadline: float | None = None  # of the process's end
        self._was_killed = False
        self._heard = time.monotonic()
        self._num_looks, self._nap = 0, self.SHORTEST

    def run(self, work: Work, report: Report) -> None:
        """Let the process train, and fill in this rank's report."""
        try:
            self._channel.send(["trial", vars(work)])
            while (end := self._server.ended()) is None:
                self._look_for_interruptions()
                self._exchange()
                self._kill_if_due(work.silence)
                self._pause()
            self._exchange()  # what it has sent last
            if self._reported is None and self._reason is None:
                self._reason = ProcessDied(f"the trial's process {end} before it had reported")
            self._leave_splits()
        finally:
            self._close()
        self._fill_in(report, end)

    def _look_for_interruptions(self) -> None:
        if self._reported is not None:
            self._serve()
            return
        try:
            self._poll()
        except PeerAborted as reason:
            if not reason.stays:
                self._gone.add(reason.rank)
            self._end_with(reason, ["aborted", reason.rank, reason.stays])
        except Exception as reason:
            self._end_with(reason, ["interrupted", str(reason)])

    def _end_with(self, reason: Exception, message: Message) -> None:
        self._reason = self._reason or reason
        self._deadline = self._deadline or time.monotonic() + GRACE
        self._channel.send(message)

    def _exchange(self) -> None:
        try:
            messages = self._channel.receive()
            for message in messages:
                if not self._host.handle(message):
                    self._hear(message)
            if messages:
                self._heard = time.monotonic()
            if self._host.step() or messages:
                self._num_looks, self._nap = 0, self.SHORTEST
        except Exception as error:  # it sent nonsense, or the transport failed
            self._reason = self._reason or error
            self._kill()

    def _hear(self, message: Message) -> None:
        kind, *content = message
        if kind == "progress":
            self._progress = Progress(**content[0])
            self._hooks.on_progress(self._progress)
        elif kind == "prunes":
            assert self._hooks.prunes is not None
            assert self._progress is not None
            self._channel.send(["decided", self._hooks.prunes(self._progress)])
        elif kind == "saved":
            self._hooks.on_checkpoint()
        elif kind == "stops":
            self._channel.send(["decided", self._hooks.stops()])
        elif kind == "report":
            self._reported = {name: content[0][name] for name in _REPORTED}
            self._deadline = time.monotonic() + GRACE
        elif kind != "beat":
            raise ValueError(f"the trial's process sent an unknown message: {str(kind)[:100]}")

    def _kill_if_due(self, silence: float) -> None:
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            self._reason = self._reason or ProcessDied(
                "the trial's process closed its channel, went on, and was killed"
            )
            self._kill()
        elif self._deadline is None and self._channel.is_closed:  # it is ending, or user code has closed all files
            self._deadline = now + GRACE
        elif self._deadline is None and now - self._heard > silence:
            self._reason = ProcessSilent(
                f"the trial made no progress for {silence:g} s (heartbeat_timeout); its process was killed"
            )
            self._kill()

    def _kill(self) -> None:
        self._was_killed = True
        self._server.kill()

    def _pause(self) -> None:
        pause = self.IDLE
        if self._host.is_busy:
            pause = 0.0
            self._num_looks += 1
            if self._num_looks > self.NUM_LOOKS:
                pause, self._nap = self._nap, min(self._nap * self.GROWTH, self.LONGEST)
            else:
                os.sched_yield()
        wait_for([self._channel, self._server.channel], pause)

    def _leave_splits(self) -> None:
        """Return when no peer can wait for this rank in a split any more: it blocks once all have arrived."""
        if self._host.splitting():
            self._stay()
        while any(self._gone.isdisjoint((*part.members, -1)) for part in self._host.splitting()):
            self._look_for_interruptions()
            self._host.step()
            self._pause()

    def _close(self) -> None:
        with contextlib.suppress(ServerEnded):
            while self._server.ended() is None:  # this rank has failed meanwhile
                self._server.kill()
                wait_for([self._server.channel], 0.05)
        self._channel.close()
        self._host.close()  # now, not when the garbage collector finds a caught exception's frames

    def _fill_in(self, report: Report, end: ProcessEnd) -> None:
        if self._reported is not None:
            for name, value in self._reported.items():
                setattr(report, name, value)
            if report.error and self._reason is not None:
                report.error, report.reason = kind_of(self._reason), reason_of(self._reason)
        else:
            assert self._reason is not None
            report.error, report.reason = kind_of(self._reason), reason_of(self._reason)
            report.traceback = shortened(storable(end.crash), TRACEBACK_LIMIT) or traceback_of(self._reason)
            if self._was_killed and self._deadline is not None:
                report.notes.append(f"the trial did not end within {GRACE:g} s of its interruption; it was killed")
        if end.num_left:
            report.notes.append(
                f"the trial left {counted(end.num_left, 'process', 'processes')} that it had started, now killed"
            )
        if self._server.note is not None:
            report.notes.append(self._server.note)
