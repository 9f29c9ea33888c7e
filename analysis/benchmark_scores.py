"""The scores of a benchmark's methods: by measured seconds and passes, and by predicted seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from atoll.analysis import confirmations, score
from atoll.analysis.benchmark_results import BenchmarkResults
from atoll.analysis.confirmations import Confirmation
from atoll.analysis.projection import SLOWED
from atoll.analysis.score import MethodScore
from atoll.storage.models import ProjectionRow


@dataclass(frozen=True)
class ScoreTable:
    """The methods' scores by one kind of time.

    Attributes:
        rows: the best method first; empty if there are no scores.
        ratios: of each method's time to the best one's, per workload.
        verdict: the conclusion, or why there are no scores.
    """

    rows: list[MethodScore]
    ratios: dict[str, list[float]]
    verdict: str


def score_measurements(results: BenchmarkResults) -> dict[str, ScoreTable]:
    """Scores by seconds and by passes to the target. Steps do not compare: MAC's take up to a hundred passes."""
    scorable = _scorable(results)
    by_seconds = _score(results, scorable, "seconds")
    by_passes = _score_passes(results, scorable, by_seconds)
    if any(row.oversubscribed for row in scorable):
        by_seconds = _no_scores("some confirmations shared cores or a GPU, so their seconds do not compare")
    return {"seconds": by_seconds, "passes": by_passes}


def _score_passes(results: BenchmarkResults, scorable: Sequence[Confirmation], by_seconds: ScoreTable) -> ScoreTable:
    """Scores by passes; no method is first that is behind in `by_seconds`, which includes shared cores."""
    if unknown := sorted({row.method for row in scorable if math.isnan(row.passes)}):
        return _no_scores(f"the trials of {', '.join(unknown)} do not report passes")
    scored = _score(results, scorable, "passes")
    first = score.leader(scored.rows) if scored.rows and results.is_complete else None
    if first is None or not (ahead := _ahead([row.method for row in by_seconds.rows], scorable, first)):
        return scored
    verdict = f"cannot tell: {first} is first by passes, but behind {ahead[0]} in seconds on the same or better cores"
    return replace(scored, verdict=verdict)


def _ahead(ranking: Sequence[str], scorable: Sequence[Confirmation], method: str) -> list[str]:
    """The methods before `method` in a ranking by seconds that had no advantage: they shared cores, or it did not."""

    def shared(name: str) -> list[bool]:
        return [row.oversubscribed for row in scorable if row.method == name]

    ahead = ranking[: ranking.index(method)]
    return [other for other in ahead if all(shared(other)) or not any(shared(method))]


def score_predictions(results: BenchmarkResults) -> dict[str, ScoreTable]:
    """Scores by predicted seconds to the target: for each cluster and scaling, at one number of nodes."""
    groups: dict[tuple[str, str], list[ProjectionRow]] = {}
    for row in results.projections:
        groups.setdefault((row.cluster, row.scaling), []).append(row)
    tables = {}
    for (cluster, scaling), rows in groups.items():
        num_nodes = _largest_common_scale(rows)
        by = f"predicted seconds (nodes of {cluster}: {num_nodes}, {scaling} scaling)"
        tables[by] = _score_predicted(results, rows, num_nodes)
    return tables


def _largest_common_scale(rows: Sequence[ProjectionRow]) -> int:
    """The largest number of nodes at which all trials are projected, or 0.

    Trials whose ranks do not grow have one scale, and do not restrict it.
    """
    nodes_of: dict[int, set[int]] = {}
    for row in rows:
        if row.grows:
            nodes_of.setdefault(row.trial_id, set()).add(row.num_nodes)
    common = set.intersection(*nodes_of.values()) if nodes_of else {row.num_nodes for row in rows}
    return max(common, default=0)


def _score_predicted(results: BenchmarkResults, rows: Sequence[ProjectionRow], num_nodes: int) -> ScoreTable:
    seconds_by_nodes: dict[int, dict[int, float | None]] = {}
    for row in rows:
        seconds_by_nodes.setdefault(row.trial_id, {})[row.num_nodes] = row.seconds_to_target
    # A method whose ranks do not grow has its only scale's seconds at any number of nodes.
    seconds = {trial: by.get(num_nodes, next(iter(by.values()))) for trial, by in seconds_by_nodes.items()}
    scorable = _scorable(results)
    missing = sum(row.state == "complete" and row.is_reached and row.trial_id not in seconds for row in scorable)
    if missing:
        return _no_scores(f"{missing} trainings that met the target are not projected to {rows[0].cluster}")
    if num_nodes == 0:
        return _no_scores("there is no number of nodes at which all methods are projected")
    if any(SLOWED in row.assumptions for row in rows):
        return _no_scores("some confirmations shared cores or a GPU, so their time for computing is not known")
    predicted = [replace(row, seconds=seconds.get(row.trial_id or 0) or math.inf) for row in scorable]
    return _score(results, predicted, "seconds")


def _scorable(results: BenchmarkResults) -> list[Confirmation]:
    """The confirmations that scores are made of."""
    finished = results.finished_workloads()
    # A variant only counts together with its base.
    orphans = [variant for base, variant in results.variants.items() if base not in finished]
    return [row for row in results.counting if row.workload in finished and row.workload not in orphans]


def _score(results: BenchmarkResults, rows: Sequence[Confirmation], by: str) -> ScoreTable:
    if not rows:
        return _no_scores("there is no workload with a target that all methods have finished")
    finished = set(results.finished_workloads())
    variants = {base: variant for base, variant in results.variants.items() if {base, variant} <= finished}
    times = score.gather(confirmations.times(rows, by), variants)
    ratios = score.ratios(score.base_times(times, score.medians(times)))
    scores = score.compare(times)
    verdict = score.verdict(scores) if results.is_complete else f"cannot tell yet: {results.progress}"
    return ScoreTable(scores, dict(zip(times.methods, ratios.tolist(), strict=True)), verdict)


def _no_scores(reason: str) -> ScoreTable:
    return ScoreTable([], {}, f"cannot tell: {reason}")
