"""A worker: the ranks that evaluate one trial together, and how they start, give up and end it together.

The root's control messages tell the members what to train. A rank that raises tells its peers, whose waits then raise
`PeerAborted` within a poll. After every trial the ranks compare what they have posted and complete what is pending, so
that the trial's communicators can be freed, and the next trial gets fresh ones from the untouched control communicator.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, cast

import torch
from mpi4py import MPI
from torch import nn

from atoll.methods import communicator_nccl
from atoll.methods.communicator import Communicator, Ledger, Patience, PeerAborted
from atoll.methods.communicator_mpi import MpiCommunicator, MpiFamily, Summary
from atoll.methods.memory import peak_memory
from atoll.methods.method import Method, NotApplicable
from atoll.methods.schedule import Schedule
from atoll.platform.configuration import Configuration
from atoll.platform.mailbox import Mailbox
from atoll.platform.topology import Place
from atoll.platform.trial import Diverged, Progress, Trial

WORK, ABORT, REPORT, WORD = 1, 2, 3, 4

Message = TypeVar("Message")


class Stopped(Exception):
    """The trial was asked to stop before its end; it is queued again."""


class TrialTimeout(Exception):
    """The trial has taken longer than the study allows."""


@dataclass
class Report:
    """How a trial ended on one rank."""

    rank: int
    hostname: str
    error: str = ""
    reason: str = ""
    traceback: str = ""
    ledger: list[dict[str, Any]] = field(default_factory=list)
    summaries: dict[str, Summary] = field(default_factory=dict)
    peak_memory: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_pruned: bool = False
    schedule: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: complete, pruned, failed, or lost where it was stopped.
        objective: the metric of the trained model; None unless complete.
        curve: of a pruned trial, its metric by epoch.
        metrics: anything else that was measured at the end, seconds_compute, seconds_waiting and seconds_data included:
            where the training time went, as a mean over ranks.
        wire_bytes, ledger: traffic summed over ranks.
        peak_memory: bytes; the largest resident size of a rank's process so far, earlier trials included.
        reason, traceback: why it failed, and where.
        notes: what the method says about how it ran.
        schedules: what ranks did at their steps: all where each has a part of the network or none can be added, else
            those of the first node and the last, as the others do what these do.
    """

    state: Literal["complete", "pruned", "failed", "lost"]
    objective: float | None
    metrics: dict[str, float]
    seconds: float
    wire_bytes: float
    ledger: list[dict[str, Any]]
    peak_memory: float
    reason: str | None = None
    traceback: str | None = None
    notes: list[str] = field(default_factory=list)
    curve: dict[int, float] | None = None
    schedules: list[dict[str, Any]] = field(default_factory=list)


