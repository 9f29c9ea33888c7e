"""The numbers that a journal's line has for a service that shows curves, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.storage.events import ProgressReported, TrialEnded, TrialLost


def report_values(report: ProgressReported, metric: str) -> dict[str, float]:
    """The scalars of a report; what was not evaluated, or was not finite, is left out.

    Args:
        report: the report.
        metric: the name of its metric.
    """
    values = dict(report.metrics) | {
        metric: report.metric,
        "train_loss": report.train_loss,
        "validation_loss": report.validation_loss,
        "learning_rate": report.learning_rate,
        "wire_bytes": report.wire_bytes,
        "epoch": report.epoch,
        "seconds": report.seconds,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def final_values(end: TrialEnded | TrialLost, row: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a trial's end: `objective`, or one for each of several, and `final/NAME`.

    Args:
        end: the end.
        row: the study's row, which names its objectives.
    """
    if isinstance(end, TrialLost):
        return {}
    values: dict[str, float | None] = {"objective": end.objective}
    if end.objectives is not None:
        names = [objective["name"] for objective in row.get("objectives") or []]
        values |= {f"objective/{name}": value for name, value in zip(names, end.objectives, strict=False)}
    values |= {f"final/{name}": value for name, value in (end.metrics or {}).items()}
    values |= {
        "final/seconds": end.seconds,
        "final/wire_bytes": end.wire_bytes,
        "final/peak_memory": end.peak_memory,
    }
    return {name: float(value) for name, value in values.items() if value is not None}
