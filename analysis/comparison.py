"""The comparison of a benchmark's methods: results per workload, scores and ranks with intervals, tuning curves.

Across workloads, quality is compared relative to each target. Where data do not suffice, the verdict is "cannot tell".
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atoll.analysis import confirmations, inference, optimizer_differences, projection
from atoll.analysis.benchmark_results import BenchmarkResults
from atoll.analysis.benchmark_scores import ScoreTable, score_measurements, score_predictions
from atoll.analysis.confirmations import Confirmation
from atoll.analysis.inference import Equivalence, Estimate, Separation
from atoll.analysis.projection import Prediction
from atoll.analysis.resampling import Array, in_groups
from atoll.storage.export import plain
from atoll.storage.models import BenchmarkRow, StudyRow, TrialRow
from atoll.storage.store import Store

REGION = 0.01  # relative qualities that differ by less are practically equal
FEWEST_WORKLOADS = 3  # for a test with workloads as repetitions

Value = Callable[[Confirmation], float]
Strata = dict[str, list[Array]]


@dataclass(frozen=True)
class Cell:
    """One method on one workload: medians over confirmations, in which missed targets are infinite."""

    method: str
    workload: str
    num_trained: int
    num_failed: int
    num_reached: int
    num_oversubscribed: int
    quality: Estimate | None
    seconds: Estimate | None
    passes: Estimate | None
    steps: Estimate | None
    wire_bytes: float
    peak_memory: float
    trainable_share: float
    num_tuned: int
    num_tuning_failures: int
    configurations: list[dict[str, Any]]


@dataclass(frozen=True)
class TuningCurve:
    """The progress of one tuning, and the expected results of smaller budgets.

    Attributes:
        busy_seconds: total seconds inside trials, after each trial.
        best: the best objective after each trial; NaN before the first complete one.
        expected: the expected best objective of 1, 2, ... complete trials drawn at random.
    """

    method: str
    workload: str
    repeat: int
    objective: str
    busy_seconds: list[float]
    best: list[float]
    expected: list[float]


@dataclass(frozen=True)
class Comparison:
    """The content of a benchmark's report."""

    name: str
    description: str
    methods: list[str]
    workloads: list[str]
    targets: dict[str, float]
    directions: dict[str, str]
    quality_title: str
    is_complete: bool
    cells: list[Cell]
    confirmations: list[Confirmation]
    scores: dict[str, ScoreTable]
    quality: dict[str, Estimate]
    improvement: dict[str, dict[str, Estimate]]
    separation: Separation | None
    equivalence: dict[str, Equivalence]
    tuning: list[TuningCurve]
    predictions: list[Prediction]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Which method is first, or why that cannot be told."""
        scored = self.scores[self.scored_by]
        if self.scored_by == "passes" and scored.rows:
            return f"by passes, as seconds do not compare: {scored.verdict}"
        return scored.verdict

    @property
    def scored_by(self) -> str:
        """The measure of the verdict: seconds to the target, or passes if seconds do not compare."""
        return "seconds" if self.scores["seconds"].rows else "passes"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with null for infinite and missing numbers."""
        content = asdict(self) | {"verdict": self.verdict}
        if self.separation is not None:
            content["separation"]["p"] = {" - ".join(pair): p for pair, p in self.separation.p.items()}
        return dict(plain(content))


def compare(store: Store, benchmark: BenchmarkRow) -> Comparison:
    """Compare the methods of a benchmark, finished or not."""
    results = BenchmarkResults(store, benchmark)
    strata = _strata(results)
    return Comparison(
        name=benchmark.name,
        description=benchmark.definition.get("description", ""),
        methods=results.methods,
        workloads=results.workloads,
        targets={w: target for w in results.workloads if (target := results.targets.get(w)) is not None},
        directions=results.directions,
        quality_title=_quality_title(results),
        is_complete=results.is_complete,
        cells=[_cell(results, m, w) for w in results.workloads for m in results.methods],
        confirmations=results.confirmations,
        scores=score_measurements(results) | score_predictions(results),
        quality={m: inference.interquartile_mean(s) for m, s in strata.items() if s},
        improvement=_improvement(strata),
        separation=_separation(strata),
        equivalence=_equivalence(strata),
        tuning=[_tuning_curve(s, results.tuning_trials[s.id]) for s in results.studies if s.stage == "tune"],
        predictions=_predictions(results),
        notes=_notes(results),
    )


def _quality_title(results: BenchmarkResults) -> str:
    """What quality is of, in words."""
    titles = [results.others.get(workload, "metric on test data") for workload in results.workloads]
    return " or ".join(dict.fromkeys(titles))


def _cell(results: BenchmarkResults, method: str, workload: str) -> Cell:
    rows = results.counting_of(method, workload)
    studies = [s for s in results.studies if (s.method_label, s.workload_label) == (method, workload)]
    trials = [t for s in studies if s.stage == "tune" for t in results.tuning_trials[s.id]]
    tuned = [trial for trial in trials if trial.state not in ("lost", "continued")]
    confirmed = [study for study in studies if study.stage == "confirm"]
    worst = -math.inf if results.directions.get(workload) == "maximize" else math.inf
    timed = [row for row in rows if not row.oversubscribed]
    has_target = results.targets.get(workload) is not None
    reports_passes = not any(math.isnan(row.passes) for row in rows)
    return Cell(
        method=method,
        workload=workload,
        num_trained=len(rows),
        num_failed=sum(row.state == "failed" for row in rows),
        num_reached=sum(row.is_reached for row in rows),
        num_oversubscribed=len(rows) - len(timed),
        quality=_median(rows, lambda row: worst if math.isnan(row.quality) else row.quality) if confirmed else None,
        seconds=_median(timed, lambda row: row.seconds) if has_target else None,
        passes=_median(rows, lambda row: row.passes) if has_target and reports_passes else None,
        steps=_median(rows, lambda row: row.steps) if has_target else None,
        wire_bytes=_known_median(rows, lambda row: row.wire_bytes),
        peak_memory=_known_median(rows, lambda row: row.peak_memory),
        trainable_share=_known_median(rows, lambda row: row.trainable_share),
        num_tuned=len(tuned),
        num_tuning_failures=sum(trial.state == "failed" for trial in tuned),
        configurations=[c for study in confirmed for c in study.definition["confirm"]["configurations"]],
    )


