"""What a benchmark's confirmations measured: one row for each training of a tuned configuration with a fresh seed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from atoll.analysis.score import TrialTime
from atoll.storage.models import Benchmark, Progress, Study, Trial
from atoll.storage.store import Store


@dataclass(frozen=True)
class Confirmation:
    """One training, measured on the test data after every epoch.

    Attributes:
        method, workload: as the benchmark calls them.
        study: which tuning and which seed, as REPEAT.SEED; all methods have the same ones.
        trial: the configuration's place among the best of its tuning, from 1.
        evaluation: the epoch after which the target was met; infinite where it was not.
        seconds: of training until then; infinite where it was not.
        steps: until then.
        state, reason: complete, or failed and why.
        quality: the metric at the end; NaN where it failed.
        relative: quality as a share of the target, larger is better; 0 where it failed, NaN without a target.
        seconds_in_all: of training.
        wire_bytes: by all ranks.
        peak_memory: bytes of the largest rank's process.
        trainable_share: of the parameters at the end.
        is_timed: whether every rank had a core, or a GPU, to itself; else its seconds compare with nothing.
        number: the trial's number in its study.
    """

    method: str
    workload: str
    study: str
    trial: int
    evaluation: float
    seconds: float
    steps: float
    state: str
    reason: str
    quality: float
    relative: float
    seconds_in_all: float
    wire_bytes: float
    peak_memory: float
    trainable_share: float
    is_timed: bool
    number: int

    @property
    def is_reached(self) -> bool:
        """Whether it met the target."""
        return math.isfinite(self.evaluation)


def read(store: Store, benchmark: Benchmark) -> list[Confirmation]:
    """All confirmations that have ended, by study and number.

    Where tuning found nothing that trains to the end there is nothing to confirm, and every seed counts as a failure.
    """
    rows: list[Confirmation] = []
    for study in store.studies_of(benchmark):
        if study.stage == "confirm":
            rows += _of_study(store, study)
        elif is_hopeless(store, study):
            seeds = benchmark.definition["confirmation"]["seeds"]
            rows += [_nothing(study, seed) for seed in range(seeds)]
    return rows


def is_hopeless(store: Store, study: Study) -> bool:
    """Whether a tuning has ended without any trial that trains to the end."""
    return study.stage == "tune" and study.state == "complete" and not store.leaderboard(study, 1)


def _nothing(study: Study, seed: int) -> Confirmation:
    return Confirmation(
        method=str(study.method_label),
        workload=str(study.workload_label),
        study=f"{study.repeat}.{seed}",
        trial=1,
        evaluation=math.inf,
        seconds=math.inf,
        steps=math.inf,
        state="failed",
        reason="tuning found nothing that trains to the end",
        quality=math.nan,
        relative=0.0,
        seconds_in_all=math.nan,
        wire_bytes=math.nan,
        peak_memory=math.nan,
        trainable_share=math.nan,
        is_timed=True,
        number=seed,
    )


def _of_study(store: Store, study: Study) -> Iterable[Confirmation]:
    trials = [trial for trial in store.trials(study) if trial.state in ("complete", "failed")]
    curves: dict[int, list[Progress]] = {trial.id: [] for trial in trials}
    for report in store.progress(curves):
        curves[report.trial_id].append(report)
    num_configurations = len(study.definition["confirm"]["configurations"])
    return [_confirmation(study, trial, curves[trial.id], num_configurations) for trial in trials]


def _confirmation(study: Study, trial: Trial, curve: Sequence[Progress], num_configurations: int) -> Confirmation:
    seed, place = divmod(trial.number, num_configurations)
    metrics = trial.metrics or {}
    met = next((report for report in curve if meets(study, tested(study, report))), None)
    quality = metrics.get(f"test_{study.metric}", math.nan) if trial.state == "complete" else math.nan
    return Confirmation(
        method=str(study.method_label),
        workload=str(study.workload_label),
        study=f"{study.repeat}.{seed}",
        trial=place + 1,
        evaluation=math.inf if met is None else met.epoch,
        seconds=math.inf if met is None else met.seconds,
        steps=math.inf if met is None else met.step,
        state=trial.state,
        reason=trial.reason or "",
        quality=quality,
        relative=relative(study, quality),
        seconds_in_all=math.nan if trial.seconds is None else trial.seconds,
        wire_bytes=math.nan if trial.wire_bytes is None else trial.wire_bytes,
        peak_memory=math.nan if trial.peak_memory is None else trial.peak_memory,
        trainable_share=metrics.get("trainable_share", 1.0),
        is_timed=not trial.oversubscribed,
        number=trial.number,
    )


def tested(study: Study, report: Progress) -> float:
    """The metric on the test data, at a report."""
    value = (report.metrics or {}).get(f"test_{study.metric}")
    return math.nan if value is None else float(value)


def meets(study: Study, value: float) -> bool:
    """Whether a value of the metric is at the target or better."""
    if study.target is None:
        return False
    return value >= study.target if study.direction == "maximize" else value <= study.target


def relative(study: Study, quality: float) -> float:
    """Quality as a share of the target, so that workloads compare: 1 at the target, more is better, 0 for a failure."""
    if study.target is None:
        return math.nan
    if math.isnan(quality):
        return 0.0
    if study.direction == "maximize":
        return quality / study.target
    return study.target / quality if quality else math.inf


def times(rows: Iterable[Confirmation], by: str) -> list[TrialTime]:
    """The rows as the score takes them, by "seconds" or "steps"."""
    return [
        TrialTime(row.method, row.workload, row.study, str(row.trial), row.evaluation, getattr(row, by)) for row in rows
    ]


def to_csv(rows: Iterable[Confirmation]) -> str:
    """A table that `atoll score` reads too."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Confirmation)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
