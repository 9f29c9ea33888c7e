"""The answer to a user's question: which method is first to the target of a workload on a cluster, and how surely.

Everything follows from the store: the confirmations of a benchmark are projected to the cluster, and two things make
their times uncertain. Seeds and tunings do; they are resampled, tunings first (`resampling.py`). And predictions do;
each method's is divided by an error drawn from those that predictions had on real links (`PREDICTION_ERRORS`),
independently of the others'. The share of draws in which a method is first is the probability that it is; the answer
is the smallest set of methods that holds the first one in 95 % of the draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atoll.analysis import projection
from atoll.analysis.benchmark_results import BenchmarkResults
from atoll.analysis.cluster import Cluster
from atoll.analysis.confirmations import Confirmation
from atoll.analysis.inference import Estimate
from atoll.analysis.projection import FREE_MESSAGES, SLOWED, Measured
from atoll.analysis.resampling import LEVEL, NUM_RESAMPLES, Array, in_groups, interval, resample
from atoll.analysis.scaling import Scaling
from atoll.storage.export import plain
from atoll.storage.models import BenchmarkRow, ProjectionRow
from atoll.storage.store import Store, StoreError

# Predicted over measured seconds of a step, minus 1: all settings of docs/results/projection.json.
# fmt: off
PREDICTION_ERRORS = (
    -0.003, 0.022, 0.096, -0.046, 0.123, 0.056, 0.014, 0.002, 0.100, 0.020, 0.051, 0.157,
    0.043, 0.080, 0.276, 0.166, 0.149, 0.156, 0.597, 0.220, 0.176, 0.252, 0.603, 0.160,
    -0.084, -0.069, -0.277, -0.076, 0.127, 0.174, -0.267, -0.175, -0.327, -0.143, 0.073, 0.139,
    -0.149, -0.009, 0.036, 0.141, 0.115, 0.083, -0.008, 0.093, 0.095, 0.200, 0.094, -0.008,
    -0.011, -0.002, -0.015, -0.016, 0.650, 0.057, -0.126, -0.076, -0.142, -0.104, 0.181, -0.129,
    -0.186, 0.038, -0.078, 0.023, 0.133, -0.132, -0.016, 0.201, -0.225, 0.168, 0.164, -0.180,
)
# fmt: on
NUM_DRAWS = 4 * NUM_RESAMPLES
# Changes of the cluster under which the answer is given as well: published runs had reached a fraction of their links'
# bandwidth (docs/projection.md), and a rank's speed there is rarely known.
CHANGES = {
    "a network of a quarter of the bandwidth": (0.25, 1.0),
    "a network of four times the bandwidth": (4.0, 1.0),
    "ranks that compute a quarter as fast": (1.0, 0.25),
    "ranks that compute four times as fast": (1.0, 4.0),
}

Groups = Sequence[Sequence[float]]  # a method's seconds to the target: of each tuning, of its seeds


@dataclass(frozen=True)
class Contender:
    """A method in the answer.

    Attributes:
        method: its name in the benchmark.
        seconds: predicted seconds to the target, the median over confirmations; infinite if half of them miss it.
        probability: that it is first.
        num_ranks: that it is predicted for.
        num_reached, num_trained, num_tunings: confirmations that met the target, all that count, and their tunings.
        configurations: hyperparameters of each tuning's best.
    """

    method: str
    seconds: Estimate
    probability: float
    num_ranks: int
    num_reached: int
    num_trained: int
    num_tunings: int
    configurations: list[dict[str, Any]]


@dataclass(frozen=True)
class Recommendation:
    """The answer for a workload on so many nodes of a cluster.

    Attributes:
        benchmark: whose results it follows from.
        contenders: the predicted methods, the most probable one first.
        first: the smallest set of methods that holds the first one with 95 %; empty if that cannot be told.
        verdict: the answer in words.
        if_changed: the answer's set on other clusters, by the change.
        advice: what would make it surer.
        assumptions: of the predictions.
        left_out: methods without a prediction, or with some for a part of their trainings only, with the reason.
    """

    benchmark: str
    workload: str
    cluster: str
    num_nodes: int
    scaling: Scaling
    contenders: list[Contender]
    first: list[str]
    verdict: str
    if_changed: dict[str, list[str]]
    advice: list[str]
    assumptions: list[str]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with null for infinite numbers."""
        return dict(plain(asdict(self)))


