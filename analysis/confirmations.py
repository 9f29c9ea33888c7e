"""A benchmark's confirmations: one row per training of a tuned configuration with a fresh seed."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from atoll.analysis.score import TrialTime
from atoll.storage.models import BenchmarkRow, ProgressRow, StudyRow, TrialRow
from atoll.storage.store import Store

ENDED = ("complete", "failed")
HOPELESS = "its tuning found nothing that trains to the end"


@dataclass(frozen=True)
class Compared:
    """The value by which a benchmark compares trainings of a workload.

    Attributes:
        name: of the value in reports.
        direction: minimize or maximize.
        target: None for no target.
        is_metric: whether it is the metric, on test data.
    """

    name: str
    direction: str
    target: float | None
    is_metric: bool = True

    def of(self, metrics: Mapping[str, float | None] | None) -> float:
        """The value in a report, or at the end of a trial; NaN if missing."""
        return _number((metrics or {}).get(self.name))

    def meets(self, value: float) -> bool:
        """Whether a value meets the target."""
        if self.target is None:
            return False
        return value >= self.target if self.direction == "maximize" else value <= self.target

    def relative(self, quality: float) -> float:
        """Quality relative to the target, comparable across workloads: 1 at the target, larger is better, 0 if failed.

        NaN without a positive target.
        """
        if self.target is None or self.target <= 0:
            return math.nan
        if math.isnan(quality):
            return 0.0
        if self.direction == "maximize":
            return quality / self.target
        return self.target / quality if quality > 0 else math.inf


def compared(study: StudyRow) -> Compared:
    """The value by which a study's trainings are compared: the metric on test data, unless it names another."""
    confirm = (study.definition or {}).get("confirm") or {}
    if (name := confirm.get("compared")) is not None:
        return Compared(name, "minimize", confirm.get("target"), is_metric=False)
    return Compared(f"test_{study.metric}", study.direction, study.target)


@dataclass(frozen=True)
class Confirmation:
    """One training, evaluated on the test data after every epoch.

    Attributes:
        method, workload: names in the benchmark.
        group: number of the tuning, from 0.
        study: TUNING.SEED, the numbers of the tuning and the seed; all methods and configurations have the same seeds.
        trial: the configuration's rank among the best of its tuning, from 1.
        is_chosen: whether the configuration counts: the best of its tuning on the *validation* data here, or by the
            training loss, if that is what is compared.
        evaluation: the epoch after which the target was met, or infinity.
        seconds: of training until the target was met, or infinity.
        steps: until the target was met, or infinity.
        passes: samples that the busiest rank passed forward and backward until the target was met, or infinity; NaN if
            the trial does not report them.
        state, reason: complete, or failed and why.
        validated: the metric on the validation data at the end; NaN if the training failed, as for those below.
        quality: the metric on the test data at the end, or the other value that is compared.
        relative: quality relative to the target, larger is better; 0 if the training failed, NaN without a target.
        seconds_in_all: of the whole training.
        wire_bytes: sent by all ranks.
        peak_memory: bytes of the largest rank's process.
        trainable_share: share of the parameters that are trainable at the end.
        oversubscribed: whether its ranks shared cores or a GPU, so that its seconds do not compare with others.
        number: the trial's number in its study.
        trial_id: its id in the store; None if nothing could be trained.
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
    passes: float
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

    Trainings that did not happen count as failed: the rest of a confirmation whose ranks died too often, and all seeds
    of a tuning that found nothing that trains to the end.
    """
    rows: list[Confirmation] = []
    for study in store.studies_of(benchmark):
        if study.stage == "confirm":
            rows += _of_study(store, study)
        elif is_hopeless(study, store.trials(study)):
            rows += [_failed(study, n, 1, HOPELESS) for n in range(benchmark.definition["confirmation"]["seeds"])]
    return rows


def is_hopeless(study: StudyRow, trials: Sequence[TrialRow]) -> bool:
    """Whether a tuning has ended without anything to confirm."""
    if study.stage != "tune" or study.state not in ENDED:
        return False
    return study.state == "failed" or all(trial.state != "complete" for trial in trials)


def _of_study(store: Store, study: StudyRow) -> list[Confirmation]:
    trials = {trial.number: trial for trial in store.trials(study) if trial.state in ENDED}
    reports = curves(store, [trial.id for trial in trials.values()])
    confirm = study.definition["confirm"]
    num_configurations = len(confirm["configurations"])
    numbers = range(num_configurations * confirm["seeds"]) if study.state == "failed" else sorted(trials)
    rows = [
        _confirmation(study, trials[number], reports[trials[number].id], num_configurations)
        if number in trials
        else _failed(study, number, num_configurations, study.reason or "")
        for number in numbers
    ]
    chosen = _choice(study, rows)
    return [replace(row, is_chosen=row.trial == chosen) for row in rows]


def curves(store: Store, trial_ids: Iterable[int]) -> dict[int, list[ProgressRow]]:
    """Each trial's progress reports in order, by its id."""
    reports: dict[int, list[ProgressRow]] = {number: [] for number in trial_ids}
    for report in store.progress(reports):
        reports[report.trial_id].append(report)
    return reports


def _choice(study: StudyRow, rows: Sequence[Confirmation]) -> int:
    """The rank of the configuration with the best median on the validation data; failures count as worst.

    A training loss needs no other data: then it is the best median of what is compared.
    """
    aim = compared(study)
    sign = -1.0 if aim.direction == "maximize" else 1.0
    losses: dict[int, list[float]] = {}
    for row in rows:
        value = row.validated if aim.is_metric else row.quality
        losses.setdefault(row.trial, []).append(math.inf if math.isnan(value) else sign * value)
    return min(losses, key=lambda place: (statistics.median(losses[place]), place), default=1)


def _confirmation(
    study: StudyRow, trial: TrialRow, curve: Sequence[ProgressRow], num_configurations: int
) -> Confirmation:
    if trial.state == "failed":
        return _failed(study, trial.number, num_configurations, trial.reason or "", curve, trial)
    metrics = {name: value for name, value in (trial.metrics or {}).items() if value is not None}
    quality = compared(study).of(metrics)
    return replace(
        _failed(study, trial.number, num_configurations, "", curve, trial),
        state="complete",
        validated=_number(trial.objective),
        quality=quality,
        relative=compared(study).relative(quality),
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
    """A failed training, with the time at which it met the target if it did so before."""
    seed, place = divmod(number, num_configurations)
    aim = compared(study)
    met = next((report for report in curve if aim.meets(aim.of(report.metrics))), None)
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
        passes=math.inf if met is None else _number((met.metrics or {}).get("passes")),
        state="failed",
        reason=reason,
        validated=math.nan,
        quality=math.nan,
        relative=aim.relative(math.nan),
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


def times(rows: Iterable[Confirmation], by: str) -> list[TrialTime]:
    """The times to target in "seconds" or "passes", for `score.gather`."""
    return [TrialTime(r.method, r.workload, r.study, str(r.trial), r.evaluation, getattr(r, by), r.group) for r in rows]


def to_csv(rows: Iterable[Confirmation]) -> str:
    """The confirmations of the configurations that count, as a table that `atoll score` can read.

    If any row was oversubscribed, all seconds are left empty, as seconds would not compare.
    """
    rows = [row for row in rows if row.is_chosen]
    is_oversubscribed = any(row.oversubscribed for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Confirmation)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) | {"seconds": "" if is_oversubscribed else row.seconds} for row in rows)
    return text.getvalue()
