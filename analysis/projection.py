"""Predicts step time, epoch time and time to target of recorded trials on a described cluster.

A trial's traces are replayed there (`replay.py`). Weak scaling keeps the measured work per rank and step, and the
measured epochs to the target; strong scaling keeps the global batch and the steps. Methods whose ranks hold parts of
one network keep their ranks. These are predictions, not measurements: each lists its assumptions.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from atoll.analysis import confirmations
from atoll.analysis.cluster import Cluster
from atoll.analysis.confirmations import Compared, Confirmation
from atoll.analysis.formatting import counted
from atoll.analysis.replay import MAX_RANKS, CannotReplay
from atoll.analysis.scaling import Recorded, Scaling, batch_size, num_training, scaled
from atoll.storage.models import BenchmarkRow, ProgressRow, ProjectionRow, StudyRow, TrialRow
from atoll.storage.store import Store, StoreError

# Assumptions under which predicted seconds do not compare: they are too long, or no more than a lower bound.
SLOWED = "the measured ranks shared cores or a GPU, so they computed more slowly than they could"
FREE_MESSAGES = "messages that no rank waits for take no time"


@dataclass(frozen=True, kw_only=True)
class Measured(Recorded):
    """A recorded trial.

    Attributes:
        trial_id: in the store.
        method, workload: names in its study or benchmark.
        steps_to_target: None if it missed the target or there is none.
        oversubscribed: whether its ranks shared cores or a GPU, and their computing was timed by the wall's clock.
    """

    trial_id: int
    method: str
    workload: str
    steps_to_target: float | None
    oversubscribed: bool


@dataclass(frozen=True)
class Projected:
    """Predictions for trials, and the reasons why some have none."""

    trial_ids: list[int]
    rows: list[ProjectionRow]
    left_out: list[str]


@dataclass(frozen=True)
class Prediction:
    """Medians over the trials of a method on a workload, at one scale of a cluster; times are seconds.

    Attributes:
        step, compute, exposed: a whole step, its computing, and its waiting for communication.
        epoch: an epoch of training.
        to_target: infinite if half of the trials miss the target, NaN without a target.
        assumptions: in words.
    """

    method: str
    workload: str
    cluster: str
    scaling: str
    num_nodes: int
    num_ranks: int
    step: float
    compute: float
    exposed: float
    epoch: float
    to_target: float
    num_trials: int
    assumptions: list[str]


def project_all(
    store: Store, subject: StudyRow | BenchmarkRow, cluster: Cluster, nodes: Sequence[int], scaling: Scaling
) -> Projected:
    """Project each method's best trial of a study, or the confirmations of a benchmark that count."""
    trials, left_out = _read(store, subject)
    rows: list[ProjectionRow] = []
    for measured in trials:
        projected, reasons = project(measured, cluster, nodes, scaling)
        rows += projected
        left_out += [f"{measured.method} on {measured.workload} (trial {measured.trial_id}): {r}" for r in reasons]
    return Projected([measured.trial_id for measured in trials], rows, list(dict.fromkeys(left_out)))


def predictions(
    store: Store, subject: StudyRow | BenchmarkRow, projections: Sequence[ProjectionRow] | None = None
) -> list[Prediction]:
    """The predictions for a study or benchmark, of these projections. Default: all that the store holds of it."""
    if isinstance(subject, StudyRow):
        workload = subject.workload_label or subject.workload
        labels = {trial.id: (method, workload) for method, trial in _best(store, subject).items()}
        if projections is None:
            projections = store.projections(labels)
        return summarise(projections, labels, {workload} if subject.target is not None else set())
    counting = [row for row in confirmations.read(store, subject) if row.is_chosen]
    with_target = {str(study.workload_label) for study in store.studies_of(subject) if study.target is not None}
    if projections is None:
        projections = store.projections(row.trial_id for row in counting if row.trial_id is not None)
    return of_confirmations(counting, projections, with_target)


