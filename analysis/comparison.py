"""What a benchmark says: every method on every workload, scores and ranks, how sure they are, and what tuning cost.

Quality is compared over workloads as a share of each one's target. Where data do not suffice, it says "cannot tell".
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from atoll.analysis import confirmations, inference, projection, score
from atoll.analysis.confirmations import Confirmation
from atoll.analysis.inference import Equivalence, Estimate, Separation
from atoll.analysis.projection import Prediction
from atoll.analysis.resampling import Array, in_groups
from atoll.analysis.score import MethodScore
from atoll.storage.export import plain
from atoll.storage.models import BenchmarkRow, StudyRow, TrialRow
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
    directions: dict[str, str]
    is_complete: bool
    cells: list[Cell]
    confirmations: list[Confirmation]
    scores: dict[str, Scored]
    quality: dict[str, Estimate]
    improvement: dict[str, dict[str, Estimate]]
    separation: Separation | None
    equivalence: dict[str, Equivalence]
    tuning: list[TuningCurve]
    predictions: list[Prediction]
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
        return dict(plain(content))


def compare(store: Store, benchmark: BenchmarkRow) -> Comparison:
    """Read a benchmark, finished or not, and compare its methods."""
    facts = _Facts(store, benchmark)
    strata = facts.strata()
    return Comparison(
        name=benchmark.name,
        description=benchmark.definition.get("description", ""),
        methods=facts.methods,
        workloads=facts.workloads,
        targets={w: target for w in facts.workloads if (target := facts.targets.get(w)) is not None},
        directions=facts.directions,
        is_complete=facts.is_complete,
        cells=[facts.cell(m, w) for w in facts.workloads for m in facts.methods],
        confirmations=facts.rows,
        scores={by: facts.scored(by) for by in ("seconds", "steps")} | facts.scored_predictions(),
        quality={m: inference.interquartile_mean(s) for m, s in strata.items() if s},
        improvement=_improvement(strata),
        separation=_separation(strata),
        equivalence=_equivalence(strata),
        tuning=[_tuning_curve(study, facts.trials[study.id]) for study in facts.studies if study.stage == "tune"],
        predictions=facts.predictions(),
        notes=facts.notes(),
    )


class _Facts:
    """What the store holds of a benchmark."""

    def __init__(self, store: Store, benchmark: BenchmarkRow) -> None:
        definition = benchmark.definition
        self.studies = store.studies_of(benchmark)
        self.methods = [entry["name"] for entry in definition["methods"]]
        self.workloads = [entry["name"] for entry in definition["workloads"]]
        self.rows = confirmations.read(store, benchmark)
        self.trials = {study.id: store.trials(study) for study in self.studies if study.stage == "tune"}
        # Of a tuning the target may be another objective's; confirmations come last.
        self.targets = {study.workload_label: study.target for study in self.studies}
        self.directions = {str(s.workload_label): s.direction for s in self.studies if s.stage == "confirm"}
        self._variants = {e["variant_of"]: e["name"] for e in definition["workloads"] if e["variant_of"]}
        self._num_tunings = definition.get("tuning", {}).get("repeats", 1)
        tuned = [study for study in self.studies if study.id in self.trials]
        self._hopeless = [study for study in tuned if confirmations.is_hopeless(study, self.trials[study.id])]
        self._num_expected = benchmark.num_studies - len(self._hopeless)
        self._num_ended = sum(study.state in confirmations.ENDED for study in self.studies)
        self.is_complete = self._num_ended == self._num_expected
        self._counting = [row for row in self.rows if row.is_chosen]
        self._projections = store.projections(row.trial_id for row in self._counting if row.trial_id is not None)

    def of(self, method: str, workload: str) -> list[Confirmation]:
        """The confirmations that count."""
        return [row for row in self._counting if (row.method, row.workload) == (method, workload)]

    def finished(self) -> list[str]:
        """The workloads with a target on which every confirmation of every method has ended."""
        ended = Counter(
            (study.method_label, study.workload_label)
            for study in self.studies
            if (study.stage == "confirm" and study.state in confirmations.ENDED) or study in self._hopeless
        )
        return [
            workload
            for workload in self.workloads
            if self.targets.get(workload) is not None
            and all(ended[method, workload] == self._num_tunings for method in self.methods)
        ]

    def notes(self) -> list[str]:
        """What a reader must know."""
        found = [f"{s.method_label} on {s.workload_label}: {confirmations.WORDS}" for s in self._hopeless]
        if not self.is_complete:
            found.append(
                f"{self._num_ended} of {self._num_expected} studies have ended: scores are of the workloads that all "
                f"methods have finished, {', '.join(self.finished()) or 'none'}"
            )
        if failed := [s.name for s in self.studies if s.state == "failed"]:
            found.append(f"studies whose ranks died too often count as failures: {', '.join(failed)}")
        if without := [w for w in self.workloads if w in self.targets and self.targets[w] is None]:
            found.append(f"without a target, and so in no score: {', '.join(without)}")
        shared = sum(not row.is_timed for row in self.rows)
        if shared:
            found.append(
                f"{shared} of {len(self.rows)} confirmations shared cores or a GPU: their seconds are not scored"
            )
        if self._num_tunings == 1 and self.rows:
            found.append(
                "each method was tuned once: intervals are of these tuned configurations, without tuning's luck"
            )
        return found

    def scored(self, by: str) -> Scored:
        """The methods' scores by "seconds" or "steps"."""
        aimed = self._aimed()
        if by == "seconds" and not all(row.is_timed for row in aimed):
            return Scored([], {}, "cannot tell: confirmations shared cores or a GPU: their seconds do not compare")
        return self._scored(aimed, by)

    def predictions(self) -> list[Prediction]:
        """Medians of what has been projected."""
        aimed = {str(w) for w, target in self.targets.items() if target is not None}
        return projection.of_confirmations(self._counting, self._projections, aimed)

    def scored_predictions(self) -> dict[str, Scored]:
        """Scores by predicted seconds, on each cluster and way of scaling at one number of nodes."""
        found = {}
        for cluster, scaling in dict.fromkeys((row.cluster, row.scaling) for row in self._projections):
            rows = [row for row in self._projections if (row.cluster, row.scaling) == (cluster, scaling)]
            aimed = self._aimed()
            scales: dict[int, dict[int, float | None]] = {}
            growing: dict[int, set[int]] = {}
            for row in rows:
                scales.setdefault(row.trial_id, {})[row.num_nodes] = row.seconds_to_target
                if row.grows:
                    growing.setdefault(row.trial_id, set()).add(row.num_nodes)
            # The largest that all can take; a method whose ranks do not grow has one scale, and keeps it.
            common = set.intersection(*growing.values()) if growing else {row.num_nodes for row in rows}
            num_nodes = max(common, default=0)
            by = f"predicted seconds (nodes of {cluster}: {num_nodes}, {scaling} scaling)"
            seconds = {trial: of.get(num_nodes, next(iter(of.values()))) for trial, of in scales.items()}
            complete = [row for row in aimed if row.state == "complete"]
            missing = sum(row.is_reached and row.trial_id not in seconds for row in complete)
            projected = [replace(row, seconds=seconds.get(row.trial_id or 0) or math.inf) for row in aimed]
            problem = None
            if missing:
                problem = f"{missing} trainings that met the target are not projected to {cluster}"
            elif not common:
                problem = "there is no number of nodes that all methods can take"
            elif not all(row.is_timed for row in aimed):
                problem = "confirmations shared cores or a GPU: what they compute is not known"
            found[by] = Scored([], {}, f"cannot tell: {problem}") if problem else self._scored(projected, "seconds")
        return found

    def _aimed(self) -> list[Confirmation]:
        """The confirmations that scores take."""
        finished = self.finished()
        # A variant counts beside its base only.
        alone = [variant for base, variant in self._variants.items() if base not in finished]
        return [row for row in self._counting if row.workload in finished and row.workload not in alone]

    def _scored(self, aimed: Sequence[Confirmation], by: str) -> Scored:
        if not aimed:
            return Scored([], {}, "cannot tell: there is no workload with a target that all methods have finished")
        finished = self.finished()
        known = {base: variant for base, variant in self._variants.items() if {base, variant} <= set(finished)}
        times = score.gather(confirmations.times(aimed, by), known)
        ratios = score.ratios(score.base_times(times, score.medians(times)))
        found = score.compare(times)
        verdict = score.verdict(found)
        if not self.is_complete:
            verdict = f"cannot tell yet: {self._num_ended} of {self._num_expected} studies have ended"
        return Scored(found, dict(zip(times.methods, ratios.tolist(), strict=True)), verdict)

    def strata(self) -> Strata:
        """Each method's shares of the target by workload, in groups by tuning, where every method has finished."""
        rows = {(m, w): self.of(m, w) for m in self.methods for w in self.finished()}
        shared = [w for w in self.finished() if all(r.relative >= 0 for m in self.methods for r in rows[m, w])]
        return {m: [_grouped(rows[m, w], lambda row: row.relative) for w in shared] for m in self.methods}

    def cell(self, method: str, workload: str) -> Cell:
        """One method on one workload."""
        own = self.of(method, workload)
        of_cell = [s for s in self.studies if (s.method_label, s.workload_label) == (method, workload)]
        tuned = [t for s in of_cell if s.stage == "tune" for t in self.trials[s.id] if t.state != "lost"]
        confirmed = [study for study in of_cell if study.stage == "confirm"]
        worst = -math.inf if confirmed and confirmed[0].direction == "maximize" else math.inf
        timed = [row for row in own if row.is_timed]
        has_target = self.targets.get(workload) is not None
        return Cell(
            method=method,
            workload=workload,
            num_trained=len(own),
            num_failed=sum(row.state == "failed" for row in own),
            num_reached=sum(row.is_reached for row in own),
            num_shared_cores=len(own) - len(timed),
            quality=_median(own, lambda row: worst if math.isnan(row.quality) else row.quality) if confirmed else None,
            seconds=_median(timed, lambda row: row.seconds) if has_target else None,
            steps=_median(own, lambda row: row.steps) if has_target else None,
            wire_bytes=_known_median(own, lambda row: row.wire_bytes),
            peak_memory=_known_median(own, lambda row: row.peak_memory),
            trainable_share=_known_median(own, lambda row: row.trainable_share),
            num_tuned=len(tuned),
            num_tuning_failures=sum(trial.state == "failed" for trial in tuned),
            configurations=[c for study in confirmed for c in study.definition["confirm"]["configurations"]],
        )


Value = Callable[[Confirmation], float]
Strata = dict[str, list[Array]]


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
    """How likely the first method beats the second, both ways."""
    found: dict[str, dict[str, Estimate]] = {method: {} for method in strata}
    for ours, theirs in itertools.combinations(strata, 2):
        if strata[ours]:
            found[ours][theirs] = inference.probability_of_improvement(strata[ours], strata[theirs])
            found[theirs][ours] = found[ours][theirs].complement()
    return found


def _medians(strata: Strata) -> dict[str, list[float]]:
    return {method: [float(np.median(values)) for values in of] for method, of in strata.items()}


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
