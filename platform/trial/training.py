"""The training of a trial on one rank, from its set-up to the report; in the rank's process or in one of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from atoll.communication.communicator import Communicator
from atoll.communication.trace import Trace
from atoll.methods.method import Method
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.outcome import Report
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.trial import Trial
from atoll.storage.text import REASON_LIMIT, shortened, storable


@dataclass(frozen=True)
class Hooks:
    """A root's callbacks during a trial.

    Attributes:
        on_progress: receives each report.
        prunes: decides after each report whether to end the training; the ranks agree before they continue.
        pauses: whether a training that `prunes` ends writes a checkpoint first, to be continued later.
        stops: whether a trial with checkpoints is to write one and stop; asked about once a second.
        on_checkpoint: called when a function has written a checkpoint.
        interrupt: called at every poll; if it returns an exception, the trial ends with it.
        serve: called during every wait and after every step, to serve other workers.
        on_trained: receives the trained model.
        value: the value of a report that the curve of a pruned trial has; None without an evaluation.
    """

    on_progress: Callable[[Progress], None] = lambda _: None
    prunes: Callable[[Progress], bool] | None = None
    pauses: bool = False
    stops: Callable[[], bool] = lambda: False
    on_checkpoint: Callable[[], None] = lambda: None
    interrupt: Callable[[], Exception | None] = lambda: None
    serve: Callable[[], None] = lambda: None
    on_trained: Callable[[nn.Module], None] | None = None
    value: Callable[[Progress], float | None] = lambda progress: progress.metric


def train(
    configuration: Configuration,
    hooks: Hooks,
    report: Report,
    communicator: Communicator,
    device: str,
    *,
    test: bool,
    folder: Path | None = None,
) -> None:
    """Train, and fill in this rank's report.

    Args:
        configuration: the configuration to train.
        hooks: the callbacks; a member's root decides what it prunes.
        report: this rank's.
        communicator: the worker's ranks; if its ledger has a trace, the report gets it.
        device: this rank's device.
        test: whether to also measure the model on the test data after every epoch.
        folder: the trial's own, for checkpoints, its model and files of the workload's.
    """
    trial = Trial(configuration, communicator, device, test=test, folder=folder, stops=hooks.stops)
    try:
        report.is_pruned = _is_pruned(trial, hooks)
    finally:
        report.notes = _notes(trial)  # with those that the training has added
    report.is_paused = report.is_pruned and (hooks.pauses or trial.has_paused)
    if not report.is_pruned and hooks.on_trained is not None:
        hooks.on_trained(trial.model)
    report.seconds = trial.seconds()
    if (trace := communicator.ledger.trace) is not None:
        report.trace = recorded_trace(trace, trial.method, communicator, trial.num_servers)


def _is_pruned(trial: Trial, hooks: Hooks) -> bool:
    """Train to the end, or until it is pruned or pauses; returns whether it did, equal on all ranks."""
    for progress in trial.train():
        hooks.on_progress(progress)
        if progress.is_repeated and not hooks.pauses:  # before the checkpoint it was not pruned
            continue
        if hooks.prunes is not None and trial.agrees_to_end(hooks.prunes(progress)):
            if hooks.pauses:
                trial.save()
            return True
    return trial.has_paused


def _notes(trial: Trial) -> list[str]:
    return [shortened(storable(str(note)), REASON_LIMIT) for note in (*trial.method.notes, *trial.notes)]


def recorded_trace(
    trace: Trace, method: Method[Any], communicator: Communicator, num_servers: int = 0
) -> dict[str, Any] | None:
    """A rank's trace as it is recorded; None if other ranks represent this one.

    Args:
        trace: of this rank.
        method: what it trains with.
        communicator: the worker's ranks.
        num_servers: of these, those that only serve.
    """
    rank, nodes = communicator.rank, communicator.nodes
    scales = method.max_ranks is None and not method.layer_parallel
    first_node = [member for member, node in enumerate(nodes) if node == nodes[0]]
    if scales and rank not in (*first_node, len(nodes) - 1):
        return None
    shape = {"rank": rank, "num_ranks": len(nodes), "ranks_per_node": len(first_node), "grows": scales}
    if num_servers:
        shape["num_servers"] = num_servers
    return shape | trace.as_dict()
