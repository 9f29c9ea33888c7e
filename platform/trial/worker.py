"""A worker: the ranks that evaluate one trial together, and start, abort and end it together.

The root's control messages tell the members what to train. A rank that raises informs its peers, whose waits then raise
`PeerAborted` at the next poll. After each trial, the ranks compare their posted operations and complete the pending
ones, so that the trial's communicators can be freed. The next trial gets new ones from the worker's world.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from atoll.communication.communicator import Communicator, Patience, PeerAborted
from atoll.communication.ledger import Ledger
from atoll.communication.lent import Lender
from atoll.communication.thread_world import WorldFailed
from atoll.communication.trace import Trace, clock_of
from atoll.communication.world import Families, Family, World
from atoll.methods.common.memory import peak_memory, reset_peak_memory
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import Place
from atoll.platform.trial.attendant import Attendant
from atoll.platform.trial.caller import Caller, facts_of
from atoll.platform.trial.failure import reason_of, traceback_of
from atoll.platform.trial.fork_server import ForkServer
from atoll.platform.trial.isolation import isolated, owns_process
from atoll.platform.trial.outcome import Outcome, Report, kind_of, outcome_of
from atoll.platform.trial.output import RankLog
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks, train
from atoll.platform.trial.trial_process import TrialProcess, Work
from atoll.storage.events import TrialKey
from atoll.storage.text import REASON_LIMIT, shortened, storable

if TYPE_CHECKING:
    from atoll.communication.mpi import Summary  # needs MPI

WORK, ABORT, REPORT, WORD, VERDICT, RETURNED = 1, 2, 3, 4, 5, 6

Message = TypeVar("Message")


@dataclass(frozen=True)
class Task:
    """How the members train a configuration.

    Attributes:
        test: whether to also measure the model on the test data.
        prunes: whether the root may prune the trial.
        pauses: whether a pruned trial writes a checkpoint first.
        folder: the trial's own, for checkpoints.
        trial: its number and attempt, under which its output is kept; None if there are none.
    """

    test: bool
    prunes: bool
    pauses: bool
    folder: str | None
    trial: TrialKey | None = None

    @property
    def path(self) -> Path | None:
        """The folder's path."""
        return None if self.folder is None else Path(self.folder)