class Worker:
    """This rank's part of its worker.

    Args:
        comm: the worker's ranks; becomes the worker's own.
        places: the place of every rank of the worker.
        spin: whether waits may keep a core busy.
        serve: called during every wait and after every step: heartbeats, and what a root owes to other workers.

    Attributes:
        interrupt: asked by the root at every poll of a trial; an exception that it returns ends the trial.
    """

    def __init__(
        self, comm: MPI.Comm, places: list[Place], *, spin: bool, serve: Callable[[], None] = lambda: None
    ) -> None:
        self.places = places
        self.place = places[comm.rank]
        self.serve = serve
        self.interrupt: Callable[[], Exception | None] = lambda: None
        self._control = Mailbox(comm)
        self._spin = spin
        self._serial = 0
        self._raised = False

    @property
    def is_root(self) -> bool:
        """Whether this rank breeds and reports."""
        return self._control.rank == 0

    # The root's side.

    def evaluate(
        self,
        configuration: Configuration,
        on_progress: Callable[[Progress], None],
        *,
        prunes: Callable[[Progress], bool] | None = None,
        test: bool = False,
        on_trained: Callable[[nn.Module], None] = lambda _: None,
    ) -> Outcome:
        """Train `configuration` on all ranks of the worker.

        Args:
            configuration: what to train.
            on_progress: gets each report.
            prunes: says after each report whether to end the training; the ranks agree on it before they go on.
            test: whether to measure the model on the test data too, after every epoch.
            on_trained: gets the trained model.
        """
        self._tell_members({"configuration": configuration.model_dump(), "test": test, "prunes": prunes is not None})
        seen: list[Progress] = []

        def remember(progress: Progress) -> None:
            seen.append(progress)
            on_progress(progress)

        return _outcome(self._run(configuration, remember, prunes, test, on_trained), seen)

    def dismiss(self) -> None:
        """Tell the members that there is nothing more to do."""
        self._tell_members(None)
        self._wait(self._control.all_sent)

    def _tell_members(self, work: dict[str, Any] | None) -> None:
        for rank in range(1, self._control.size):
            self._control.send(work, rank, WORK)

    # The members' side.

    def obey(self) -> None:
        """Train what the root says, until it says that there is nothing more."""
        while (work := self._receive(WORK, 0)) is not None:
            prunes = (lambda _: False) if work["prunes"] else None  # the root knows
            configuration = Configuration.model_validate(work["configuration"])
            self._run(configuration, lambda _: None, prunes, work["test"], lambda _: None)
        self._wait(self._control.all_sent)

    # Both sides.

    def _run(
        self,
        configuration: Configuration,
        on_progress: Callable[[Progress], None],
        prunes: Callable[[Progress], bool] | None,
        test: bool,
        on_trained: Callable[[nn.Module], None],
    ) -> list[Report]:
        self._serial += 1
        self._raised = False
        family, schedule = MpiFamily(), Schedule()
        # NCCL's sums end after the kernels before them: what was computing and what waiting cannot be told there.
        ledger = Ledger(schedule if self._kind() is MpiCommunicator else None)
        report = Report(self._control.rank, self.place.hostname)
        communicator = self._kind()(
            self._control.comm.Dup(),
            [place.node for place in self.places],
            ledger=ledger,
            poll=self._poll,
            spin=self._spin,
            family=family,
        )
        try:
            trial = Trial(configuration, communicator, self.place.device, test=test)
            report.notes = list(trial.method.notes)
            report.is_pruned = _train(trial, on_progress, prunes)
            report.notes = list(trial.method.notes)  # a method may have found out more
            if not report.is_pruned:
                on_trained(trial.model)
            report.seconds = trial.seconds()
            if ledger.schedule is not None:
                report.schedule = kept_schedule(schedule, trial.method, communicator)
        except Exception as error:
            self._raised = True
            self._note(report, error)
        report.ledger, report.peak_memory = ledger.rows(), peak_memory()
        report.summaries = family.summaries()
        reports = self._gather(report)
        if self._tell(reports is not None and _is_uneven(reports)):
            posted = self._gather(family.posted())
            everyone = self._tell(posted)
            self._wait(lambda: family.settle(everyone or []))
        family.close()
        return reports or []

    def _kind(self) -> type[MpiCommunicator]:
        """NCCL where each rank has a GPU to itself; else CUDA tensors are staged in host memory."""
        if not self.place.device.startswith("cuda"):
            return MpiCommunicator
        torch.cuda.set_device(self.place.device)
        own = {(place.hostname, place.device) for place in self.places if place.device.startswith("cuda")}
        if len(own) < len(self.places) or not communicator_nccl.is_available():
            return MpiCommunicator
        return communicator_nccl.NcclCommunicator

    def _note(self, report: Report, error: Exception) -> None:
        report.error, report.reason = type(error).__name__, f"{type(error).__name__}: {error}"
        report.traceback = traceback.format_exc()
        for rank in range(self._control.size):
            if rank != self._control.rank:
                self._control.send(self._serial, rank, ABORT)

    def _gather(self, mine: Message) -> list[Message] | None:
        """What every rank gives, at the root."""
        if self.is_root:
            return [mine, *(self._receive(REPORT, rank) for rank in range(1, self._control.size))]
        self._control.send(mine, 0, REPORT)
        return None

    def _tell(self, word: Message) -> Message:
        """What the root gives, on every rank."""
        if not self.is_root:
            return cast("Message", self._receive(WORD, 0))
        for rank in range(1, self._control.size):
            self._control.send(word, rank, WORD)
        return word

    def _poll(self) -> None:
        """Raise what ends this trial: a peer that gave it up, or the root's own reason."""
        self.serve()
        if not self._raised and self.is_root and (reason := self.interrupt()) is not None:
            self._raised = True
            raise reason
        while (message := self._control.take(ABORT)) is not None:
            source, serial = message
            if serial == self._serial:
                self._raised = True
                raise PeerAborted(source)

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
            self.serve()
            patience.pause()

    def close(self) -> None:
        """Free the control communicator."""
        while self._control.take(ABORT) is not None:
            pass
        self._control.close()


