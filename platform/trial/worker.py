"""A worker: the ranks that evaluate one trial together, and how they start, give up and end it together.

The root's control messages tell the members what to train. A rank that raises tells its peers, whose waits then raise
`PeerAborted` within a poll. After every trial the ranks compare what they have posted and complete what is pending, so
that the trial's communicators can be freed, and the next trial gets fresh ones from the untouched control communicator.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from mpi4py import MPI
from torch import nn

from atoll.communication import nccl
from atoll.communication.communicator import Communicator, Patience, PeerAborted
from atoll.communication.ledger import Ledger
from atoll.communication.mailbox import Mailbox
from atoll.communication.mpi import MpiCommunicator, MpiFamily, Summary
from atoll.communication.trace import Trace
from atoll.methods.common.memory import peak_memory
from atoll.methods.method import Method
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import Place
from atoll.platform.trial.outcome import Outcome, Report, outcome_of
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.trial import Trial

WORK, ABORT, REPORT, WORD = 1, 2, 3, 4

Message = TypeVar("Message")


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

        return outcome_of(self._run(configuration, remember, prunes, test, on_trained), seen)

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
        family, trace = MpiFamily(), Trace()
        # NCCL's sums end after the kernels before them: what was computing and what waiting cannot be told there.
        ledger = Ledger(trace if self._kind() is MpiCommunicator else None)
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
            if ledger.trace is not None:
                report.trace = recorded_trace(trace, trial.method, communicator)
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
        if len(own) < len(self.places) or not nccl.is_available():
            return MpiCommunicator
        return nccl.NcclCommunicator

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


def recorded_trace(trace: Trace, method: Method[Any], communicator: Communicator) -> dict[str, Any] | None:
    """What is recorded of a rank's trace; None where other ranks speak for it."""
    rank, nodes = communicator.rank, communicator.nodes
    grows = method.max_ranks is None and not method.layer_parallel
    near = [member for member, node in enumerate(nodes) if node == nodes[0]]
    if grows and rank not in (*near, len(nodes) - 1):
        return None
    return {"rank": rank, "num_ranks": len(nodes), "ranks_per_node": len(near), "grows": grows, **trace.as_dict()}
