"""The curves of a benchmark's confirmations: the compared value against seconds, passes, bytes or steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.analysis.confirmations import Confirmation, compared, curves
from atoll.storage.models import BenchmarkRow, ProgressRow
from atoll.storage.store import Store

# What a training has spent at a report, and the words for it.
AXES = {
    "seconds": "training time (s)",
    "passes": "passes of the busiest rank (samples)",
    "wire_bytes": "sent by all ranks (MB)",
    "step": "steps",
}

WORDS = {"seconds": "seconds", "passes": "passes", "wire_bytes": "bytes", "step": "steps"}


@dataclass(frozen=True)
class TrainingCurve:
    """One confirmation, report by report.

    Attributes:
        method, workload: names in the benchmark.
        value: the name of what is compared, such as test_accuracy.
        oversubscribed: whether its ranks shared cores or a GPU, so that its seconds do not compare with others.
        spent: (n,) what it had spent at each report, by the names of AXES; NaN if it was not reported.
        values: (n,) the compared value at each report; NaN if missing.
    """

    method: str
    workload: str
    value: str
    oversubscribed: bool
    spent: dict[str, NDArray[np.float64]]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class MedianCurve:
    """The median over several trainings as a step function, and their range.

    Attributes:
        spent: (n,) where any of the trainings reports, ascending.
        median, low, high: (n,) over the trainings that have reported and not ended.
        num_trainings: of which there are.
    """

    spent: NDArray[np.float64]
    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_trainings: int


def read(store: Store, benchmark: BenchmarkRow, confirmations: Iterable[Confirmation]) -> list[TrainingCurve]:
    """The curves of the confirmations that count and are complete.

    Args:
        store: where they are.
        benchmark: whose.
        confirmations: all of its.
    """
    names = {
        str(study.workload_label): compared(study).name
        for study in store.studies_of(benchmark)
        if study.stage == "confirm"
    }
    rows = [row for row in confirmations if row.is_chosen and row.state == "complete"]
    reports = curves(store, [row.trial_id for row in rows if row.trial_id is not None])
    return [_curve(row, names[row.workload], reports[row.trial_id]) for row in rows if row.trial_id is not None]


def left_out(confirmations: Iterable[Confirmation], trainings: Sequence[TrainingCurve], by: str) -> dict[str, int]:
    """The number of confirmations that have no curve, by the reason; none of 0.

    Args:
        confirmations: all of a benchmark's.
        trainings: their curves, as `read` gives them.
        by: one of AXES. Trainings that shared cores have no curve against seconds.
    """
    shared = [one for one in trainings if by == "seconds" and one.oversubscribed]
    silent = [one for one in trainings if not (by == "seconds" and one.oversubscribed) and not _given(one, by).any()]
    counts = {
        "failed": sum(row.is_chosen and row.state == "failed" for row in confirmations),
        "shared cores or a GPU": len(shared),
        f"without reports of {WORDS[by]} and value": len(silent),
    }
    return {reason: count for reason, count in counts.items() if count}


def _curve(row: Confirmation, name: str, reports: Sequence[ProgressRow]) -> TrainingCurve:
    def column(values: Iterable[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if value is None else value for value in values], dtype=float)

    return TrainingCurve(
        method=row.method,
        workload=row.workload,
        value=name,
        oversubscribed=row.oversubscribed,
        spent={
            "seconds": column(report.seconds for report in reports),
            "passes": column((report.metrics or {}).get("passes") for report in reports),
            "wire_bytes": column(report.wire_bytes for report in reports),
            "step": column(report.step for report in reports),
        },
        values=column((report.metrics or {}).get(name) for report in reports),
    )


def median_curve(curves: Sequence[TrainingCurve], by: str) -> MedianCurve | None:
    """The median of one method's trainings; None if none has a value.

    A training has its last reported value until its next report, none before its first, and none after its last: the
    median is only where at least half of the trainings have one.

    Args:
        curves: of one method on one workload.
        by: one of AXES.
    """
    known = [(c.spent[by][given], c.values[given]) for c in curves if (given := _given(c, by)).any()]
    if not known:
        return None
    spent = np.unique(np.concatenate([x for x, _ in known]))
    values = np.stack([_held(x, y, spent) for x, y in known])
    has_half = 2 * np.isfinite(values).sum(axis=0) >= len(known)
    spent, values = spent[has_half], values[:, has_half]
    return MedianCurve(
        spent, np.nanmedian(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0), len(known)
    )


def _given(curve: TrainingCurve, by: str) -> NDArray[np.bool_]:
    given: NDArray[np.bool_] = np.isfinite(curve.spent[by]) & np.isfinite(curve.values)
    return given


def _held(x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last of y up to each place, from the first of x to its last one."""
    place = np.searchsorted(x, at, side="right") - 1
    return np.where((place >= 0) & (at <= x[-1]), y[place], np.nan)