def _train(trial: Trial, on_progress: Callable[[Progress], None], prunes: Callable[[Progress], bool] | None) -> bool:
    """Train to the end, or until the root prunes the trial; returns whether it did, which is the same on every rank."""
    for progress in trial.train():
        on_progress(progress)
        if prunes is not None and trial.agrees_to_end(prunes(progress)):
            return True
    return False


def _is_uneven(reports: list[Report]) -> bool:
    """Whether some rank has something pending, or has posted other operations than the rest of its communicator."""
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


def kept_schedule(schedule: Schedule, method: Method, communicator: Communicator) -> dict[str, Any] | None:
    """What is recorded of a rank's schedule; None where other ranks speak for it."""
    rank, nodes = communicator.rank, communicator.nodes
    grows = method.max_ranks is None and not method.layer_parallel
    near = [member for member, node in enumerate(nodes) if node == nodes[0]]
    if grows and rank not in (*near, len(nodes) - 1):
        return None
    return {"rank": rank, "num_ranks": len(nodes), "ranks_per_node": len(near), "grows": grows, **schedule.as_dict()}


def _outcome(reports: list[Report], seen: list[Progress]) -> Outcome:
    metrics: dict[str, float] = {}
    ledger = Ledger.total([report.ledger for report in reports])
    errors = [report for report in reports if report.error]
    # Peers raise PeerAborted because of the first one; it says nothing of the cause.
    cause = next((r for r in errors if r.error != PeerAborted.__name__), errors[0] if errors else None)
    last = seen[-1] if seen else None
    pruned = cause is None and reports[0].is_pruned
    ended = cause is None and last is not None
    reason = f"pruned after epoch {last.epoch}" if pruned and last is not None else None
    if cause is not None:
        reason = f"{cause.reason} (rank {cause.rank} on {cause.hostname})"
    if ended and last is not None:
        spent = {f"seconds_{k}": sum(r.seconds[k] for r in reports) / len(reports) for k in reports[0].seconds}
        losses = {"train_loss": last.train_loss, "validation_loss": last.validation_loss}
        # Of single layers the curve has the values, and the trial only their means.
        further = {name: value for name, value in last.metrics.items() if "/" not in name}
        metrics = losses | further | spent
    expected = (Diverged.__name__, NotApplicable.__name__, Stopped.__name__, TrialTimeout.__name__)
    return Outcome(
        state=_state(cause, ended, pruned),
        objective=last.metric if ended and not pruned and last is not None else None,
        metrics=metrics,
        seconds=last.seconds if last is not None else 0.0,
        wire_bytes=ledger.wire_bytes(),
        ledger=ledger.rows(),
        peak_memory=float(max(report.peak_memory for report in reports)),
        reason=reason,
        traceback=cause.traceback if cause is not None and cause.error not in expected else None,
        notes=reports[0].notes,
        curve={progress.epoch: progress.metric for progress in seen} if pruned else None,
        schedules=[report.schedule for report in reports if report.schedule is not None] if ended else [],
    )


def _state(cause: Report | None, ended: bool, pruned: bool) -> Literal["complete", "pruned", "failed", "lost"]:
    if cause is not None and cause.error == Stopped.__name__:
        return "lost"
    if not ended:
        return "failed"
    return "pruned" if pruned else "complete"


def as_fields(progress: Progress) -> dict[str, Any]:
    """A progress report as journal fields."""
    fields = asdict(progress)
    del fields["last"]
    return fields