def recommend(
    store: Store,
    workload: str,
    cluster: Cluster,
    num_nodes: int,
    scaling: Scaling = "weak",
    *,
    benchmark: str | None = None,
    is_measured: bool = False,
    changes: Mapping[str, tuple[float, float]] = CHANGES,
) -> Recommendation:
    """Which method is first to the target.

    Args:
        store: that holds a benchmark of the workload.
        workload: its name, or its label in the benchmark.
        cluster, num_nodes, scaling: where, and how the trainings grow; see `atoll project`.
        benchmark: its name. Default: the newest one with confirmations of the workload.
        is_measured: whether the cluster's links were measured, as far as one knows.
        changes: of the cluster, under which the answer is given as well: factors of its network's bandwidth and its
            ranks' speed, by their words.

    Raises:
        StoreError: if the store holds no confirmations of the workload.
    """
    row, label = _find(store, workload, benchmark)
    results = BenchmarkResults(store, row)
    trials = projection.confirmed_trials(store, row, label)
    methods = {name: _Trained(results.counting_of(name, label), trials.get(name, [])) for name in results.methods}
    predicted = {name: one.predicted(cluster, num_nodes, scaling) for name, one in methods.items()}
    left_out = {name: " and ".join(found.reasons) for name, found in predicted.items() if found.reasons}
    times = {name: found.groups for name, found in predicted.items() if found.rows}
    assumptions = list(
        dict.fromkeys(words for found in predicted.values() for one in found.rows for words in one.assumptions)
    )
    race = Race(times)
    contenders = [
        Contender(
            method=name,
            seconds=race.seconds(name),
            probability=race.probability[name],
            num_ranks=predicted[name].rows[0].num_ranks,
            num_reached=sum(one.is_reached for one in methods[name].confirmations),
            num_trained=len(methods[name].confirmations),
            num_tunings=len({one.group for one in methods[name].confirmations}),
            configurations=_configurations(results, name, label),
        )
        for name in race.order
    ]
    why_not = _why_not(results, label, left_out, times, assumptions)
    first = [] if why_not else race.first
    elsewhere = {
        words: Race(
            {
                name: one.predicted(_changed(cluster, *change), num_nodes, scaling).groups
                for name, one in methods.items()
            }
        ).first
        for words, change in changes.items()
        if first
    }
    return Recommendation(
        benchmark=row.name,
        workload=label,
        cluster=cluster.name,
        num_nodes=num_nodes,
        scaling=scaling,
        contenders=contenders,
        first=first,
        verdict=why_not or _verdict(race),
        if_changed=elsewhere,
        advice=_advice(results, label, race, cluster, is_told=not why_not, is_measured=is_measured),
        assumptions=[*assumptions, *_own_assumptions(results)],
        left_out=left_out,
    )


class Race:
    """Which method is first, in draws of tunings, seeds and errors of prediction.

    Args:
        times: each method's predicted seconds to the target; methods without any do not take part.
        errors: predicted over measured, minus 1.

    Attributes:
        probability: that a method is first, by its name. They add up to less than 1 where all may miss the target.
        order: the methods, the most probable one first; of equals the one with the smaller median.
        first: the smallest set that holds the first method with 95 %; empty if all may miss the target.

    Example:
        >>> Race({"a": [[1.0, 1.1]], "b": [[9.0, 9.5]]}).first
        ['a']
        >>> Race({"a": [[1.0, 1.1]], "b": [[1.1, 1.0]]}).first
        ['a', 'b']
    """

    def __init__(self, times: Mapping[str, Groups], errors: Sequence[float] = PREDICTION_ERRORS) -> None:
        self._times = {name: in_groups(groups) for name, groups in times.items() if groups}
        rng = np.random.default_rng(0)
        self._drawn = {name: _drawn(values, errors, rng) for name, values in self._times.items()}
        self.probability = _shares_of_first(self._drawn)
        self.order = sorted(self._times, key=lambda name: (-self.probability[name], self._median(name)))
        self.first = self._smallest_set()

    def seconds(self, name: str) -> Estimate:
        """A method's seconds to the target."""
        return Estimate(self._median(name), interval(self._drawn[name]))

    def without_errors(self) -> Race:
        """The same race if predictions were exact."""
        return Race({name: values.tolist() for name, values in self._times.items()}, [0.0])

    def without_luck(self) -> Race:
        """The same race if each method's median were known."""
        return Race({name: [[self._median(name)]] for name in self._times})

    def _median(self, name: str) -> float:
        return float(np.median(self._times[name]))

    def _smallest_set(self) -> list[str]:
        reached = np.cumsum([self.probability[name] for name in self.order])
        enough = np.flatnonzero(reached >= LEVEL)
        return self.order[: enough[0] + 1] if len(enough) else []


