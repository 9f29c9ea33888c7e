"""A benchmark's report: tables and figures of the comparison of its methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
import yaml

from atoll.analysis import comparison as comparing
from atoll.analysis import training_curves
from atoll.analysis.comparison import Cell, Comparison
from atoll.analysis.formatting import MISSING_ON_PAGES
from atoll.analysis.inference import Estimate
from atoll.analysis.projection import Prediction
from atoll.analysis.resampling import LEVEL
from atoll.analysis.score import MethodScore
from atoll.analysis.training_curves import TrainingCurve
from atoll.dashboard import report_parts
from atoll.dashboard.figures import comparison as figures
from atoll.dashboard.figures import training_curves as drawn_curves
from atoll.dashboard.report_parts import Report, Table, hardware, number, versions
from atoll.storage.models import BenchmarkRow, StudyRow
from atoll.storage.store import Store


def html(store: Store, benchmark: BenchmarkRow) -> str:
    """The page: tables, figures, commands, versions, hardware and seeds; it loads nothing from elsewhere."""
    comparison = comparing.compare(store, benchmark)
    confirmed = _confirmed(store, benchmark)
    first_trials = (trial for study in confirmed for trial in store.trials(study)[:1])
    verdict = comparison.verdict
    report = Report(
        title=comparison.name,
        description=comparison.description,
        verdict=f"{verdict[0].upper()}{verdict[1:]}.",
        notes=comparison.notes,
        tables=[results(comparison), *score_tables(comparison), predictions(comparison), equivalence(comparison)],
        figures=sections(comparison, training_curves.read(store, benchmark, comparison.confirmations)),
        appendix=[
            configurations(comparison),
            failures(comparison),
            hardware(store, confirmed),
            versions(trial.configuration for trial in first_trials),
            seeds(store, benchmark),
        ],
        listings={
            "Run it again": commands(benchmark),
            "The benchmark file": yaml.safe_dump(benchmark.definition, sort_keys=False),
        },
    )
    return report_parts.html(report)


def estimate(value: Estimate | None) -> str:
    """A number and its interval."""
    if value is None:
        return MISSING_ON_PAGES
    if value.interval is None:
        return number(value.value)
    return f"{number(value.value)} ({number(value.interval[0])}, {number(value.interval[1])})"


QUALITY = "quality"  # titled by what it is of
COLUMNS: dict[str, Callable[[Cell], str]] = {
    "workload": lambda cell: cell.workload,
    "method": lambda cell: cell.method,
    QUALITY: lambda cell: estimate(cell.quality),
    "reached": lambda cell: f"{cell.num_reached} of {cell.num_trained}",
    "failed": lambda cell: str(cell.num_failed),
    "seconds to target": lambda cell: estimate(cell.seconds),
    "passes to target": lambda cell: estimate(cell.passes),
    "steps to target": lambda cell: estimate(cell.steps),
    "sent (MB)": lambda cell: number(cell.wire_bytes, 1e6),
    "peak memory (MB)": lambda cell: number(cell.peak_memory, 1e6),
    "trainable": lambda cell: MISSING_ON_PAGES if math.isnan(cell.trainable_share) else f"{cell.trainable_share:.1%}",
    "tuning trials (failed)": lambda cell: f"{cell.num_tuned} ({cell.num_tuning_failures})",
}


def results(comparison: Comparison) -> Table:
    """Every method on every workload."""
    rows = [[value(cell) for value in COLUMNS.values()] for cell in comparison.cells if cell.num_trained]
    caption = (
        "Medians over confirmations with fresh seeds, with 95 % bootstrap intervals. Tuned on validation data, "
        "measured on test data, unless notes say otherwise; ∞ marks a missed target. Seconds are training time, "
        "without evaluation. "
        "Passes are the samples that the busiest rank passed forward and backward through its network, or its part "
        "of it."
    )
    titles = [comparison.quality_title if name == QUALITY else name for name in COLUMNS]
    return Table("Results", caption, titles, rows, frozenset(titles[2:]))


def score_tables(comparison: Comparison) -> list[Table]:
    """Scores and ranks by seconds and by passes."""
    columns: dict[str, Callable[[MethodScore], str]] = {
        "rank": lambda row: str(row.rank),
        "method": lambda row: row.method,
        "score": lambda row: f"{row.score:.3f}",
        "score, 95 %": lambda row: (
            MISSING_ON_PAGES if row.score_interval is None else "{:.3f} to {:.3f}".format(*row.score_interval)
        ),
        "rank, 95 %": lambda row: (
            MISSING_ON_PAGES if row.rank_interval is None else "{:.0f} to {:.0f}".format(*row.rank_interval)
        ),
        "first with probability": lambda row: MISSING_ON_PAGES if row.first is None else f"{row.first:.0%}",
        "rank without a method": lambda row: _listed(row.rank_without_method),
        "rank without a workload": lambda row: _listed(row.rank_without_workload),
    }
    return [
        Table(
            f"Score by {by} to the target",
            "The AlgoPerf score: the mean of max(0, 4 - r)/3, where r is the time relative to the best method. "
            f"{scored.verdict[0].upper()}{scored.verdict[1:]}.",
            list(columns),
            [[value(row) for value in columns.values()] for row in scored.rows],
            frozenset({"rank", "score"}),
        )
        for by, scored in comparison.scores.items()
    ]


def _listed(ranks: Mapping[str, int]) -> str:
    return ", ".join(f"{left_out}: {rank}" for left_out, rank in ranks.items())


PREDICTED: dict[str, Callable[[Prediction], str]] = {
    "workload": lambda row: row.workload,
    "method": lambda row: row.method,
    "cluster": lambda row: f"{row.cluster}, {row.scaling} scaling",
    "nodes": lambda row: str(row.num_nodes),
    "ranks": lambda row: str(row.num_ranks),
    "step (ms)": lambda row: number(row.step, 1e-3),
    "computing (ms)": lambda row: number(row.compute, 1e-3),
    "exposed (ms)": lambda row: number(row.exposed, 1e-3),
    "epoch (s)": lambda row: number(row.epoch),
    "to the target (s)": lambda row: number(row.to_target),
    "trainings": lambda row: str(row.num_trials),
}


def predictions(comparison: Comparison) -> Table:
    """Predictions for other clusters."""
    rows = [[value(row) for value in PREDICTED.values()] for row in comparison.predictions]
    assumed = dict.fromkeys(words for row in comparison.predictions for words in row.assumptions)
    caption = (
        "Predictions, not measurements: recorded traces, replayed on described clusters. Medians over confirmations; "
        f"exposed is the time per step spent waiting for communication. They assume: {'; '.join(assumed)}."
    )
    return Table("Predictions for other clusters", caption, list(PREDICTED), rows, frozenset(list(PREDICTED)[3:]))


def sections(comparison: Comparison, trainings: Sequence[TrainingCurve]) -> list[tuple[str, str, go.Figure]]:
    """The figures with their titles and captions."""
    if not comparison.confirmations:
        return []
    by = comparison.scored_by
    drawn = [
        ("Quality", f"Every confirmation: {comparison.quality_title}.", figures.quality(comparison)),
        ("Time to target", "Every confirmation; a cross at the top missed the target.", figures.times(comparison, by)),
    ]
    drawn += [
        (title, drawn_curves.caption(comparison, trainings, axis), drawn_curves.curves(comparison, trainings, axis))
        for axis, title in drawn_curves.TITLES.items()
    ]
    if comparison.scores[by].rows:
        drawn += [
            ("Performance profiles", comparison.scores[by].verdict, figures.profiles(comparison, by)),
            ("Scores", "The integral of the profiles, with 95 % intervals.", figures.scores(comparison, by)),
        ]
    if comparison.quality:
        drawn += [
            (
                "Interquartile mean",
                "Quality as a share of the target, over workloads, with a 95 % stratified bootstrap interval. "
                f"Wilcoxon's test over workloads, with Holm's correction: {separation_words(comparison)}.",
                figures.intervals(comparison.quality, comparison.methods, "share of the target"),
            ),
            (
                "Probability of improvement",
                "The probability that a seed of the row's method beats one of the column's, averaged over workloads.",
                figures.improvement(comparison),
            ),
        ]
    if comparison.separation is not None and comparison.separation.is_possible:
        shown = figures.critical_difference(comparison.separation, comparison.methods)
        drawn.append(("Critical difference", "Wilcoxon's test with Holm's correction, over workloads.", shown))
    for cluster, scaling in dict.fromkeys((row.cluster, row.scaling) for row in comparison.predictions):
        caption = f"A prediction for {cluster}, {scaling} scaling; the table of predictions lists its assumptions."
        of_cluster = [row for row in comparison.predictions if (row.cluster, row.scaling) == (cluster, scaling)]
        for value, title in (("to_target", "Predicted time to target"), ("exposed", "Predicted exposed communication")):
            drawn.append((title, caption, figures.predicted(of_cluster, comparison.methods, value)))
    drawn += [
        ("Quality and traffic", TRADEOFF, figures.tradeoff(comparison, "wire_bytes")),
        ("Quality and seconds", TRADEOFF, figures.tradeoff(comparison, "seconds_in_all")),
        ("Tuning", "The best value that a smaller tuning budget would have found.", figures.tuning(comparison)),
        (
            "Tuning, by busy seconds",
            "The same against time spent in trials.",
            figures.tuning(comparison, "busy seconds"),
        ),
        ("Tuning, expected", "The expected best of k trials in random order.", figures.expected(comparison)),
    ]
    return drawn


TRADEOFF = "Medians over confirmations; the line joins the Pareto front."


def separation_words(comparison: Comparison) -> str:
    """The result of the test over workloads, in words."""
    separation = comparison.separation
    if separation is None:
        return f"cannot tell: a test over workloads needs at least {comparing.FEWEST_WORKLOADS} workloads"
    if not separation.is_possible:
        bound = f"{separation.smallest:.3f}"
        return f"cannot separate any pair: with so many methods and so few workloads, p is at least {bound}"
    pairs = [f"{a} and {b} (p = {p:.3f})" for (a, b), p in separation.p.items() if p <= 1 - LEVEL]
    return f"separated: {', '.join(pairs)}" if pairs else "cannot separate any pair"


def equivalence(comparison: Comparison) -> Table:
    """The Bayesian comparison, and Friedman's test."""
    rows = [
        [pair, f"{result.better:.2f}", f"{result.equal:.2f}", f"{result.worse:.2f}"]
        for pair, result in comparison.equivalence.items()
    ]
    caption = (
        "Bayesian signed-rank test over workloads (Benavoli et al. 2017): the probability that the first method is "
        f"better, equal within {comparing.REGION:.0%} of the target, or worse."
    )
    if comparison.separation is not None and comparison.separation.friedman is not None:
        caption += f" Friedman's test of equal methods gives p = {comparison.separation.friedman:.3f}."
    columns = ["methods", "better", "practically equal", "worse"]
    return Table("Practical equivalence", caption, columns, rows, frozenset(columns[1:]))


