"""What a benchmark says: every method on every workload, scores and ranks, how sure they are, and what tuning cost.

Quality is compared over workloads as a share of each one's target. Where data do not suffice, it says "cannot tell".
"""

from __future__ import annotations

import itertools
import math
import statistics as python_statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atoll.analysis import confirmations, score, statistics
from atoll.analysis.confirmations import Confirmation
from atoll.analysis.score import MethodScore
from atoll.analysis.statistics import Equivalence, Estimate, Separation
from atoll.storage.models import Benchmark, Study, Trial
from atoll.storage.store import Store

REGION = 0.01  # shares of the target that differ by less are practically equal
FEWEST_WORKLOADS = 3  # for a test with workloads as repetitions


@dataclass(frozen=True)
class Cell:
    """One method on one workload; medians over confirmations, missed targets infinite."""

    method: str
    workload: str
    num_trained: int
    num_failed: int
    num_reached: int
    num_shared_cores: int
    quality: Estimate | None
    seconds: Estimate | None
    steps: Estimate | None
    wire_bytes: float
    peak_memory: float
    trainable_share: float
    num_tuned: int
    num_tuning_failures: int
    configurations: list[dict[str, Any]]


@dataclass(frozen=True)
class Scored:
    """The methods' scores by one kind of time, or why there are none."""

    rows: list[MethodScore]
    ratios: dict[str, list[float]]
    verdict: str


@dataclass(frozen=True)
class TuningCurve:
    """What smaller budgets of one tuning would have found.

    Attributes:
        busy_seconds: spent inside trials until each one had ended.
        best: the best objective after each of them; NaN before the first complete one.
        expected: the expected best of 1, 2, ... of its complete trials, drawn at random.
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
    """All that the report shows."""

    name: str
    description: str
    methods: list[str]
    workloads: list[str]
    targets: dict[str, float]
    is_complete: bool
    cells: list[Cell]
    confirmations: list[Confirmation]
    scores: dict[str, Scored]
    quality: dict[str, Estimate]
    improvement: dict[str, dict[str, Estimate]]
    separation: Separation | None
    equivalence: dict[str, Equivalence]
    tuning: list[TuningCurve]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Who is first, or that it cannot be told."""
        return self.scores["seconds" if self.scores["seconds"].rows else "steps"].verdict

    def as_dict(self) -> dict[str, Any]:
        """For JSON: infinite and missing numbers are null, as JSON has none."""
        content = asdict(self) | {"verdict": self.verdict}
        if self.separation is not None:
            content["separation"]["p"] = {" - ".join(pair): p for pair, p in self.separation.p.items()}
        return dict(_plain(content))


def compare(store: Store, benchmark: Benchmark) -> Comparison:
    """Read a benchmark, finished or not, and compare its methods."""
    definition, studies = benchmark.definition, store.studies_of(benchmark)
    methods = [entry["name"] for entry in definition["methods"]]
    workloads = [entry["name"] for entry in definition["workloads"]]
    variants = {entry["variant_of"]: entry["name"] for entry in definition["workloads"] if entry["variant_of"]}
    rows = confirmations.read(store, benchmark)
    trials = {study.id: store.trials(study) for study in studies if study.stage == "tune"}
    targets = {study.workload_label: study.target for study in studies}
    strata = _strata(rows, methods, [w for w in workloads if targets.get(w) is not None])
    hopeless = [study for study in studies if confirmations.is_hopeless(store, study)]
    complete = sum(study.state == "complete" for study in studies)
    num_studies = benchmark.num_studies - len(hopeless)
    notes = [f"{s.method_label} on {s.workload_label}: no trial of its tuning was trained to the end" for s in hopeless]
    if complete < num_studies:
        notes.append(f"{complete} of {num_studies} studies are complete: what follows is of these")
    if without := [w for w in workloads if w in targets and targets[w] is None]:
        notes.append(f"without a target, and so in no score: {', '.join(without)}")
    shared = sum(not row.is_timed for row in rows)
    if shared:
        notes.append(f"{shared} of {len(rows)} confirmations shared cores or a GPU: their seconds are not scored")
    return Comparison(
        name=benchmark.name,
        description=definition.get("description", ""),
        methods=methods,
        workloads=workloads,
        targets={w: target for w in workloads if (target := targets.get(w)) is not None},
        is_complete=complete == num_studies,
        cells=[_cell(m, w, rows, studies, trials, targets.get(w)) for w in workloads for m in methods],
        confirmations=rows,
        scores={by: _scored(rows, by, variants, targets) for by in ("seconds", "steps")},
        quality={m: statistics.interquartile_mean(s) for m, s in strata.items() if s},
        improvement=_improvement(strata),
        separation=_separation(strata),
        equivalence=_equivalence(strata),
        tuning=[_tuning_curve(study, trials[study.id]) for study in studies if study.stage == "tune"],
        notes=notes,
    )


def _of(rows: Sequence[Confirmation], method: str, workload: str) -> list[Confirmation]:
    return [row for row in rows if (row.method, row.workload) == (method, workload)]