def _drawn(values: Array, errors: Sequence[float], rng: np.random.Generator) -> Array:
    """Draws of a method's seconds: the median of resampled confirmations, over an error of prediction."""
    with np.errstate(invalid="ignore"):  # the mean of two infinities
        medians = np.median(resample(values, NUM_DRAWS, rng), axis=-1)
    return np.asarray(medians / (1.0 + rng.choice(np.asarray(errors), NUM_DRAWS)))


def _shares_of_first(drawn: Mapping[str, Array]) -> dict[str, float]:
    """The share of draws in which each method has the least finite time; equals share theirs."""
    if not drawn:
        return {}
    table = np.array(list(drawn.values()))
    is_least = (table == table.min(axis=0)) & np.isfinite(table)
    return dict(zip(drawn, (is_least / np.maximum(is_least.sum(axis=0), 1)).mean(axis=1).tolist(), strict=True))


@dataclass(frozen=True)
class _Predicted:
    """A method's projections at one scale: rows, seconds by tuning, and the reasons for what is missing."""

    rows: list[ProjectionRow]
    groups: list[list[float]]
    reasons: list[str]


@dataclass(frozen=True)
class _Trained:
    """A method's confirmations that count, and the recorded steps of those that are complete."""

    confirmations: Sequence[Confirmation]
    recorded: Sequence[Measured | str]

    def predicted(self, cluster: Cluster, num_nodes: int, scaling: Scaling) -> _Predicted:
        """Its times on a cluster. A training that failed or missed the target never meets it there."""
        rows: dict[int, ProjectionRow] = {}
        reasons = [one for one in self.recorded if isinstance(one, str)]
        for one in self.recorded:
            if isinstance(one, Measured):
                found, missing = projection.project(one, cluster, [num_nodes], scaling)
                rows |= {row.trial_id: row for row in found}
                reasons += missing
        if any(FREE_MESSAGES in row.assumptions for row in rows.values()):
            return _Predicted([], [], [f"its prediction would be a lower bound, as {FREE_MESSAGES}"])
        groups: dict[str, list[float]] = {}
        for trained in self.confirmations:
            row = rows.get(trained.trial_id or 0)
            if row is not None or trained.state == "failed":
                seconds = None if row is None else row.seconds_to_target
                groups.setdefault(trained.group, []).append(np.inf if seconds is None else seconds)
        reasons = list(dict.fromkeys(reasons))
        if not rows:
            return _Predicted([], [], reasons or ["all of its confirmations failed"])
        if reasons:
            reasons = [f"{len(rows)} of {len(self.recorded)} trainings are predicted: {' and '.join(reasons)}"]
        return _Predicted(list(rows.values()), list(groups.values()), reasons)


def _find(store: Store, workload: str, name: str | None) -> tuple[BenchmarkRow, str]:
    """The benchmark, and the workload's label in it."""
    known: list[str] = []
    for row in store.benchmarks() if name is None else [store.benchmark(name)]:
        confirmed = [study for study in store.studies_of(row) if study.stage == "confirm"]
        for study in confirmed:
            if workload in (study.workload_label, study.workload):
                return row, str(study.workload_label)
        known += [str(study.workload_label) for study in confirmed]
    holds = "no benchmark in the store confirms" if name is None else f"benchmark {name} does not confirm"
    raise StoreError(
        f"{holds} a training of {workload!r}, and an answer follows from such results alone; there are those of "
        f"{', '.join(dict.fromkeys(known)) or 'no workload'}. Put your workload into a benchmark file, such as that of "
        "`atoll benchmark all_methods --scale laptop --show`, and run it"
    )