def of_confirmations(
    rows: Sequence[Confirmation], projections: Iterable[ProjectionRow], with_target: Container[str]
) -> list[Prediction]:
    """Medians over confirmations. Those that failed never meet the target."""
    labels = {row.trial_id: (row.method, row.workload) for row in rows if row.trial_id is not None}
    failed = Counter((row.method, row.workload) for row in rows if row.state == "failed")
    return summarise(projections, labels, with_target, failed)


def summarise(
    rows: Iterable[ProjectionRow],
    labels: Mapping[int, tuple[str, str]],
    with_target: Container[str],
    failed: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> list[Prediction]:
    """Medians by method, workload and scale.

    Args:
        rows: projections of trials.
        labels: method and workload of each trial.
        with_target: the workloads that have a target.
        failed: the number of failed trials per method and workload, which never meet the target.
    """
    groups: dict[tuple[Any, ...], list[ProjectionRow]] = {}
    for row in rows:
        method, workload = labels[row.trial_id]
        groups.setdefault((workload, row.cluster, row.scaling, method, row.num_nodes), []).append(row)

    def prediction(key: tuple[Any, ...], members: list[ProjectionRow]) -> Prediction:
        workload, cluster, scaling, method, num_nodes = key
        reached = [math.inf if row.seconds_to_target is None else row.seconds_to_target for row in members]
        reached += [math.inf] * failed.get((method, workload), 0)
        return Prediction(
            method=method,
            workload=workload,
            cluster=cluster,
            scaling=scaling,
            num_nodes=num_nodes,
            num_ranks=members[0].num_ranks,
            step=statistics.median(row.step_seconds for row in members),
            compute=statistics.median(row.compute_seconds for row in members),
            exposed=statistics.median(row.exposed_seconds for row in members),
            epoch=statistics.median(row.epoch_seconds for row in members),
            to_target=statistics.median(reached) if workload in with_target else math.nan,
            num_trials=len(members),
            assumptions=list(dict.fromkeys(words for row in members for words in row.assumptions)),
        )

    return [prediction(key, members) for key, members in sorted(groups.items())]


def project(
    measured: Measured, cluster: Cluster, nodes: Sequence[int], scaling: Scaling
) -> tuple[list[ProjectionRow], list[str]]:
    """One trial at several scales, and the reasons why some scales have no prediction."""
    rows, reasons = [], []
    g = cluster.ranks_per_node
    for num_nodes in nodes if measured.grows else [math.ceil(measured.num_ranks / g)]:
        try:
            rows.append(_project(measured, cluster, num_nodes, scaling))
        except CannotReplay as reason:
            reasons.append(str(reason))
    return rows, list(dict.fromkeys(reasons))


def _project(measured: Measured, cluster: Cluster, num_nodes: int, scaling: Scaling) -> ProjectionRow:
    reached = measured.steps_to_target
    at = scaled(measured, cluster, num_nodes, scaling, until=reached)
    return ProjectionRow(
        trial_id=measured.trial_id,
        cluster=cluster.name,
        scaling=scaling,
        num_nodes=num_nodes,
        num_ranks=at.num_ranks,
        grows=measured.grows,
        step_seconds=at.replayed.step,
        compute_seconds=at.replayed.compute,
        exposed_seconds=at.replayed.exposed,
        epoch_seconds=at.seconds(measured.steps_per_epoch),
        steps_to_target=None if reached is None else at.steps(reached),
        seconds_to_target=None if reached is None else at.seconds(reached),
        assumptions=assumptions(measured, cluster, at.num_ranks, scaling),
        description=cluster.model_dump(),
    )


@dataclass(frozen=True)
class _Scale:
    """A trial, and where it is projected to."""

    measured: Measured
    cluster: Cluster
    num_ranks: int
    scaling: Scaling

    @property
    def posts(self) -> Iterator[Sequence[Any]]:
        """The recorded events with which operations start."""
        patterns = (pattern for trace in self.measured.traces for pattern in trace["patterns"])
        return (event for pattern in patterns for event in pattern["events"] if event[0] == "post")


def _assumes_speed(at: _Scale) -> str:
    return f"a rank computes {at.cluster.speed:g} times as fast as the measured one; evaluation is not included"


def _assumes_scaling(at: _Scale) -> str:
    num_ranks = at.measured.num_ranks
    if not at.measured.grows:
        return f"the method stays on the {counted(num_ranks, 'rank')} that were measured"
    if at.scaling == "weak":
        return (
            f"samples per rank and epochs to the target are those of {counted(num_ranks, 'rank')}, although the "
            "global batch grows with the ranks"
        )
    return f"steps to the target are those of {counted(num_ranks, 'rank')}; computing shrinks with the samples per rank"


def _assumes_costs(at: _Scale) -> str:
    overlap = "overlaps with computing" if at.cluster.overlaps else "begins only when a rank waits for it"
    return f"sums use {at.cluster.algorithm} and cost latency and bandwidth; communication {overlap}"


def _assumes_followed_ranks(at: _Scale) -> str | None:
    has_center = at.measured.traces[0].get("service") is not None
    if not at.measured.grows or has_center or at.num_ranks <= MAX_RANKS:
        return None
    return f"only {MAX_RANKS} ranks are simulated; the slowest of all may be slower"


def _assumes_recorded_steps(at: _Scale) -> str | None:
    runs = (run for trace in at.measured.traces for _, segment in trace["segments"] for run in segment)
    return "rare kinds of steps were not recorded" if any(place < 0 for place, _ in runs) else None


def _assumes_fixed_groups(at: _Scale) -> str | None:
    sizes = sorted({event[3] for event in at.posts if event[2] == "part"})
    if not at.measured.grows or not sizes:
        return None
    return f"groups of ranks do not grow: they have {' or '.join(map(str, sizes))}"


def _assumes_free_messages(at: _Scale) -> str | None:
    has_messages = any(len(event) > 5 and event[2] != "center" for event in at.posts)
    return FREE_MESSAGES if at.measured.grows and has_messages else None


def _assumes_own_cores(at: _Scale) -> str | None:
    if not at.measured.oversubscribed:
        return None
    return SLOWED


def _assumes_own_time(at: _Scale) -> str | None:
    if at.measured.traces[0].get("clock") != "thread":
        return None
    return (
        "the measured ranks shared cores: computing is the time of their own threads, without waiting for data or "
        "memory's slowdown by each other's work"
    )


_RULES: tuple[Callable[[_Scale], str | None], ...] = (
    _assumes_speed,
    _assumes_scaling,
    _assumes_costs,
    _assumes_followed_ranks,
    _assumes_recorded_steps,
    _assumes_fixed_groups,
    _assumes_free_messages,
    _assumes_own_cores,
    _assumes_own_time,
)


def assumptions(measured: Measured, cluster: Cluster, num_ranks: int, scaling: Scaling) -> list[str]:
    """The assumptions of a prediction, in words."""
    at = _Scale(measured, cluster, num_ranks, scaling)
    return [assumption for rule in _RULES if (assumption := rule(at)) is not None]


# Reading the store.


def _read(store: Store, subject: StudyRow | BenchmarkRow) -> tuple[list[Measured], list[str]]:
    """The trials to project, and the reasons why others cannot be.

    Raises:
        StoreError: if no trial can be projected.
    """
    read = _of_benchmark(store, subject) if isinstance(subject, BenchmarkRow) else _of_study(store, subject)
    trials_or_reasons = list(read)
    measured = [trial for trial in trials_or_reasons if isinstance(trial, Measured)]
    left_out = [reason for reason in trials_or_reasons if isinstance(reason, str)]
    if not measured:
        raise StoreError(
            f"{subject.name} holds nothing to project: a projection needs complete trials whose steps were recorded"
            + "".join(f"\n  {reason}" for reason in dict.fromkeys(left_out))
        )
    return measured, left_out


def _best(store: Store, study: StudyRow) -> dict[str, TrialRow]:
    """The best trial of each method."""
    best: dict[str, TrialRow] = {}
    for trial in store.leaderboard(study):
        best.setdefault(trial.configuration["method"], trial)
    return best


def _of_study(store: Store, study: StudyRow) -> Iterator[Measured | str]:
    """Each method's best trial, or the reason why it cannot be projected."""
    best = _best(store, study)
    curves = confirmations.curves(store, [trial.id for trial in best.values()])
    aim = confirmations.compared(study)
    for method, trial in best.items():
        steps_on_target = (row.step for row in curves[trial.id] if aim.meets(_seen(study, aim, row)))
        yield _measured(store, study, trial, method, curves[trial.id], next(steps_on_target, None))


def _seen(study: StudyRow, aim: Compared, report: ProgressRow) -> float:
    """What a report has of the value that the target is of, the metric on validation data; NaN without it."""
    if not aim.is_metric:
        return aim.of(report.metrics)
    is_metric = study.curve_metric in (None, study.metric)
    return report.metric if is_metric and report.metric is not None else math.nan


def _of_benchmark(store: Store, benchmark: BenchmarkRow) -> Iterator[Measured | str]:
    """The complete confirmations that count, or the reasons why they cannot be projected."""
    return (measured for _, measured in _confirmed(store, benchmark))


def confirmed_trials(store: Store, benchmark: BenchmarkRow, workload: str) -> dict[str, list[Measured | str]]:
    """Each method's complete confirmations that count, or the reasons why they cannot be projected."""
    trials: dict[str, list[Measured | str]] = {}
    for row, measured in _confirmed(store, benchmark, workload):
        trials.setdefault(row.method, []).append(measured)
    return trials


def _confirmed(
    store: Store, benchmark: BenchmarkRow, workload: str | None = None
) -> Iterator[tuple[Confirmation, Measured | str]]:
    """The complete confirmations that count, of one workload or all, and their recorded steps."""
    rows = [
        row
        for row in confirmations.read(store, benchmark)
        if row.is_chosen and row.state == "complete" and workload in (None, row.workload)
    ]
    studies = {study.id: study for study in store.studies_of(benchmark) if study.stage == "confirm"}
    trials = {trial.id: trial for study in studies.values() for trial in store.trials(study)}
    wanted = [trials[row.trial_id] for row in rows if row.trial_id is not None]
    curves = confirmations.curves(store, [trial.id for trial in wanted])
    for row, trial in zip(rows, wanted, strict=True):
        study = studies[trial.study_id]
        yield row, _measured(store, study, trial, row.method, curves[trial.id], row.steps if row.is_reached else None)


def _measured(
    store: Store, study: StudyRow, trial: TrialRow, method: str, curve: Sequence[ProgressRow], steps: float | None
) -> Measured | str:
    traces = [row.content for row in store.traces(trial.id)]
    label = f"{method}, trial {trial.number} of {study.name}"
    if not traces or not curve:
        return (
            f"{label}: its steps were not recorded, as in trials that communicate through NCCL and those of older "
            "versions of atoll"
        )
    if traces[0]["grows"] and traces[0]["num_ranks"] == 1:
        return f"{label}: one rank has nothing to communicate; train on at least two"
    return Measured(
        trial_id=trial.id,
        method=method,
        workload=study.workload_label or study.workload,
        traces=traces,
        steps_per_epoch=max(1, curve[-1].step // max(1, curve[-1].epoch)),
        batch_size=batch_size(trial.configuration["hyperparameters"], num_training(traces)),
        steps_to_target=steps,
        oversubscribed=bool(trial.oversubscribed) and traces[0].get("clock") != "thread",
    )
