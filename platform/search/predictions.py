"""Predicts a trial's times on another cluster at its end, from the steps that its ranks have recorded.

The traces are at hand on the worker's root only. Following them takes up to some seconds, so a thread does it while the
root serves the other ranks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from atoll.analysis.replay import CannotReplay
from atoll.analysis.scaling import Recorded, batch_size, num_training, scaled
from atoll.platform.study.objectives import Objective, TargetClock

T = TypeVar("T")


class CannotPredict(ValueError):
    """A trial's times on another cluster cannot be predicted."""


def predicted_values(
    objectives: Sequence[Objective],
    traces: Sequence[Mapping[str, Any]],
    clock: TargetClock,
    hyperparameters: Mapping[str, Any],
) -> dict[str, float]:
    """The values of those objectives that are predictions, by name; a missed target is infinite.

    Args:
        objectives: all of the study.
        traces: of the trial's ranks.
        clock: that has seen its reports.
        hyperparameters: of the trial.

    Raises:
        CannotPredict: with the reason.
    """
    values = {}
    for objective in objectives:
        if objective.projection is None:
            continue
        to_target = objective.name.startswith("projected_seconds_to_target")
        if to_target and math.isinf(clock.steps):
            values[objective.name] = math.inf
            continue
        if not traces:
            raise CannotPredict(
                f"{objective.name} cannot be predicted: the steps were not recorded, as in trials that communicate "
                "through NCCL; set topology.device to cpu"
            )
        recorded = Recorded(
            traces=traces,
            steps_per_epoch=max(1, clock.num_steps // max(1, clock.num_epochs)),
            batch_size=batch_size(hyperparameters, num_training(traces)),
        )
        where = objective.projection
        until = clock.steps if to_target else None
        try:
            at = scaled(recorded, where.where, where.nodes, where.scaling, until=until)
        except CannotReplay as error:
            raise CannotPredict(f"{objective.name} cannot be predicted: {error}") from None
        is_per_step = objective.name.startswith("projected_seconds_per_step")
        values[objective.name] = at.replayed.step if is_per_step else at.seconds(until or clock.num_steps)
    return values


def made_in_background(make: Callable[[], T], wait: Callable[[Callable[[], bool]], None]) -> tuple[T, float]:
    """What `make` returns, and its CPU seconds, in a thread of its own; `wait` gets the condition that it has ended."""
    future: Future[tuple[T, float]] = Future()

    def work() -> None:
        try:
            started = time.thread_time()
            future.set_result((make(), time.thread_time() - started))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="predictions", daemon=True).start()
    wait(future.done)
    return future.result()