def _configurations(results: BenchmarkResults, method: str, workload: str) -> list[dict[str, Any]]:
    """The hyperparameters that were chosen, a tuning's at a time."""
    chosen = {int(one.group): one.trial - 1 for one in results.counting_of(method, workload) if one.trial_id}
    studies = [s for s in results.studies if (s.method_label, s.workload_label) == (method, workload)]
    confirmed = {study.repeat or 0: study.definition["confirm"] for study in studies if study.stage == "confirm"}
    return [confirmed[n]["configurations"][place] for n, place in sorted(chosen.items()) if n in confirmed]


def _changed(cluster: Cluster, bandwidth: float, speed: float) -> Cluster:
    link = cluster.network
    faster = link.model_copy(update={"gigabytes_per_second": bandwidth * link.gigabytes_per_second})
    return cluster.model_copy(update={"network": faster, "speed": speed * cluster.speed})


# Words.


def _why_not(
    results: BenchmarkResults,
    workload: str,
    left_out: Mapping[str, str],
    times: Mapping[str, Groups],
    assumptions: Sequence[str],
) -> str | None:
    """The reason why there is no answer at all; None if there is one."""
    if results.targets.get(workload) is None:
        return f"cannot tell: {workload} has no target in {results.name}, so there is no time to it"
    if workload not in results.finished_workloads():
        return f"cannot tell yet: {results.progress}, and {workload} is not finished by all methods"
    if not times:
        return f"cannot tell: no method can be predicted there: {next(iter(left_out.values()))}"
    if SLOWED in assumptions:
        return f"cannot tell: {SLOWED}; train with one torch thread per rank, or on cores of their own"
    return None


def _verdict(race: Race) -> str:
    if not race.first:
        missed = 1.0 - sum(race.probability.values())
        return f"cannot tell: with a probability of {missed:.0%} no method meets the target in half of its trainings"
    if len(race.first) == 1:
        return f"{race.first[0]} is first, with a probability of {race.probability[race.first[0]]:.0%}"
    among = ", ".join(f"{name} ({race.probability[name]:.0%})" for name in race.first)
    return f"cannot tell which method is first: with 95 % it is one of {among}"


def _own_assumptions(results: BenchmarkResults) -> list[str]:
    sizes = np.abs(PREDICTION_ERRORS)
    words = [
        f"predictions err as {len(sizes)} measured ones on 2 to 4 ranks did (median {np.median(sizes):.0%}, up to "
        f"{sizes.max():.0%}), each method's on its own; on larger clusters the errors are not known"
    ]
    if results.num_tunings == 1:
        words.append("each method was tuned once: the luck of tuning is not in the probabilities")
    return words


def _advice(
    results: BenchmarkResults, workload: str, race: Race, cluster: Cluster, *, is_told: bool, is_measured: bool
) -> list[str]:
    """What to run to be surer, the most useful first."""
    if workload not in results.finished_workloads() and results.targets.get(workload) is not None:
        return [f"finish it: `atoll benchmark FILE --resume` continues {results.name}"]
    advice = []
    again = f"`atoll benchmark FILE --only {workload} --seed 1 --name NAME`"
    if is_told and len(race.first) != 1:
        if len(race.without_errors().first) != 1:
            advice.append(
                f"even exact predictions would not separate them: set more `repeats` and `seeds`, or repeat it: {again}"
            )
        if len(race.without_luck().first) != 1:
            studies = ", ".join(f"{results.name}.{workload}.{name}.confirm-0" for name in race.first[:2])
            advice.append(
                "predictions are not exact enough to separate them: measure their steps on the cluster, with `atoll "
                f"export` and `atoll train`; their configurations are in {studies or 'its studies'}, and so on"
            )
    elif is_told and results.num_tunings == 1:
        advice.append(f"include the luck of tuning: set more `repeats`, or repeat it with {again}")
    if not is_measured:
        advice.append(
            "run `atoll measure-cluster -o mine.yaml` on its nodes and pass --cluster mine.yaml: the bandwidth that "
            "MPI reaches decides, not that of the link"
        )
    if cluster.speed == 1.0:
        advice.append("measure a step on one of its ranks and pass --speed: a rank is assumed as fast as those here")
    return advice