def _cell(
    method: str,
    workload: str,
    rows: Sequence[Confirmation],
    studies: Sequence[Study],
    trials: dict[int, list[Trial]],
    target: float | None,
) -> Cell:
    own = _of(rows, method, workload)
    of_cell = [study for study in studies if (study.method_label, study.workload_label) == (method, workload)]
    tuned = [trial for study in of_cell if study.stage == "tune" for trial in trials[study.id] if trial.state != "lost"]
    confirmed = [study for study in of_cell if study.stage == "confirm"]
    worst = -math.inf if confirmed and confirmed[0].direction == "maximize" else math.inf
    qualities = [worst if math.isnan(row.quality) else row.quality for row in own]
    timed = [row.seconds for row in own if row.is_timed]
    return Cell(
        method=method,
        workload=workload,
        num_trained=len(own),
        num_failed=sum(row.state == "failed" for row in own),
        num_reached=sum(row.is_reached for row in own),
        num_shared_cores=sum(not row.is_timed for row in own),
        quality=statistics.median(qualities) if qualities else None,
        seconds=statistics.median(timed) if timed and target is not None else None,
        steps=statistics.median([row.steps for row in own]) if own and target is not None else None,
        wire_bytes=_median(own, lambda row: row.wire_bytes),
        peak_memory=_median(own, lambda row: row.peak_memory),
        trainable_share=_median(own, lambda row: row.trainable_share),
        num_tuned=len(tuned),
        num_tuning_failures=sum(trial.state == "failed" for trial in tuned),
        configurations=[c for study in confirmed for c in study.definition["confirm"]["configurations"]],
    )


def _median(rows: Sequence[Confirmation], value: Callable[[Confirmation], float]) -> float:
    known = [number for row in rows if not math.isnan(number := value(row))]
    return python_statistics.median(known) if known else math.nan


def _scored(
    rows: Sequence[Confirmation], by: str, variants: dict[str, str], targets: dict[str | None, float | None]
) -> Scored:
    aimed = [row for row in rows if targets.get(row.workload) is not None]
    if not aimed:
        return Scored([], {}, "cannot tell: no workload that was confirmed has a target")
    if by == "seconds" and not all(row.is_timed for row in aimed):
        return Scored([], {}, "cannot tell: confirmations shared cores or a GPU, so that their seconds do not compare")
    there = {row.workload for row in aimed}
    known = {base: variant for base, variant in variants.items() if {base, variant} <= there}
    times = score.gather(confirmations.times(aimed, by), known)
    ratios = score.ratios(score.base_times(times, score.medians(times)))
    found = score.compare(times)
    return Scored(found, dict(zip(times.methods, ratios.tolist(), strict=True)), score.verdict(found))


Strata = dict[str, list[list[float]]]


def _strata(rows: Sequence[Confirmation], methods: Sequence[str], workloads: Sequence[str]) -> Strata:
    """Each method's shares of the target, on those workloads on which every method was confirmed."""
    shared = [w for w in workloads if all(_of(rows, m, w) for m in methods)]
    return {m: [[row.relative for row in _of(rows, m, w)] for w in shared] for m in methods}


def _improvement(strata: Strata) -> dict[str, dict[str, Estimate]]:
    """How likely the first method beats the second, both ways."""
    found: dict[str, dict[str, Estimate]] = {method: {} for method in strata}
    for ours, theirs in itertools.combinations(strata, 2):
        if strata[ours]:
            found[ours][theirs] = statistics.probability_of_improvement(strata[ours], strata[theirs])
            found[theirs][ours] = found[ours][theirs].complement()
    return found


def _means(strata: Strata) -> dict[str, list[float]]:
    return {method: [float(np.median(values)) for values in of] for method, of in strata.items()}


def _separation(strata: Strata) -> Separation | None:
    num_workloads = len(next(iter(strata.values()), []))
    if len(strata) < 2 or num_workloads < FEWEST_WORKLOADS:
        return None
    return statistics.separate(_means(strata))


def _equivalence(strata: Strata) -> dict[str, Equivalence]:
    if len(next(iter(strata.values()), [])) < FEWEST_WORKLOADS:
        return {}
    means = _means(strata)
    return {
        f"{ours} - {theirs}": statistics.practically_equal(means[ours], means[theirs], REGION)
        for ours, theirs in itertools.combinations(strata, 2)
    }


def _tuning_curve(study: Study, trials: Sequence[Trial]) -> TuningCurve:
    ended = sorted((t for t in trials if t.state != "lost" and t.finished is not None), key=lambda t: t.finished or 0.0)
    sign = 1.0 if study.direction == "maximize" else -1.0
    objectives = [sign * t.objective if t.state == "complete" and t.objective is not None else -math.inf for t in ended]
    best = np.maximum.accumulate(objectives) if objectives else np.array([])
    finite = [value for value in objectives if math.isfinite(value)]
    expected = statistics.expected_best(finite) if finite else np.array([])
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


def _plain(value: Any) -> Any:
    """With null for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