class Worker:
    """This rank's part of its worker.

    Args:
        world: the worker's ranks.
        places: the places of the worker's ranks.
        spin: whether waits may be busy waits.
        serve: called during every wait and after every step, such as for heartbeats.
        server: forks a process for each trial; on all ranks of the worker or on none. Default: trials train in this
            process.
        silence: seconds without progress after which the process of a trial is killed.
        log: this rank's log, for what trials print. Default: they print where the process does. Ranks that are threads
            share the process's output, and keep it.
        may_end: whether this process may be ended if a function of a trial does not return.
    """

    TELLS_AFTER = 0.25  # seconds from a rank's return until those that have not returned hear of it

    def __init__(
        self,
        world: World,
        places: list[Place],
        *,
        spin: bool,
        serve: Callable[[], None] = lambda: None,
        server: ForkServer | None = None,
        silence: float = math.inf,
        log: Path | None = None,
        may_end: bool = False,
    ) -> None:
        self.places = places
        self.place = places[world.rank]
        self._world = world
        self._nodes = [place.node for place in places]
        # Ranks may see one GPU each, all by the same name.
        self._devices = [(place.gpu or place.hostname, place.device) for place in places]
        self._control = world.mailbox()
        self._spin = spin
        self._serve = serve
        self._server = server
        self._silence = silence
        self._log_path = log
        self._log = RankLog(log) if log is not None and server is None and owns_process() else None
        self._serial = 0
        self._raised = False
        self._hooks = Hooks()
        self._may_end = may_end
        self._attendant: Attendant | None = None
        self._lender: Lender | None = None  # of the function's call that is under way
        self._num_verdicts = 0
        self._verdicts: dict[int, bool] = {}
        self._early: dict[int, Report] = {}  # of members that have reported while the root was busy
        self._told_returned = 0.0

    @property
    def is_root(self) -> bool:
        """Whether this rank proposes and reports."""
        return self._control.rank == 0

    # The root's side.

    def evaluate(
        self,
        configuration: Configuration,
        hooks: Hooks,
        *,
        test: bool = False,
        folder: Path | None = None,
        trial: TrialKey | None = None,
    ) -> Outcome:
        """Train `configuration` on all ranks of the worker.

        Args:
            configuration: the configuration to train.
            hooks: the root's callbacks.
            test: whether to also measure the model on the test data after every epoch.
            folder: the trial's own, for checkpoints; on a file system that all ranks see.
            trial: its number and attempt, under which the ranks' logs keep its output.
        """
        path = None if folder is None else str(folder)
        task = Task(test, hooks.prunes is not None, hooks.pauses, path, trial)
        self._tell_members({"configuration": configuration.model_dump(), "task": task})
        history: list[Progress] = []

        def remember(progress: Progress) -> None:
            history.append(progress)
            hooks.on_progress(progress)

        reports = self._run(configuration, replace(hooks, on_progress=remember), task)
        return outcome_of(reports, history, configuration, hooks.value)

    def dismiss(self, serve: Callable[[], None] = lambda: None) -> None:
        """Tell the members that there is no more work; serves while sending."""
        self._hooks = Hooks(serve=serve)
        self._tell_members(None)
        self._wait(self._control.all_sent)

    def _tell_members(self, work: dict[str, Any] | None) -> None:
        for rank in range(1, self._control.size):
            self._control.send(work, rank, WORK)

    # The members' side.

    def obey(self) -> None:
        """Train the configurations that the root sends, until it sends None."""
        while (work := self._receive(WORK, 0)) is not None:
            task = work["task"]
            hooks = Hooks(prunes=(lambda _: False) if task.prunes else None, pauses=task.pauses)  # the root decides
            self._run(Configuration.model_validate(work["configuration"]), hooks, task)
        self._wait(self._control.all_sent)

    # Both sides.

    def _run(self, configuration: Configuration, hooks: Hooks, task: Task) -> list[Report]:
        self._serial += 1
        self._raised = False
        self._hooks = hooks
        report = Report(self._control.rank, self.place.hostname)
        in_process = self._call_here if configuration.calls_function else self._train_here
        trains = in_process if self._server is None else self._train_apart
        with nullcontext() if self._log is None else self._log.receiving(task.trial):
            family = trains(configuration, hooks, report, task)
        report.summaries = family.summaries()
        report.arrivals = {} if self._lender is None else self._lender.arrivals
        reports = self._gather_reports(report)
        if self._tell(reports is not None and _is_uneven(reports)):
            posted = self._gather(family.posted())
            everyone = self._tell(posted)
            self._wait(lambda: family.settle(everyone or []))
        family.close()
        self._lender = None
        self._hooks = Hooks()
        return reports or []

    def _train_here(self, configuration: Configuration, hooks: Hooks, report: Report, task: Task) -> Family:
        """Train in this process; returns the trial's communicators."""
        changes: list[str] = []
        trace = Trace(clock_of(self.place.takes_turns)) if self._world.records_steps(self._devices) else None
        ledger = Ledger(trace)
        if owns_process():
            reset_peak_memory()
        communicator, family = self._world.open(
            self._nodes, self._devices, ledger=ledger, poll=self._poll, spin=self._spin
        )
        try:
            with isolated(changes):
                device, folder = self.place.device, task.path
                train(configuration, hooks, report, communicator, device, test=task.test, folder=folder)
        except WorldFailed:  # not this trial's failure: another rank of the process has ended
            raise
        except BaseException as error:  # SystemExit, too, which libraries raise; signals only leave a request to stop
            report.error, report.reason, report.traceback = kind_of(error), reason_of(error), traceback_of(error)
            self._abort()
        report.notes += [shortened(storable(change), REASON_LIMIT) for change in changes]
        report.ledger, report.peak_memory = ledger.rows(), peak_memory()
        return family

    def _call_here(self, configuration: Configuration, hooks: Hooks, report: Report, task: Task) -> Family:
        """Call the user's function in this process; returns the trial's communicators."""
        changes: list[str] = []
        if owns_process():
            reset_peak_memory()
        if self._attendant is None:
            look = self._poll if self._world.allows_threads else self._serve
            self._attendant = Attendant(look, may_end=self._may_end)
        lender = Lender(
            at_home=self._attendant.home, poll=self._poll, gives_up=lambda: self._abort(stays=True), spin=self._spin
        )
        comm, family = self._world.lend(lender)
        self._lender, self._num_verdicts, self._told_returned = lender, 0, math.inf
        self._verdicts.clear()
        self._take_verdicts()
        families = [family]

        def open_files() -> Communicator:
            # Host tensors only.
            devices = [(hostname, "cpu") for hostname, _ in self._devices]
            communicator, of_files = self._world.open(
                self._nodes, devices, ledger=Ledger(), poll=self._poll, spin=self._spin
            )
            families.append(of_files)
            return communicator

        caller = Caller(
            configuration,
            facts_of(task.trial, task.path, self.place.device),
            hooks,
            comm,
            home=self._attendant.home,
            call=self._attendant.call,
            poll=self._poll,
            agree=self._agree,
            open_files=open_files,
        )
        try:
            with isolated(changes):
                caller.run(report)
            if report.is_alone:  # the others may not have pruned it
                self._abort()
        except WorldFailed:
            raise
        except BaseException as error:
            report.error, report.reason, report.traceback = kind_of(error), reason_of(error), traceback_of(error)
            self._abort()
        lender.end()
        report.notes += [shortened(storable(change), REASON_LIMIT) for change in changes]
        report.peak_memory = peak_memory()
        return Families(families)

    def _agree(self, decide: Callable[[], bool]) -> bool:
        """What the root decides in a function's call, on all ranks.

        The root does not wait for the others: a function that calls it on some ranks only is told so by `returned`.
        """
        assert self._lender is not None
        self._num_verdicts += 1
        number = self._num_verdicts
        if self.is_root:
            verdict = decide()
            if self._control.size > 1:
                self._control.send_to(self._control.others(), (self._serial, number, verdict), VERDICT)
            return verdict
        lender = self._lender
        lender.wait(
            lambda: number in self._take_verdicts(),
            sources=lambda: 0 not in lender.returned,
            what="trial.report or trial.checkpoint",
        )
        return self._verdicts.pop(number)

    def _take_verdicts(self) -> dict[int, bool]:
        """The root's verdicts in this trial, by number; those of earlier trials are dropped."""
        while (message := self._control.take(VERDICT, 0)) is not None:
            serial, number, verdict = message[1]
            if serial == self._serial:
                self._verdicts[number] = verdict
        return self._verdicts

    def _train_apart(self, configuration: Configuration, hooks: Hooks, report: Report, task: Task) -> Family:
        """Train in a process of the trial's own; returns the trial's communicators, which stay in this one."""
        assert self._server is not None
        if hooks.on_trained is not None:
            raise ValueError("the trained model stays in the trial's process; on_trained needs a worker without server")
        # GPUs belong to the trials' processes.
        devices = [(hostname, "cpu") for hostname, _ in self._devices]
        communicator, family = self._world.open(
            self._nodes, devices, ledger=Ledger(), poll=self._serve_all, spin=self._spin
        )
        work = Work(
            configuration=configuration.model_dump(),
            test=task.test,
            folder=task.folder,
            rank=self._control.rank,
            nodes=self._nodes,
            device=self.place.device,
            threads=self.place.threads,
            prunes=hooks.prunes is not None,
            pauses=hooks.pauses,
            records_steps=self._world.records_steps(devices),
            takes_turns=self.place.takes_turns,
            silence=math.inf if configuration.calls_function else self._silence,  # it need not call us
            log=None if self._log_path is None else str(self._log_path),
            trial=task.trial,
        )
        process = TrialProcess(
            self._server,
            communicator,
            hooks,
            poll=self._poll,
            serve=self._serve_all,
            stay=lambda: self._abort(stays=True),
        )
        process.run(work, report)
        if report.error:
            self._abort()
        return family

    def _abort(self, *, stays: bool = False) -> None:
        """Tell the peers that this rank has given up the trial; it may have to stay in a split."""
        self._raised = True
        arrivals = {} if self._lender is None else dict(self._lender.arrivals)
        self._control.send_to(self._control.others(), (self._serial, stays, arrivals), ABORT)

    def _gather_reports(self, mine: Report) -> list[Report] | None:
        """Gather the ranks' reports on the root."""
        if not self.is_root:
            self._control.send(mine, 0, REPORT)
            return None
        self._early[0] = mine
        self._told_returned = time.monotonic() + self.TELLS_AFTER
        self._wait(self._all_have_reported)
        reports = [self._early[rank] for rank in range(self._control.size)]
        self._early.clear()
        return reports

    def _all_have_reported(self) -> bool:
        """Receive reports; those that still call the function hear who has returned, if that takes long."""
        while (message := self._control.take(REPORT)) is not None:
            source, report = message
            self._early[source] = report
            self._told_returned = time.monotonic() + self.TELLS_AFTER
        if len(self._early) == self._control.size:
            return True
        if self._lender is not None and self._early and time.monotonic() > self._told_returned:
            self._told_returned = math.inf
            returned = {rank: report.arrivals for rank, report in self._early.items()}
            self._lender.returned = returned
            missing = [rank for rank in range(1, self._control.size) if rank not in self._early]
            self._control.send_to(missing, (self._serial, returned), RETURNED)
        return False

    def _gather(self, mine: Message) -> list[Message] | None:
        """Gather each rank's message on the root."""
        if self.is_root:
            return [mine, *(self._receive(REPORT, rank) for rank in range(1, self._control.size))]
        self._control.send(mine, 0, REPORT)
        return None

    def _tell(self, word: Message) -> Message:
        """Broadcast the root's message to all ranks."""
        if not self.is_root:
            return cast("Message", self._receive(WORD, 0))
        for rank in range(1, self._control.size):
            self._control.send(word, rank, WORD)
        return word

    def _poll(self) -> None:
        """Serve, and raise the reason to end this trial, if any: a peer's abort, or the root's interrupt."""
        self._serve_all()
        if not self._raised and self.is_root and (reason := self._hooks.interrupt()) is not None:
            self._raised = True
            raise reason
        while (message := self._control.take(ABORT)) is not None:
            source, (serial, stays, arrivals) = message
            if serial == self._serial:
                self._raised = True
                raise PeerAborted(source, stays=stays, arrivals=arrivals)
        if self._lender is not None:
            self._hear_who_returned(self._lender)

    def _hear_who_returned(self, lender: Lender) -> None:
        if self.is_root:
            self._all_have_reported()
        while (message := self._control.take(RETURNED)) is not None:
            serial, returned = message[1]
            if serial == self._serial:
                lender.returned = returned

    def _serve_all(self) -> None:
        self._serve()
        self._hooks.serve()

    def _receive(self, tag: int, source: int) -> Any:
        received: list[Any] = []

        def arrived() -> bool:
            message = self._control.take(tag, source)
            if message is not None:
                received.append(message[1])
            return bool(received)

        self._wait(arrived)
        return received[0]

    def _wait(self, condition: Callable[[], bool]) -> None:
        patience = Patience(self._spin)
        while not condition():
            self._serve_all()
            patience.pause()

    def close(self) -> None:
        """Free the control messages' resources."""
        if self._attendant is not None:
            self._attendant.end()
        for tag in (ABORT, VERDICT, RETURNED):
            while self._control.take(tag) is not None:
                pass
        self._control.close()


def _is_uneven(reports: list[Report]) -> bool:
    """Whether a rank has pending operations, or has posted other operations than its communicator's other ranks."""
    of_communicator: dict[str, list[Summary]] = defaultdict(list)
    for report in reports:
        for name, summary in report.summaries.items():
            of_communicator[name].append(summary)
    return any(
        len(summaries) != summaries[0].size
        or len({summary.num_collectives for summary in summaries}) > 1
        or sum(summary.num_unmatched for summary in summaries) != 0
        or any(summary.num_pending for summary in summaries)
        for summaries in of_communicator.values()
    )