def configurations(comparison: Comparison) -> Table:
    """The tuned configurations."""
    rows = [
        [cell.workload, cell.method, ", ".join(f"{name} = {value}" for name, value in configuration.items())]
        for cell in comparison.cells
        for configuration in cell.configurations
    ]
    return Table("Tuned configurations", "", ["workload", "method", "configuration"], rows)


def failures(comparison: Comparison) -> Table:
    """Why confirmations failed."""
    rows = [
        [row.workload, row.method, row.study, row.reason] for row in comparison.confirmations if row.state == "failed"
    ]
    return Table("Failed confirmations", "", ["workload", "method", "repeat.seed", "reason"], rows)


def seeds(store: Store, benchmark: BenchmarkRow) -> Table:
    """The seeds of each stage and repeat."""
    used_by: dict[tuple[str, str], set[int]] = {}
    for study in store.studies_of(benchmark):
        own = {trial.seed for trial in store.trials(study)}
        used_by.setdefault((str(study.stage), str(study.repeat)), set()).update(own)
    rows = [[stage, repeat, f"{min(used)} to {max(used)}"] for (stage, repeat), used in used_by.items() if used]
    return Table("Seeds", "Trial n trains with its study's seed plus n.", ["stage", "repeat", "seeds"], rows)


def _confirmed(store: Store, benchmark: BenchmarkRow) -> Sequence[StudyRow]:
    return [study for study in store.studies_of(benchmark) if study.stage == "confirm"]


def commands(benchmark: BenchmarkRow) -> str:
    """The commands that run the benchmark again; trial n of a study trains with the study's seed plus n."""
    return (
        f"# the file below as {benchmark.name}.yaml; its seeds are in it\n"
        f"atoll benchmark {benchmark.name}.yaml --outside\n"
        f"atoll report {benchmark.name} -o {benchmark.name}.html"
    )