def _predictions(results: BenchmarkResults) -> list[Prediction]:
    """Medians of the projections."""
    with_target = {str(workload) for workload, target in results.targets.items() if target is not None}
    return projection.of_confirmations(results.counting, results.projections, with_target)


def _notes(results: BenchmarkResults) -> list[str]:
    """Restrictions that a reader must know."""
    rows = results.confirmations
    notes = [f"{s.method_label} on {s.workload_label}: {confirmations.HOPELESS}" for s in results.hopeless]
    if not results.is_complete:
        finished = ", ".join(results.finished_workloads()) or "none"
        notes.append(f"{results.progress}: scores cover the workloads that all methods have finished, {finished}")
    if failed := [study.name for study in results.studies if study.state == "failed"]:
        notes.append(f"studies whose ranks died too often count as failures: {', '.join(failed)}")
    notes += [f"{workload} is compared by {name}, on training data" for workload, name in results.others.items()]
    if without := [w for w in results.workloads if w in results.targets and results.targets[w] is None]:
        notes.append(f"without a target, and so in no score: {', '.join(without)}")
    if results.changed:
        notes.append(
            f"the studies were measured with different code, data or libraries, and may not compare: "
            f"{', '.join(results.changed)}"
        )
    notes += optimizer_differences.notes(results.studies)
    if num_oversubscribed := sum(row.oversubscribed for row in rows):
        notes.append(
            f"{num_oversubscribed} of {len(rows)} confirmations shared cores or a GPU: their seconds are not scored"
        )
    if results.num_tunings == 1 and rows:
        notes.append(
            "each method was tuned once: the intervals are for these tuned configurations and ignore the luck of tuning"
        )
    return notes


def _strata(results: BenchmarkResults) -> Strata:
    """Each method's quality relative to the target: per finished workload an array (tunings, seeds)."""
    rows = {(m, w): results.counting_of(m, w) for m in results.methods for w in results.finished_workloads()}
    comparable = [
        w for w in results.finished_workloads() if all(row.relative >= 0 for m in results.methods for row in rows[m, w])
    ]
    return {m: [_grouped(rows[m, w], lambda row: row.relative) for w in comparable] for m in results.methods}


def _grouped(rows: Sequence[Confirmation], value: Value) -> Array:
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(value(row))
    return in_groups(list(groups.values()))


def _median(rows: Sequence[Confirmation], value: Value) -> Estimate | None:
    return inference.median(_grouped(rows, value)) if rows else None


def _known_median(rows: Sequence[Confirmation], value: Value) -> float:
    known = [number for row in rows if not math.isnan(number := value(row))]
    return statistics.median(known) if known else math.nan


def _improvement(strata: Strata) -> dict[str, dict[str, Estimate]]:
    """For each method, the probability that it beats each other one."""
    probabilities: dict[str, dict[str, Estimate]] = {method: {} for method in strata}
    for ours, theirs in itertools.combinations(strata, 2):
        if strata[ours]:
            probability = inference.probability_of_improvement(strata[ours], strata[theirs])
            probabilities[ours][theirs], probabilities[theirs][ours] = probability, probability.complement()
    return probabilities


def _medians(strata: Strata) -> dict[str, list[float]]:
    return {method: [float(np.median(values)) for values in arrays] for method, arrays in strata.items()}


def _separation(strata: Strata) -> Separation | None:
    num_workloads = len(next(iter(strata.values()), []))
    if len(strata) < 2 or num_workloads < FEWEST_WORKLOADS:
        return None
    return inference.separate(_medians(strata))


def _equivalence(strata: Strata) -> dict[str, Equivalence]:
    if len(next(iter(strata.values()), [])) < FEWEST_WORKLOADS:
        return {}
    medians = _medians(strata)
    return {
        f"{ours} - {theirs}": inference.practically_equal(medians[ours], medians[theirs], REGION)
        for ours, theirs in itertools.combinations(strata, 2)
    }


def _tuning_curve(study: StudyRow, trials: Sequence[TrialRow]) -> TuningCurve:
    ended = sorted((t for t in trials if t.state != "lost" and t.finished is not None), key=lambda t: t.finished or 0.0)
    sign = 1.0 if study.direction == "maximize" else -1.0
    objectives = [sign * t.objective if t.state == "complete" and t.objective is not None else -math.inf for t in ended]
    best = np.maximum.accumulate(objectives) if objectives else np.array([])
    finite = [value for value in objectives if math.isfinite(value)]
    expected = inference.expected_best(finite) if finite else np.array([])
    spent = np.cumsum([(t.finished or t.started) - t.started for t in ended])
    return TuningCurve(
        method=str(study.method_label),
        workload=str(study.workload_label),
        repeat=study.repeat or 0,
        objective=study.metric,
        busy_seconds=[float(value) for value in spent],
        best=[sign * float(value) if math.isfinite(value) else math.nan for value in best],
        expected=[sign * float(value) for value in expected],
    )
