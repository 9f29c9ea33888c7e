"""What a benchmark's confirmations measured: one row for each training of a tuned configuration with a fresh seed."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace

from atoll.analysis.score import TrialTime
from atoll.storage.models import BenchmarkRow, ProgressRow, StudyRow, TrialRow
from atoll.storage.store import Store

ENDED = ("complete", "failed")
HOPELESS = "its tuning found nothing that trains to the end"


@dataclass(frozen=True)
class Confirmation:
    """One training, measured on the test data after every epoch.

    Attributes:
        method, workload: as the benchmark calls them.
        group: which tuning, from 0.
        study: the tuning and the seed, as TUNING.SEED; all methods and configurations have the same seeds.
        trial: the configuration's place among the best of its tuning, from 1.
        is_chosen: whether that is the configuration that counts: the best of them on *validation* data here.
        evaluation: the epoch after which the target was met; infinite where it was not.
        seconds: of training until then; infinite where it was not.
        steps: until then.
        state, reason: complete, or failed and why.
        validated: the metric on the validation data at the end; NaN where it failed.
        quality: the metric on the test data at the end; NaN where it failed.
        relative: quality as a share of the target, larger is better; 0 where it failed, NaN without a target.
        seconds_in_all: of training.
        wire_bytes: by all ranks.
        peak_memory: bytes of the largest rank's process.
        trainable_share: of the parameters at the end; these five are NaN where it failed.
        oversubscribed: whether its ranks shared cores or a GPU, so that its seconds do not compare with others.
        number: the trial's number in its study.
        trial_id: in the store; none where nothing could be trained.
    """

    method: str
    workload: str
    group: str
    study: str
    trial: int
    is_chosen: bool
    evaluation: float
    seconds: float
    steps: float
    state: str
    reason: str
    validated: float
    quality: float
    relative: float
    seconds_in_all: float
    wire_bytes: float
    peak_memory: float
    trainable_share: float
    oversubscribed: bool
    number: int
    trial_id: int | None = None

    @property
    def is_reached(self) -> bool:
        """Whether it met the target."""
        return math.isfinite(self.evaluation)


def read(store: Store, benchmark: BenchmarkRow) -> list[Confirmation]:
    """All confirmations that have ended, by study and number.

    What could not be trained counts as failed: the rest of a confirmation whose ranks died too often, and every seed of
    a tuning that found nothing that trains to the end.
    """
    rows: list[Confirmation] = []
    for study in store.studies_of(benchmark):
        if study.stage == "confirm":
            rows += _of_study(store, study)
        elif is_hopeless(study, store.trials(study)):
            rows += [_failed(study, n, 1, HOPELESS) for n in range(benchmark.definition["confirmation"]["seeds"])]
    return rows


def is_hopeless(study: StudyRow, trials: Sequence[TrialRow]) -> bool:
    """Whether a tuning has ended, and there is nothing to confirm."""
    if study.stage != "tune" or study.state not in ENDED:
        return False
    return study.state == "failed" or all(trial.state != "complete" for trial in trials)


def _of_study(store: Store, study: StudyRow) -> list[Confirmation]:
    trials = {trial.number: trial for trial in store.trials(study) if trial.state in ENDED}
    curves_ = curves(store, trials.values())
    confirm = study.definition["confirm"]
    num_configurations = len(confirm["configurations"])
    numbers = range(num_configurations * confirm["seeds"]) if study.state == "failed" else sorted(trials)
    rows = [
        _confirmation(study, trials[number], curves_[trials[number].id], num_configurations)
        if number in trials
        else _failed(study, number, num_configurations, study.reason or "")
        for number in numbers
    ]
    chosen = _choice(study, rows)
    return [replace(row, is_chosen=row.trial == chosen) for row in rows]


def curves(store: Store, trials: Iterable[TrialRow]) -> dict[int, list[ProgressRow]]:
    """What each trial reported, in order, by its id."""
    found: dict[int, list[ProgressRow]] = {trial.id: [] for trial in trials}
    for report in store.progress(found):
        found[report.trial_id].append(report)
    return found


def _choice(study: StudyRow, rows: Sequence[Confirmation]) -> int:
    """The place of the configuration with the best median on the validation data; failures are the worst."""
    sign = -1.0 if study.direction == "maximize" else 1.0
    losses: dict[int, list[float]] = {}
    for row in rows:
        losses.setdefault(row.trial, []).append(math.inf if math.isnan(row.validated) else sign * row.validated)
    return min(losses, key=lambda place: (statistics.median(losses[place]), place), default=1)


def _confirmation(
    study: StudyRow, trial: TrialRow, curve: Sequence[ProgressRow], num_configurations: int
) -> Confirmation:
    if trial.state == "failed":
        return _failed(study, trial.number, num_configurations, trial.reason or "", curve, trial)
    metrics = {name: value for name, value in (trial.metrics or {}).items() if value is not None}
    quality = metrics.get(f"test_{study.metric}", math.nan)
    return replace(
        _failed(study, trial.number, num_configurations, "", curve, trial),
        state="complete",
        validated=_number(trial.objective),
        quality=quality,
        relative=relative(study, quality),
        seconds_in_all=_number(trial.seconds),
        wire_bytes=_number(trial.wire_bytes),
        peak_memory=_number(trial.peak_memory),
        trainable_share=metrics.get("trainable_share", 1.0),
    )


def _failed(
    study: StudyRow,
    number: int,
    num_configurations: int,
    reason: str,
    curve: Sequence[ProgressRow] = (),
    trial: TrialRow | None = None,
) -> Confirmation:
    """A training of which nothing is known but when it met the target, if it did before it failed."""
    seed, place = divmod(number, num_configurations)
    met = next((report for report in curve if meets(study, tested(study, report))), None)
    return Confirmation(
        method=str(study.method_label),
        workload=str(study.workload_label),
        group=str(study.repeat),
        study=f"{study.repeat}.{seed}",
        trial=place + 1,
        is_chosen=True,
        evaluation=math.inf if met is None else met.epoch,
        seconds=math.inf if met is None else met.seconds,
        steps=math.inf if met is None else met.step,
        state="failed",
        reason=reason,
        validated=math.nan,
        quality=math.nan,
        relative=relative(study, math.nan),
        seconds_in_all=math.nan,
        wire_bytes=math.nan,
        peak_memory=math.nan,
        trainable_share=math.nan,
        oversubscribed=trial is not None and bool(trial.oversubscribed),
        number=number,
        trial_id=None if trial is None else trial.id,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def tested(study: StudyRow, report: ProgressRow) -> float:
    """The metric on the test data, at a report."""
    value = (report.metrics or {}).get(f"test_{study.metric}")
    return math.nan if value is None else float(value)


def meets(study: StudyRow, value: float) -> bool:
    """Whether a value of the metric is at the target or better."""
    if study.target is None:
        return False
    return value >= study.target if study.direction == "maximize" else value <= study.target


def relative(study: StudyRow, quality: float) -> float:
    """Quality as a share of the target, so that workloads compare: 1 at the target, more is better, 0 for a failure.

    NaN without a target above 0, as a share of nothing says nothing.
    """
    if study.target is None or study.target <= 0:
        return math.nan
    if math.isnan(quality):
        return 0.0
    if study.direction == "maximize":
        return quality / study.target
    return study.target / quality if quality > 0 else math.inf


def times(rows: Iterable[Confirmation], by: str) -> list[TrialTime]:
    """The rows as the score takes them, by "seconds" or "steps"."""
    return [TrialTime(r.method, r.workload, r.study, str(r.trial), r.evaluation, getattr(r, by), r.group) for r in rows]


def to_csv(rows: Iterable[Confirmation]) -> str:
    """The confirmations of the configurations that count, as a table that `atoll score` reads too.

    Seconds are left out of all rows where those of some compare with nothing: as if nobody had reached the target.
    """
    rows = [row for row in rows if row.is_chosen]
    is_oversubscribed = any(row.oversubscribed for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Confirmation)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) | {"seconds": "" if is_oversubscribed else row.seconds} for row in rows)
    return text.getvalue()
